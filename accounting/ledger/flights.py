"""The requests that are open, in columns: one row each, so that an interval is settled without a loop.

A row is taken by `add`, given back by `remove`, and used again. Which row a request has means nothing: sums
are taken in the order of the handles (`in_order`), so that a ledger that goes on and one that begins with its
written state come to the same microjoules.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from accounting.events import EngineTimes, Media, RequestStarted, Status, Usage
from accounting.ledger.intervals import RING, number
from accounting.records import RequestRecord

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
FIRST_ROWS = 64


class Told(msgspec.Struct):
    """What was said of one request, kept whole until its record is made."""

    started: RequestStarted
    gpus: list[str]
    backend: str | None = None
    """Name under which the ledger knows its backend: the one it started with, should that change its GPUs."""
    status: Status | None = None
    http_status: int | None = None
    error: str | None = None
    usage: Usage | None = None
    times: EngineTimes | None = None
    quality: float | None = None
    tries: list[int] = []
    """Handles of the rows of its earlier tries at other backends: negative, so that nobody else has them."""
    is_try: bool = False
    recorded: RequestRecord | None = None
    """Its record, where that is out already and may still be corrected."""
    media: Media | None = None
    """Images or videos that it is for, as far as that is told by now."""
    job: str | None = None
    """Id, at its backend, of the job that it began: that goes on whatever becomes of client and proxy."""
    left_us: int = 0
    """When nobody waited for it any more, though its server works on; 0: that is not so."""
    never_ran: bool = False
    """It was taken back before its server began with it."""


class OpenRequest(msgspec.Struct):
    """One row, written down."""

    handle: int
    told: Told
    numbers: dict[str, int | float]
    by_gpu: dict[str, list[int]]
    pages: dict[int, float] = {}
    """Tokens by interval number modulo RING."""
    tokens: list[float] = []
    """As an older joulegate wrote them: by interval number modulo the length of this."""

    @property
    def finished_us(self) -> int | None:
        return int(self.numbers["end"]) if "end" in self.numbers else None

    @property
    def charged_uj(self) -> int:
        """Energy so far, over all its GPUs."""
        return sum(self.by_gpu["prefill_uj"]) + sum(self.by_gpu["decode_uj"])


class Whole(NamedTuple):
    """The columns of whole numbers: times in UTC microseconds, 0 for "not yet"; energies in microjoules."""

    start: int
    first: int
    end: int
    pre0: int
    pre1: int
    seen: int
    dynamic_uj: int
    undivided_uj: int
    """Charged while idle power was not known, so that nobody can say how much of it was dynamic."""
    edge_uj: int
    shared_uj: int
    host_uj: int
    host_covered_us: int
    host_estimated: int
    """1 where some of host_uj comes from an estimate."""


_INTS = Whole._fields
# prompt: prompt tokens; uncached: those to compute; done: tokens generated in settled intervals; seqs:
# sequences (n times prompts) that decode side by side.
_FLOATS = ("prompt", "uncached", "done", "seqs")
_BY_GPU = ("prefill_uj", "decode_uj", "covered_us", "uncovered_us")


class Flights:
    start: Ints
    first: Ints
    end: Ints
    pre0: Ints
    pre1: Ints
    seen: Ints
    dynamic_uj: Ints
    undivided_uj: Ints
    edge_uj: Ints
    shared_uj: Ints
    host_uj: Ints
    host_covered_us: Ints
    host_estimated: Ints
    prompt: Floats
    uncached: Floats
    done: Floats
    seqs: Floats
    prefill_uj: Ints
    decode_uj: Ints
    covered_us: Ints
    uncovered_us: Ints

    def __init__(self) -> None:
        self.rows = 0
        """Rows up to here have been used."""
        self.row: dict[int, int] = {}
        """Row of each handle."""
        self.told: list[Told | None] = []
        self._free: list[int] = []
        self._gpus_wide = 1
        self._allocate(FIRST_ROWS)

    def _allocate(self, size: int) -> None:
        # Blocks of columns, so that a row is emptied in a few steps.
        self._ints: Ints = np.zeros((len(_INTS), size), np.int64)
        self._floats: Floats = np.zeros((len(_FLOATS), size), np.float64)
        self._by_gpu: Ints = np.zeros((len(_BY_GPU), size, self._gpus_wide), np.int64)
        self.tokens: Floats = np.zeros((RING, size), np.float64)
        """Tokens received, first ones included, by interval number modulo RING and row."""
        for names, block in ((_INTS, self._ints), (_FLOATS, self._floats), (_BY_GPU, self._by_gpu)):
            for name, column in zip(names, block, strict=True):
                setattr(self, name, column)
        self.handle = np.zeros(size, np.int64)
        self.group = np.full(size, -1, np.int32)
        """Number of the group of GPUs; -1 for a free row."""
        self.column = np.zeros(size, np.int32)
        """Number of the backend within its group."""
        self.streamed = np.zeros(size, np.bool_)
        self.works = np.zeros(size, np.bool_)
        """Whether the GPU does anything for it: not where the engine refused."""
        self.concluded = np.zeros(size, np.bool_)
        """Whether its record is out. It is kept as long as that may still be corrected."""

    def _resize(self, size: int, gpus_wide: int) -> None:
        old = self.__dict__.copy()
        self._gpus_wide = gpus_wide
        self._allocate(size)
        for name, column in old.items():
            if isinstance(column, np.ndarray) and name not in (*_INTS, *_FLOATS, *_BY_GPU):
                new = self.__dict__[name]
                part = tuple(slice(0, n) for n in np.minimum(column.shape, new.shape))
                new[part] = column[part]

    def __len__(self) -> int:
        return len(self.row)

    def whole(self, row: int) -> Whole:
        """All whole numbers of a row: ten times quicker than one column after the other."""
        return Whole._make(self._ints[:, row].tolist())

    def parts(self, row: int) -> list[float]:
        """prompt, uncached, done, seqs."""
        columns: list[float] = self._floats[:, row].tolist()
        return columns

    def by_gpu(self, row: int, gpus: int) -> list[list[int]]:
        """Of each of a row's first `gpus` GPUs: prefill_uj, decode_uj, covered_us, uncovered_us."""
        columns: list[list[int]] = self._by_gpu[:, row, :gpus].tolist()
        return columns

    def add(self, handle: int, told: Told, group: int, column: int) -> int:
        """Take a row for a request. Its GPUs are `told.gpus`, in this order in the columns by GPU."""
        if len(told.gpus) > self._gpus_wide:
            self._resize(len(self.start), len(told.gpus))
        if self._free:
            row = self._free.pop()
        else:
            row = self.rows
            self.rows += 1
            if row >= len(self.start):
                self._resize(2 * len(self.start), self._gpus_wide)
            self.told.append(None)
        self.row[handle], self.told[row], self.handle[row] = row, told, handle
        self.group[row], self.column[row] = group, column
        self.start[row] = told.started.t_us
        self.streamed[row], self.works[row], self.concluded[row] = told.started.streamed, True, False
        self.seqs[row] = max(told.started.sequences, 1)
        return row

    def remove(self, handle: int) -> None:
        row = self.row.pop(handle)
        self.told[row] = None
        for block in (self._ints, self._floats, self._by_gpu, self.tokens):
            block[:, row] = 0
        self.group[row], self.concluded[row] = -1, False
        self._free.append(row)

    def rename(self, handle: int, to: int) -> None:
        """Give the row of a request another handle."""
        row = self.row.pop(handle)
        self.row[to], self.handle[row] = row, to

    def in_order(self, rows: Ints) -> Ints:
        """The rows by handle: the one order that does not depend on the layout."""
        handles = self.handle[rows]
        if len(rows) < 2 or bool((handles[1:] > handles[:-1]).all()):
            return rows
        ordered: Ints = rows[np.argsort(handles, kind="stable")]
        return ordered

    def teller(self, row: int) -> Told:
        told = self.told[row]
        assert told is not None
        return told

    def write_down(self) -> dict[int, OpenRequest]:
        """Every open request by its handle."""
        return {handle: self._write(handle, row) for handle, row in sorted(self.row.items())}

    def _write(self, handle: int, row: int) -> OpenRequest:
        told = self.teller(row)
        numbers: dict[str, int | float] = {
            name: value for name in (*_INTS, *_FLOATS) if (value := self.__dict__[name][row].item())
        }
        by_gpu = {name: self.__dict__[name][row, : len(told.gpus)].tolist() for name in _BY_GPU}
        return OpenRequest(handle=handle, told=told, numbers=numbers, pages=self._pages(row), by_gpu=by_gpu)

    def _pages(self, row: int) -> dict[int, float]:
        tokens = self.tokens[:, row]
        return {page: tokens[page].item() for page in np.flatnonzero(tokens).tolist()}

    def take_up(self, request: OpenRequest, group: int, column: int, settled_us: int) -> None:
        """Add a request as `write_down` gave it, when its group was settled up to `settled_us`."""
        row = self.add(request.handle, request.told, group, column)
        for name, value in request.numbers.items():
            if name in _INTS or name in _FLOATS:  # an older joulegate wrote down others too
                self.__dict__[name][row] = value
        for name, values in request.by_gpu.items():
            self.__dict__[name][row, : len(values)] = values
        for page, tokens in request.pages.items():
            self.tokens[page, row] = tokens
        pages = len(request.tokens)
        for k in range(number(settled_us), number(settled_us) + pages):
            self.tokens[k % RING, row] = request.tokens[k % pages]
        self.works[row] = request.told.status not in ("client_error", "rejected")
        self.concluded[row] = request.told.recorded is not None
