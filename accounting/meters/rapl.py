"""Energy of the processors and their memory, from RAPL through the kernel's powercap files.

Zones, files and units: the kernel's Documentation/power/powercap/powercap.rst. `energy_uj` counts microjoules
up to `max_energy_range_uj` and starts over. What is summed: every zone `package-*` and every zone `dram`. Not
`core` and `uncore`, which are parts of a package; not `psys`, the whole board with the packages in it, unless
there is nothing else; not the zones of intel-rapl-mmio, the same packages by another way. AMD's processors
appear under the same names, without dram.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")

NO_RAPL = (
    "NO_RAPL",
    "{root} has no RAPL zones (as in most virtual machines): give host.idle_w, to have an estimate instead",
)
NO_PERMISSION = (
    "NO_PERMISSION",
    "{path} can be read by root only (CVE-2020-8694): run joulegate as root, let its group read the file"
    " (chgrp, chmod g+r, lasting by a udev rule), or set host.source to estimate",
)
READ_FAILED = ("READ_FAILED", "{path} cannot be read: {why}")


class HostError(Exception):
    """The host's energy cannot be read. The message says what to do."""

    def __init__(self, fault: tuple[str, str], **words: object) -> None:
        self.code, message = fault
        super().__init__(message.format(**words))


@dataclass
class _Zone:
    name: str
    path: Path
    range_uj: int
    last_uj: int


class Rapl:
    """The sum over the zones since it was made. Raises HostError where there are none that can be read."""

    def __init__(self, root: Path = POWERCAP) -> None:
        named = {path: _text(path / "name") for path in sorted(root.glob("intel-rapl:*"))}
        chosen = {path: name for path, name in named.items() if name.startswith("package") or name == "dram"}
        if not any(name.startswith("package") for name in chosen.values()):
            chosen = {path: name for path, name in named.items() if name == "psys"} or chosen
        if not chosen:
            raise HostError(NO_RAPL, root=root)
        self._zones = [
            _Zone(name, path, _number(path / "max_energy_range_uj"), _number(path / "energy_uj"))
            for path, name in chosen.items()
        ]
        self._energy_uj = 0

    @property
    def zones(self) -> list[str]:
        """Names of the zones that are summed."""
        return [zone.name for zone in self._zones]

    def read_uj(self) -> int:
        """Microjoules since the start. To be called more often than a counter goes round (many minutes)."""
        for zone in self._zones:
            now_uj = _number(zone.path / "energy_uj")
            step_uj = now_uj - zone.last_uj
            self._energy_uj += step_uj if step_uj >= 0 else step_uj + zone.range_uj
            zone.last_uj = now_uj
        return self._energy_uj


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except PermissionError as error:
        raise HostError(NO_PERMISSION, path=path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(READ_FAILED, path=path, why=error) from error


def _number(path: Path) -> int:
    text = _text(path)
    try:
        return int(text)
    except ValueError as error:
        raise HostError(READ_FAILED, path=path, why=f"{text[:40]!r} is no number") from error
