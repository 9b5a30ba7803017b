"""The host's energy: RAPL from a tree of powercap files, or an estimate that says it is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from accounting.events import CounterReads, MeterDown, MeterUp
from accounting.meters.contract import MeterEvent
from accounting.meters.host import HostMeter, HostSource
from accounting.meters.rapl import HostError, Rapl
from tests.accounting.test_service import HandClock

RANGE_UJ = 262_143_328_850
"""max_energy_range_uj as on many a Xeon."""

XEONS = {
    "intel-rapl:0": ("package-0", 1_000_000),
    "intel-rapl:0:0": ("core", 9_000_000),
    "intel-rapl:0:1": ("dram", 50_000),
    "intel-rapl:1": ("package-1", 2_000_000),
    "intel-rapl:1:0": ("dram", 70_000),
    "intel-rapl:2": ("psys", 77_000_000),
    "intel-rapl-mmio:0": ("package-0", 1_000_000),
}


class Tree:
    """A directory like /sys/class/powercap."""

    def __init__(self, root: Path, zones: dict[str, tuple[str, int]]) -> None:
        self.root = root
        root.mkdir()
        for zone, (name, energy_uj) in zones.items():
            (root / zone).mkdir()
            (root / zone / "name").write_text(name + "\n")
            (root / zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
            self.set(zone, energy_uj)

    def set(self, zone: str, energy_uj: int) -> None:
        (self.root / zone / "energy_uj").write_text(f"{energy_uj}\n")

    def add(self, zone: str, more_uj: int) -> None:
        now_uj = int((self.root / zone / "energy_uj").read_text())
        self.set(zone, (now_uj + more_uj) % RANGE_UJ)


@pytest.fixture
def xeons(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "powercap", XEONS)


def test_packages_and_their_memory_are_summed_and_nothing_twice(xeons: Tree) -> None:
    rapl = Rapl(xeons.root)
    assert sorted(rapl.zones) == ["dram", "dram", "package-0", "package-1"]
    for zone, more_uj in zip(XEONS, (100, 10, 7, 200, 5, 10_000, 100), strict=True):
        xeons.add(zone, more_uj)
    assert rapl.read_uj() == 100 + 7 + 200 + 5


def test_the_whole_board_counts_only_where_there_is_nothing_else(tmp_path: Path) -> None:
    assert Rapl(Tree(tmp_path / "p", {"intel-rapl:0": ("psys", 1)}).root).zones == ["psys"]


def test_dies_of_one_package_count_each(tmp_path: Path) -> None:
    zones = {"intel-rapl:0": ("package-0-die-0", 1), "intel-rapl:1": ("package-0-die-1", 1)}
    assert len(Rapl(Tree(tmp_path / "p", zones).root).zones) == 2


def test_a_counter_that_goes_round_goes_on(xeons: Tree) -> None:
    xeons.set("intel-rapl:0", RANGE_UJ - 40)
    rapl = Rapl(xeons.root)
    xeons.set("intel-rapl:0", 60)
    assert rapl.read_uj() == 100
    xeons.set("intel-rapl:0", 70)
    assert rapl.read_uj() == 110


def test_without_rapl_it_is_said_what_can_be_had_instead(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"host\.idle_w") as error:
        Rapl(tmp_path / "nothing here")
    assert error.value.code == "NO_RAPL"


def test_files_for_root_only_are_told_with_what_to_do(xeons: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(xeons.root / "intel-rapl:1" / "energy_uj", monkeypatch)
    with pytest.raises(HostError, match="udev") as error:
        Rapl(xeons.root)
    assert error.value.code == "NO_PERMISSION"


def forbid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody read this file. Root reads whatever the mode is: then the read itself is made to fail."""
    path.chmod(0)
    if os.geteuid() == 0:
        read_text = Path.read_text

        def refused(self: Path, *args: str | None) -> str:
            if self == path and not path.stat().st_mode & 0o400:
                raise PermissionError(13, "Permission denied", str(self))
            return read_text(self, *args)

        monkeypatch.setattr(Path, "read_text", refused)


class Host:
    """A host's meter, a clock to set, and what was said."""

    def __init__(
        self,
        root: Path,
        source: HostSource,
        idle_w: float | None = None,
        busy_w: float = 0.0,
        proc_stat: Path = Path("/proc/stat"),
    ) -> None:
        self.clock = HandClock(100.0)
        self.meter = HostMeter(
            self.clock, "n1", source=source, idle_w=idle_w, busy_w=busy_w, powercap=root, proc_stat=proc_stat
        )
        self.meter.start()
        self.events: list[MeterEvent] = []

    def after(self, seconds: float) -> MeterEvent:
        self.clock.add_us(int(seconds * 1e6))
        said = list(self.meter.drain())
        self.events += said
        assert len(said) == 1
        return said[0]


def energy(event: MeterEvent) -> tuple[int, int]:
    """Time and value of a read."""
    assert isinstance(event, CounterReads)
    return event.t_hi_us[-1], event.energy_mj[-1]


def test_rapl_is_read_once_a_second_as_the_host(xeons: Tree) -> None:
    host = Host(xeons.root, "auto")
    up = host.after(0)
    assert isinstance(up, MeterUp)
    assert (up.gpu, up.method) == ("host:n1", "rapl")
    assert host.meter.drain() == ()
    for second in range(1, 4):
        xeons.add("intel-rapl:0", 80_000_000)
        assert energy(host.after(1)) == (up.t_us + second * 1_000_000, 80_000 * second)


def test_a_read_tells_the_value_until_just_before_it_too(xeons: Tree) -> None:
    host = Host(xeons.root, "rapl")
    host.after(0)
    host.after(1)
    xeons.add("intel-rapl:0", 5_000_000)
    event = host.after(1)
    assert isinstance(event, CounterReads)
    assert event.energy_mj == [0, 5_000]
    assert event.t_lo_us[1] == event.t_hi_us[1] == host.clock.now_us()
    assert event.t_hi_us[0] == event.t_lo_us[1] - 1


def test_while_requests_run_it_is_read_more_often(xeons: Tree) -> None:
    host = Host(xeons.root, "rapl")
    host.after(0)
    host.meter.set_busy(True)
    for _ in range(3):
        host.after(0.1)


def test_a_constant_estimate_says_that_it_is_one(tmp_path: Path) -> None:
    host = Host(tmp_path / "nothing", "auto", idle_w=150.0)
    up = host.after(0)
    assert isinstance(up, MeterUp)
    assert (up.method, up.device) == ("estimate", "estimate: 150 W")
    assert energy(host.after(2))[1] == 300_000


def test_an_estimate_follows_the_processors(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1 1 1\n")
    host = Host(tmp_path / "nothing", "estimate", idle_w=100.0, busy_w=200.0, proc_stat=stat)
    host.after(0)
    stat.write_text("cpu  175 0 100 825 0 0 0 0 0 0\ncpu0 1 1 1 1\n")  # three quarters busy
    assert energy(host.after(1))[1] == 250_000
    stat.write_text("cpu  175 0 100 925 0 0 0 0 0 0\ncpu0 1 1 1 1\n")  # idle, waiting for disks included
    assert energy(host.after(1))[1] == 350_000


def test_this_machines_own_processors_can_be_looked_at(tmp_path: Path) -> None:
    host = Host(tmp_path / "nothing", "estimate", idle_w=10.0, busy_w=1.0)
    host.after(0)
    assert 10_000 <= energy(host.after(1))[1] <= 11_000


def test_without_either_it_is_down_told_once_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path / "powercap", "auto")
    down = host.after(0)
    assert isinstance(down, MeterDown)
    assert (down.code, down.gpu) == ("NO_RAPL", "host:n1")
    host.clock.add_us(10_000_000)
    assert list(host.meter.drain()) == []
    tree = Tree(tmp_path / "powercap", XEONS)
    up = host.after(10)
    assert isinstance(up, MeterUp)
    forbid(tree.root / "intel-rapl:0" / "energy_uj", monkeypatch)
    down = host.after(1)
    assert isinstance(down, MeterDown)
    assert down.code == "NO_PERMISSION"
    (tree.root / "intel-rapl:0" / "energy_uj").chmod(0o444)
    assert isinstance(host.after(10), MeterUp)
    tree.add("intel-rapl:0", 3_000_000)
    assert energy(host.after(1))[1] == 3_000  # summed anew
