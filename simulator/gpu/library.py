"""Compiles nvml.c into a libnvidia-ml.so.1, in a directory of the caller's choice.

The library reads the board that JOULEGATE_SIM_BOARD names, else the file `board` in its own directory; so
`Board.create(directory / "board", ...)` and `build(directory)` together are a machine with simulated GPUs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SONAME = "libnvidia-ml.so.1"
SOURCE = Path(__file__).with_name("nvml.c")
FLAGS = ("-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-pthread", f"-Wl,-soname,{SONAME}")


class LibraryError(Exception):
    """The simulated NVML library could not be compiled; the message says what to do."""


def build(directory: Path) -> Path:
    """The path of the library in `directory`, compiled if it is not there or nvml.c has changed.

    Any number of processes may do this at once: each compiles a file of its own and renames it into place.
    Raises LibraryError without a C compiler or when it fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    library, stamp = directory / SONAME, directory / f"{SONAME}.source"
    source_hash = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode()).hexdigest()
    if library.exists() and stamp.exists() and stamp.read_text() == source_hash:
        return library
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise LibraryError("the simulated GPU needs a C compiler: install gcc or clang, or set CC")
    with tempfile.TemporaryDirectory(dir=directory, prefix=".build-") as scratch:
        compiled, note = Path(scratch, SONAME), Path(scratch, stamp.name)
        command = [compiler, *FLAGS, "-o", str(compiled), str(SOURCE), "-ldl"]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise LibraryError(f"the C compiler {compiler} does not start: {error}") from error
        if result.returncode != 0:
            raise LibraryError(f"{' '.join(command)} failed:\n{result.stderr.strip()}")
        note.write_text(source_hash)
        compiled.replace(library)
        note.replace(stamp)  # second: a stamp without its library would keep an old one in use
    return library
