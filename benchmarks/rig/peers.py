"""Other proxies: where they come from, each installed once into the cache by its ordinary package manager.

They come from where pip, npm and apt are configured to look. A peer that cannot be installed is said to be
missing, with the reason.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rig.build import cache

INSTALL_S = 600.0


class PeerMissing(Exception):
    """The peer is not there and could not be installed; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """`install` fills an empty directory. Raises PeerMissing."""

    name: str
    version: str
    install: Callable[[Path], None]

    @property
    def directory(self) -> Path:
        return cache() / "peers" / f"{self.name}-{self.version.replace(' ', '-')}"

    @property
    def installed(self) -> bool:
        return (self.directory / ".complete").exists()

    def ensure(self) -> Path:
        """Where it is, installed if it was not. Raises PeerMissing."""
        if not self.installed:
            shutil.rmtree(self.directory, ignore_errors=True)  # what an interrupted run has left
            self.directory.mkdir(parents=True)
            print(f"installing {self.name} {self.version} into {self.directory}", file=sys.stderr, flush=True)
            self.install(self.directory)
            (self.directory / ".complete").touch()
        return self.directory


def _run(command: list[str], directory: Path) -> None:
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissing(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        told = [line for line in words if not line.startswith(("WARNING", "npm warn"))]
        raise PeerMissing(f"{Path(command[0]).name}: {' '.join(told[-1:])[:200]}")


def _pip(requirement: str) -> Callable[[Path], None]:
    def install(directory: Path) -> None:
        _run([sys.executable, "-m", "venv", str(directory)], directory)
        _run([str(directory / "bin" / "pip"), "install", "--quiet", requirement], directory)

    return install


def _portkey(directory: Path) -> None:
    """With the versions of its server library that it was written for: newer ones make it answer 500."""
    wanted = {
        "private": True,
        "dependencies": {"@portkey-ai/gateway": "1.15.2"},
        "overrides": {"hono": "4.9.7", "@hono/node-server": "1.13.5", "@hono/node-ws": "1.2.0"},
    }
    (directory / "package.json").write_text(json.dumps(wanted))
    _run(["npm", "install", "--no-audit", "--no-fund", "--omit=dev", "--ignore-scripts"], directory)


def _nginx(directory: Path) -> None:
    """The system's own where it has one, else Debian's package, unpacked."""
    found = shutil.which("nginx")
    (directory / "usr" / "sbin").mkdir(parents=True)
    if found is not None:
        (directory / "usr" / "sbin" / "nginx").symlink_to(found)
        return
    _run(["apt-get", "download", "nginx"], directory)
    for package in directory.glob("*.deb"):
        _run(["dpkg", "-x", str(package), str(directory)], directory)
    _run([str(directory / "usr" / "sbin" / "nginx"), "-v"], directory)


NGINX = Peer(name="nginx", version="of the system", install=_nginx)
VLLM_ROUTER = Peer(name="vllm-router", version="0.1.17", install=_pip("vllm-router==0.1.17"))
SGLANG_ROUTER = Peer(name="sglang-router", version="0.3.2", install=_pip("sglang-router==0.3.2"))
LITELLM = Peer(name="litellm", version="1.106.2", install=_pip("litellm[proxy]==1.106.2"))
PORTKEY = Peer(name="portkey", version="1.15.2", install=_portkey)
