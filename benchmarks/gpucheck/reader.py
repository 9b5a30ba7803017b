"""Reads one GPU's energy counter as fast as asked, in a process of its own.

    python -m benchmarks.gpucheck.reader --seconds 5 --out reads.npy [--library PATH] [--gpu UUID]

It prints "reading" at its first read. The array has rows of (t_lo_us, t_hi_us, energy_mj), monotonic time.
Ends with status 1 and the error's name where the counter cannot be read.
"""

from __future__ import annotations

import ctypes
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import pynvml

from benchmarks.gpucheck.edges import Reads

PERIOD_US = 500
"""Between reads: far below the shortest update period reported (10 ms)."""


def open_gpu(library: Path | None, uuid: str | None) -> object:
    """Load NVML (the system's, or `library`) and find the GPU; the first one without a UUID."""
    if library is not None:
        pynvml.nvmlLib = ctypes.CDLL(str(library))
    pynvml.nvmlInit()
    if uuid is not None:
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)
    return pynvml.nvmlDeviceGetHandleByIndex(0)


@contextmanager
def reading(seconds: float, library: Path | None, uuid: str | None = None) -> Iterator[list[Reads]]:
    """Read the counter during the block, at most so long; the list has the reads once the block is left."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "reads.npy"
        command = [sys.executable, "-m", __spec__.name, "--seconds", str(seconds), "--out", str(out)]
        command += ["--library", str(library)] if library is not None else []
        command += ["--gpu", uuid] if uuid is not None else []
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        found: list[Reads] = []
        try:
            if not process.stdout.readline():
                raise RuntimeError("the energy counter cannot be read")
            yield found
            process.stdin.close()
            if process.wait(60) != 0:
                raise RuntimeError("the energy counter could not be read to the end")
            rows = np.load(out)
            found.append(Reads(rows[:, 0], rows[:, 1], rows[:, 2]))
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@click.command()
@click.option("--seconds", type=float, required=True, help="At most; the end of standard input ends it too.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--library", type=click.Path(path_type=Path))
@click.option("--gpu", help="UUID; the first GPU without it.")
def main(seconds: float, out: Path, library: Path | None, gpu: str | None) -> None:
    handle = open_gpu(library, gpu)
    read = pynvml.nvmlDeviceGetTotalEnergyConsumption
    try:
        read(handle)
    except pynvml.NVMLError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    print("reading", flush=True)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    rows = []
    until_ns = time.monotonic_ns() + int(seconds * 1e9)
    while (lo_ns := time.monotonic_ns()) < until_ns:
        value = read(handle)
        hi_ns = time.monotonic_ns()
        rows.append((lo_ns // 1000, hi_ns // 1000, value))
        left_s = (lo_ns + PERIOD_US * 1000 - hi_ns) / 1e9
        if selector.select(max(left_s, 0.0)):
            break  # the parent closed our input
    np.save(out, np.asarray(rows, np.int64))


if __name__ == "__main__":
    main()
