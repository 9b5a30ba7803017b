"""A disk of a few MB that can be filled: a tmpfs of its own. Needs the right to mount, which root has."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILLER = "filler"


class NoDisk(Exception):
    """It cannot be mounted here."""


@contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """Mounted on `directory`. Raises NoDisk."""
    directory.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "joulegate-small", str(directory)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        raise NoDisk(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte more fits inside."""
    filler = disk / FILLER
    with filler.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
    try:
        yield
    finally:
        os.unlink(filler)
