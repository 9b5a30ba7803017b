"""A recorded trace told to the ledger, as the live service would have told it. docs/traces.md has the form.

The lines may come in any order, so the file is read whole; requests' chunks and counter reads are kept as
arrays. What is said then is what a service sees: ticks of 50 ms with token counts, the counter read by read.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, BinaryIO, get_args

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from accounting.events import (
    AnyEvent,
    BackendDeclared,
    CounterReads,
    FirstToken,
    MeterUp,
    ModelCard,
    RequestFinished,
    RequestStarted,
    ServiceStarted,
    Status,
    Tick,
    Usage,
)
from accounting.ledger import Ledger
from accounting.ledger.intervals import HOLD_US, INTERVAL_US, MAX_WAIT_US
from accounting.records import Output

ZERO_US = 1_577_836_800_000_000
"""Second 0 of a trace: 2020-01-01. Its times are seconds since it began, on no particular day."""

TICK_US = 50_000
"""As the live service (TICK_S in service.py)."""

SETTLED_US = MAX_WAIT_US + HOLD_US + 2 * INTERVAL_US
"""After a silence this long the ledger waits for nothing any more."""

BYTES_PER_TOKEN = 4.5
"""Size of a request's body per prompt token, which a trace does not tell; it serves until the first token."""

SAID_AS: dict[str, Status] = {
    **{status: status for status in get_args(Status)},
    **dict.fromkeys(("completed", "finished", "success", "stop", "length"), "ok"),
    **dict.fromkeys(("abort", "cancelled", "canceled", "disconnected"), "aborted"),
    **dict.fromkeys(("error", "failed", "timeout"), "engine_error"),
}
"""What a trace may say of a request's end, and what that is called here."""

ROUNDING_S = 1.0
"""Gaps are rounded: their sum may lie so far behind the end."""

GZIP = b"\x1f\x8b"
Ints = NDArray[np.int64]
NONE: Ints = np.zeros(0, np.int64)
Seconds = Annotated[float, Meta(ge=-1e10, le=1e10)]
GapMs = Annotated[float, Meta(ge=0, le=1e13)]
CounterMj = Annotated[int, Meta(ge=0, le=2**53)]
Tokens = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Watts = Annotated[float, Meta(gt=0, le=1e6)]
LagS = Annotated[float, Meta(ge=0, le=5)]


class TraceError(Exception):
    """The trace cannot be used; the message says where and why."""


class BackendLine(msgspec.Struct, tag="backend"):
    id: str
    gpus: list[str]
    gpu_model: str
    power_limit_w: Watts | None = None
    counter_lag_s: LagS = 0.0
    model: ModelCard | None = None


class EnergyLine(msgspec.Struct, tag="energy"):
    gpu: str
    t: list[Seconds]
    mj: list[CounterMj]


class UsageLine(msgspec.Struct):
    prompt_tokens: Tokens | None = None
    cached_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None


class RequestLine(msgspec.Struct, tag="request"):
    id: str
    backend: str
    start: Seconds
    end: Seconds
    chunk_gap_ms: list[GapMs]
    status: str
    tenant: str | None = None
    usage: UsageLine | None = None


_decoder = msgspec.json.Decoder(BackendLine | EnergyLine | RequestLine)


@dataclass(slots=True)
class Request:
    """A request of the trace. Its place in `Trace.requests` is its handle."""

    id: str
    line: int
    backend: str
    tenant: str | None
    status: Status
    usage: Usage
    start_us: int
    first_us: int | None
    end_us: int
    streamed: bool


@dataclass
class Trace:
    """A trace, read. `events` tells it."""

    path: Path
    backends: dict[str, BackendLine] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    reads: dict[str, tuple[Ints, Ints]] = field(default_factory=dict)
    """By GPU: times in us and values in mJ, in the order of time."""
    chunks: tuple[Ints, Ints] = (NONE, NONE)
    """Times in us and handles of all chunks, in the order of time."""

    def events(self) -> Iterator[AnyEvent]:
        """What a service would have said, in its order, until the ledger has settled everything."""
        active = self._active_cells()
        if not len(active):
            return
        yield from self._beginning((int(active[0]) - 1) * TICK_US)
        moments = self._moments()
        told, heard = 0, 0
        read = dict.fromkeys(self.reads, 0)
        for cell in _ticks(active):
            tick_us = cell * TICK_US
            while told < len(moments) and moments[told][0] <= tick_us:
                t_us, order, handle = moments[told]
                told += 1
                if order == 2:
                    # The tokens come before the end, in a tick of their own.
                    tick, heard = self._tick(t_us, heard)
                    yield tick
                yield self._moment(order, handle)
            for gpu, (times, values) in self.reads.items():
                upto = int(np.searchsorted(times, tick_us, side="right"))
                if upto > read[gpu]:
                    now = slice(read[gpu], upto)
                    t = times[now].tolist()
                    yield CounterReads(gpu=gpu, t_lo_us=t, t_hi_us=t, energy_mj=values[now].tolist())
                    read[gpu] = upto
            tick, heard = self._tick(tick_us, heard)
            yield tick

    def _active_cells(self) -> Ints:
        """Numbers of the ticks that have something to say, in order. Tick k is at k * TICK_US."""
        at = [self.chunks[0], *(times for times, _ in self.reads.values())]
        at.append(np.array([(r.start_us, r.end_us) for r in self.requests], np.int64).ravel())
        return np.unique(-(-np.concatenate(at) // TICK_US))

    def _beginning(self, t_us: int) -> Iterator[AnyEvent]:
        yield ServiceStarted(t_us=t_us, source=0, version="trace")
        for backend in self.backends.values():
            yield BackendDeclared(t_us=t_us, backend=backend.id, gpus=backend.gpus, model=backend.model)
        for gpu in self.reads:
            backend = next(b for b in self.backends.values() if gpu in b.gpus)
            limit_w = backend.power_limit_w
            yield MeterUp(
                t_us=t_us,
                gpu=gpu,
                device=backend.gpu_model,
                method="nvml-counter",
                lag_us=round(backend.counter_lag_s * 1e6),
                power_limit_mw=round(limit_w * 1000) if limit_w is not None else None,
            )

    def _moments(self) -> list[tuple[int, int, int]]:
        """Starts (0), first tokens (1) and ends (2) of all requests: time, which of them, handle."""
        moments = []
        for handle, request in enumerate(self.requests):
            moments += [(request.start_us, 0, handle), (request.end_us, 2, handle)]
            if request.first_us is not None:
                moments.append((request.first_us, 1, handle))
        return sorted(moments)

    def _moment(self, order: int, handle: int) -> AnyEvent:
        request = self.requests[handle]
        usage = request.usage
        if order == 0:
            card = self.backends[request.backend].model
            return RequestStarted(
                t_us=request.start_us,
                handle=handle,
                uid=request.id,
                request_id=request.id,
                backend=request.backend,
                model=card.name if card is not None else None,
                route="trace",
                tenant=request.tenant,
                streamed=request.streamed,
                body_bytes=round((usage.prompt_tokens or 0) * BYTES_PER_TOKEN),
            )
        if order == 1:
            return FirstToken(
                t_us=request.first_us or 0,
                handle=handle,
                prompt_tokens=usage.prompt_tokens,
                cached_tokens=usage.cached_tokens,
            )
        return RequestFinished(t_us=request.end_us, handle=handle, status=request.status, usage=usage)

    def _tick(self, t_us: int, heard: int) -> tuple[Tick, int]:
        """The chunks that came up to `t_us`, of which `heard` have been said; and how many now have."""
        times, handles = self.chunks
        upto = int(np.searchsorted(times, t_us, side="right"))
        who, counts = np.unique(handles[heard:upto], return_counts=True)
        return Tick(t_us=t_us, source=0, handles=who.tolist(), tokens=counts.tolist()), upto


def _ticks(active: Ints) -> Iterator[int]:
    """Every tick from the first on, save that long silences, and the one at the end, are cut short."""
    quiet = SETTLED_US // TICK_US
    for cell, following in pairwise(active.tolist()):
        yield from range(cell, min(following, cell + quiet))
        if following - 1 >= cell + quiet:
            yield following - 1  # what comes then has come since this tick
    last = int(active[-1])
    yield from range(last, last + quiet + 1)


def is_trace(path: Path) -> bool:
    """Whether this file is a trace, and not a segment of a journal."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return True
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    return head.startswith(GZIP) or (head.startswith(b"{") and b"joulegate_journal" not in head)


def read_trace(path: Path) -> Trace:
    """The trace in a file of JSON lines, plain or gzip. Raises TraceError, with the line that is wrong."""
    trace = Trace(path)
    times: list[Ints] = []
    reads: dict[str, list[tuple[Ints, Ints]]] = {}
    lines: dict[str, int] = {}
    for number, text in _lines(path):
        try:
            line = _decoder.decode(text)
            if isinstance(line, BackendLine):
                _take_new(lines, f"backend {line.id!r}", number)
                trace.backends[line.id] = line
            elif isinstance(line, EnergyLine):
                reads.setdefault(line.gpu, []).append(_reads(line))
            else:
                _take_new(lines, f"request {line.id!r}", number)
                request, chunks = _request(line, number)
                trace.requests.append(request)
                times.append(chunks)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise TraceError(f"{path}:{number}: {error}") from error
    if not trace.backends:
        raise TraceError(f"{path}: there is no backend in it")
    for request in trace.requests:
        if request.backend not in trace.backends:
            raise TraceError(f"{path}:{request.line}: there is no backend {request.backend!r}")
    known = {gpu for backend in trace.backends.values() for gpu in backend.gpus}
    for gpu in sorted(known & reads.keys()):  # a service reads its backends' GPUs only
        t, mj = (np.concatenate(column) for column in zip(*reads[gpu], strict=True))
        order = np.argsort(t, kind="stable")
        trace.reads[gpu] = t[order], mj[order]
    if times:
        handles = np.repeat(np.arange(len(times)), [len(part) for part in times])
        t = np.concatenate(times)
        order = np.argsort(t, kind="stable")
        trace.chunks = t[order], handles[order]
    return trace


def replay_trace(path: Path) -> Iterator[Output]:
    """What the ledger makes of a trace, in order. Raises TraceError before it says anything."""
    ledger = Ledger()
    for event in read_trace(path).events():
        yield from ledger.hear(event)
    yield from ledger.close()


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers from 1."""
    number = 0
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP
            raw.seek(0)
            file: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if packed else raw
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(f"{path}:{number + 1}: the file is damaged or cut off here ({error})") from error
    except OSError as error:
        raise TraceError(f"{path}:{number + 1}: {error.strerror or error}") from error


def _take_new(lines: dict[str, int], name: str, number: int) -> None:
    if name in lines:
        raise ValueError(f"{name} is on line {lines[name]} already")
    lines[name] = number


def _us(seconds: NDArray[np.float64]) -> Ints:
    return np.rint(seconds * 1e6).astype(np.int64) + ZERO_US


def _reads(line: EnergyLine) -> tuple[Ints, Ints]:
    if len(line.t) != len(line.mj):
        raise ValueError(f"{len(line.t)} times in `t`, but {len(line.mj)} values in `mj`")
    return _us(np.array(line.t, np.float64)), np.array(line.mj, np.int64)


def _request(line: RequestLine, number: int) -> tuple[Request, Ints]:
    """The request and the times of its chunks, as they are to be said."""
    status = SAID_AS.get(line.status)
    if status is None:
        raise ValueError(f"status {line.status!r} is none of {', '.join(SAID_AS)}")
    if line.end < line.start:
        raise ValueError(f"`end` {line.end} is before `start` {line.start}")
    came = line.start + np.cumsum(np.array(line.chunk_gap_ms, np.float64)) / 1000
    if len(came) and came[-1] > line.end + ROUNDING_S:
        raise ValueError(f"the last chunk came at {came[-1]:.4f}, after `end` {line.end}")
    chunks = _us(came)
    start_us, end_us = (int(t) for t in _us(np.array([line.start, line.end])))
    usage = Usage(**msgspec.structs.asdict(line.usage)) if line.usage is not None else Usage()
    # An answer of many tokens that came in one chunk, or in none that was seen, was not streamed.
    streamed = len(chunks) >= min(usage.completion_tokens or 0, 2)
    chunks = chunks if streamed else chunks[:0]
    end_us = max(end_us, int(chunks[-1])) if len(chunks) else end_us
    first_us = int(chunks[0]) if len(chunks) else None
    request = Request(
        line.id, number, line.backend, line.tenant, status, usage, start_us, first_us, end_us, streamed
    )
    return request, chunks
