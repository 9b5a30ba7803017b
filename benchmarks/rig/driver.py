"""The rig from Python: begins loads and reads counts. The commands are those at the top of main.c."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from benchmarks.rig.build import RigError, build

ANSWER_S = 30.0
POLL_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests in a closed loop: each connection asks again when it has its answer.

    With `interval_us` the engine sends a token each that often, in `lockstep` when the client has got the one
    before. Connections begin within `ramp_ms` and pause for `think_us` between two requests. Of streamed
    requests every `whole_every`-th is not streamed (0: none). `requests` 0: until the load is finished.
    """

    port: int
    connections: int = 1
    requests: int = 0
    tokens: int = 16
    interval_us: int = 0
    ramp_ms: int = 0
    think_us: int = 0
    whole_every: int = 0
    streamed: bool = False
    lockstep: bool = False
    usage: bool = True
    model: str = "m"
    headers: str = ""
    """Lines such as `x-a: b`, separated by |."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """In microseconds; None where nothing was seen."""

    count: int
    p50_us: float | None
    p99_us: float | None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the load has seen since it began; `ok` answers were whole, in order, their own, with usage."""

    t_us: int
    started: int
    ok: int
    bad_status: int
    broken: int
    wrong: int
    no_done: int
    no_usage: int
    chunks: int
    reads: int
    open: int
    peak_open: int
    engine_requests: int
    engine_streams: int
    engine_open: int
    engine_aborted: int
    slow_open: int
    slow_peak_open: int
    slow_closed: int
    slow_failed: int
    whole_us: Latency
    first_us: Latency
    chunk_us: Latency
    first_fault: str

    @property
    def failed(self) -> int:
        return self.bad_status + self.broken + self.wrong + self.no_done + self.no_usage


class Rig:
    """The running rig, pinned to `core` if one is given; use as a context manager."""

    def __init__(self, core: int | None = None) -> None:
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None
        self._read = b""
        self.engine_port = 0

    @property
    def engine_url(self) -> str:
        return f"http://127.0.0.1:{self.engine_port}"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([build()], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._core is not None:
            os.sched_setaffinity(self._process.pid, {self._core})
        self.engine_port = int(self._line(ANSWER_S)["port"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def load(self, load: Load) -> Counts:
        values = {
            key: int(value) if isinstance(value, bool) else value for key, value in asdict(load).items()
        }
        return self._command("load", values)

    def sample(self) -> Counts:
        return self._command("sample")

    def window(self) -> Counts:
        """The counts so far; latencies are counted afresh from here."""
        return self._command("window")

    def finish(self, limit_s: float) -> Counts:
        """Start nothing more; the counts when all under way has ended, or after `limit_s`."""
        return self._command("finish", {"limit_ms": round(limit_s * 1e3)}, ANSWER_S + limit_s)

    def drop(self) -> Counts:
        """Close every connection of the load now."""
        return self._command("drop")

    def cut(self) -> Counts:
        """Break off every stream of the engine."""
        return self._command("cut")

    def slow(self, port: int, connections: int, ramp_s: float, every_s: float) -> Counts:
        """Open connections that never finish a request; each sends a byte every `every_s`."""
        times = {"ramp_ms": round(ramp_s * 1e3), "every_ms": round(every_s * 1e3)}
        return self._command("slow", {"port": port, "connections": connections, **times})

    def slow_end(self) -> Counts:
        return self._command("slow_end")

    def until(self, condition: Callable[[Counts], bool], what: str, deadline_s: float) -> Counts:
        """The first counts that fulfil `condition`. Raises RigError at the deadline."""
        end = time.monotonic() + deadline_s
        while not condition(counts := self.sample()):
            if time.monotonic() > end:
                raise RigError(f"not {what} after {deadline_s:.0f} s: {counts}")
            time.sleep(POLL_S)
        return counts

    def _command(
        self, word: str, values: Mapping[str, object] | None = None, answer_s: float = ANSWER_S
    ) -> Counts:
        assert self._process is not None
        assert self._process.stdin is not None
        line = "\t".join([word, *(f"{key}={value}" for key, value in (values or {}).items())])
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        answer = self._line(answer_s)
        for name in ("whole_us", "first_us", "chunk_us"):
            answer[name] = _latency(answer[name])
        return Counts(**answer)

    def _line(self, within_s: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        end = time.monotonic() + within_s
        while b"\n" not in self._read:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            more = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not more:
                raise RigError("the rig does not answer")
            self._read += more
        line, self._read = self._read.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer


def _latency(said: dict[str, float]) -> Latency:
    known = said["count"] > 0
    return Latency(
        count=int(said["count"]),
        p50_us=float(said["p50"]) if known else None,
        p99_us=float(said["p99"]) if known else None,
    )
