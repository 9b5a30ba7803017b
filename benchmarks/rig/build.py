"""Compiles the rig into the cache, once per version of its sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = tuple(sorted(HERE.glob("*.c")))
FLAGS = ("-O2", "-std=c11", "-Wall", "-Wextra")


class RigError(Exception):
    """The rig could not be built or does not answer; the message says why."""


def cache() -> Path:
    """Where what is built and installed once is kept: $JOULEGATE_CACHE, or joulegate in the user's cache."""
    named = os.environ.get("JOULEGATE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "joulegate"


def build(directory: Path | None = None) -> Path:
    """The path of the rig, compiled if it is not there. Raises RigError without a C compiler or if it fails.

    Any number of processes may do this at once: each compiles a file of its own and renames it into place.
    """
    parts = [*(path.read_bytes() for path in (*SOURCES, HERE / "rig.h")), " ".join(FLAGS).encode()]
    name = f"rig-{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}"
    program = (directory or cache()) / name
    if program.exists():
        return program
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RigError("the rig needs a C compiler: install gcc or clang, or set CC")
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent, prefix=".build-") as scratch:
        compiled = Path(scratch, name)
        command = [compiler, *FLAGS, "-o", str(compiled), *map(str, SOURCES)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RigError(f"{' '.join(command)} failed:\n{result.stderr.strip()}")
        compiled.replace(program)
    return program
