"""From the counter's staircase to a curve of cumulative energy.

A GPU's energy counter moves in steps (about every 100 ms on data-center parts), so the time of an energy is
known only where the value changes: between the last read with the old value and the first with the new one
(`grid.py` says where between them). Those edges are the points of the curve; between two it is a straight
line, unless `shape` knows better.

The curve carries three running totals, so that any interval's figures are differences that telescope and
nothing is lost between intervals:

- `energy_uj`      what the counter showed, over all its epochs (a driver reload starts a new epoch)
- `unmeasured_uj`  the part of it whose course was not seen: the meter was away while the counter ran on
- `covered_us`     the time whose energy is known
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable

import msgspec

from accounting.ledger.grid import Grid

COUNTER_PERIOD_US = 100_000
"""Assumed update period of the counter, for reads further apart than it (ml.energy; Zeus)."""

MAX_GAP_US = 5_000_000
"""Edges further apart than this show how much energy was drawn, but not when."""


MAX_POWER_W = 100_000
"""No single device draws this much: a counter that says so has jumped."""

JUMP_SLACK_US = 1_000_000
"""Time by which the counter may be behind when it is judged so."""


class Edge(msgspec.Struct, array_like=True):
    """A point of the curve. `half_width_us` is how far off `t_us` can be."""

    t_us: int
    energy_uj: int
    unmeasured_uj: int
    covered_us: int
    half_width_us: int


class Span(msgspec.Struct):
    """What the curve says of [t0_us, t1_us). measured_uj is None where nothing of it is known."""

    t0_us: int
    t1_us: int
    measured_uj: int | None
    unmeasured_uj: int
    covered_us: int
    half_width_us: int


class Curve(msgspec.Struct):
    """The curve of one GPU: edges not yet used up, and the last read."""

    edges: list[Edge] = []
    last_mj: int | None = None
    last_lo_us: int = 0
    lag_us: int = 0
    period_us: int = 0
    """Time between two changes of what the meter serves, where that is longer than COUNTER_PERIOD_US."""
    epoch_open: bool = False
    grid: Grid = msgspec.field(default_factory=Grid)

    def read(self, t_lo_us: int, t_hi_us: int, energy_mj: int, settled_us: int) -> None:
        """Take one read. Time up to `settled_us` is already in the books: no energy is put there any more.

        The first read of an epoch only gives the value; the first *change* gives the first usable edge.
        """
        if self.last_mj is None:
            self.last_mj, self.last_lo_us = energy_mj, t_lo_us
            return
        if t_hi_us <= self.last_lo_us:
            return  # out of order: an older read says nothing new
        if energy_mj < self.last_mj:
            # The driver was reloaded: what was drawn since the last edge is not known.
            self.last_mj, self.last_lo_us, self.epoch_open = energy_mj, t_lo_us, False
            self.grid.clear()
            return
        if energy_mj == self.last_mj:
            self.last_lo_us = t_lo_us
            return
        width = min(t_hi_us - self.last_lo_us, max(COUNTER_PERIOD_US, self.period_us))
        t_us = self.grid.place(t_hi_us - width, t_hi_us, COUNTER_PERIOD_US) - self.lag_us
        self._step(t_us, (energy_mj - self.last_mj) * 1000, width // 2, settled_us)
        self.last_mj, self.last_lo_us = energy_mj, t_lo_us

    def break_epoch(self) -> None:
        """What is read from now on has nothing to do with what was read before."""
        self.last_mj, self.epoch_open = None, False
        self.grid.clear()

    def _step(self, t_us: int, delta_uj: int, half_width_us: int, settled_us: int) -> None:
        if not self.edges:
            # Where the curve begins, the energy before is not ours to know.
            self.edges.append(Edge(max(t_us, settled_us), 0, 0, 0, half_width_us))
            self.epoch_open = True
            return
        last = self.edges[-1]
        t_us = max(t_us, last.t_us + 1, settled_us + 1)
        if not self.epoch_open:
            # Flat, uncovered stretch from the last epoch to this one's first edge.
            self.edges.append(Edge(t_us, last.energy_uj, last.unmeasured_uj, last.covered_us, half_width_us))
            self.epoch_open = True
            return
        if delta_uj > MAX_POWER_W * (t_us - last.t_us + JUMP_SLACK_US):
            # Garbage, or another counter: as unknown as after a reload.
            self.epoch_open = False
            return
        start_us = last.t_us
        if settled_us > start_us:
            # The books went on without the meter: what it shows now belongs to the time after them.
            start_us = settled_us
            self.edges.append(
                Edge(start_us, last.energy_uj, last.unmeasured_uj, last.covered_us, last.half_width_us)
            )
        seen = start_us == last.t_us and t_us - last.t_us <= MAX_GAP_US + self.slack_us
        self.edges.append(
            Edge(
                t_us,
                last.energy_uj + delta_uj,
                last.unmeasured_uj + (0 if seen else delta_uj),
                last.covered_us + (t_us - last.t_us if seen else 0),
                half_width_us,
            )
        )

    @property
    def slack_us(self) -> int:
        """Longer than for a counter of its own pace to wait for what a slow one says: one update may fail."""
        return 2 * self.period_us

    @property
    def known_until_us(self) -> int | None:
        return self.edges[-1].t_us if self.edges else None

    def span(self, t0_us: int, t1_us: int) -> Span:
        """What is known of [t0_us, t1_us)."""
        e0, u0, c0, h0 = self._at(t0_us)
        e1, u1, c1, h1 = self._at(t1_us)
        covered, energy = c1 - c0, e1 - e0
        known = energy if covered > 0 or energy > 0 else None
        return Span(t0_us, t1_us, known, u1 - u0, covered, max(h0, h1))

    def _at(self, t_us: int) -> tuple[int, int, int, int]:
        edges = self.edges
        if not edges:
            return 0, 0, 0, 0
        i = bisect_left(edges, t_us, key=lambda edge: edge.t_us)
        if i == len(edges):
            last = edges[-1]
            return last.energy_uj, last.unmeasured_uj, last.covered_us, last.half_width_us
        right = edges[i]
        if i == 0 or right.t_us == t_us:
            return right.energy_uj, right.unmeasured_uj, right.covered_us, right.half_width_us
        left = edges[i - 1]
        part, whole = t_us - left.t_us, right.t_us - left.t_us
        return (
            left.energy_uj + (right.energy_uj - left.energy_uj) * part // whole,
            left.unmeasured_uj + (right.unmeasured_uj - left.unmeasured_uj) * part // whole,
            left.covered_us + (right.covered_us - left.covered_us) * part // whole,
            max(left.half_width_us, right.half_width_us),
        )

    def shape(self, t_us: int, busy_us: Callable[[int, int], int], idle_uw: int) -> None:
        """Fix the energy up to `t_us`, between two edges, by what is known of the time between them.

        Idle power flows all the time; what is above it was drawn while requests were in flight: `busy_us`
        gives that part of a stretch. (A 50 ms request between two edges of a 100 ms counter: straight lines
        are off by half, this by a few per cent; docs/attribution.md.) Only for stretches that were measured.
        """
        i = bisect_left(self.edges, t_us, key=lambda edge: edge.t_us)
        if not 0 < i < len(self.edges) or self.edges[i].t_us == t_us:
            return
        left, right = self.edges[i - 1], self.edges[i]
        length, energy_uj = right.t_us - left.t_us, right.energy_uj - left.energy_uj
        if right.covered_us - left.covered_us != length or right.unmeasured_uj != left.unmeasured_uj:
            return
        before, after = busy_us(left.t_us, t_us), busy_us(t_us, right.t_us)
        if not 0 < before + after < length:
            return  # busy all along, or not at all: a straight line it is
        idle_uj = min(idle_uw * length // 1_000_000, energy_uj)
        done_uj = idle_uj * (t_us - left.t_us) // length
        done_uj += (energy_uj - idle_uj) * before // (before + after)
        covered_us = left.covered_us + t_us - left.t_us
        half_us = max(left.half_width_us, right.half_width_us)
        pinned = Edge(t_us, left.energy_uj + done_uj, left.unmeasured_uj, covered_us, half_us)
        self.edges.insert(i, pinned)

    def blind_until(self, t_us: int) -> int | None:
        """Up to here, from `t_us` on, no energy is known that could be shared; None if none is known at all.

        It is `t_us` itself where the curve is known. Energy that is there but unmeasured cannot be shared.
        """
        edges = self.edges
        for i in range(bisect_right(edges, t_us, key=lambda edge: edge.t_us), len(edges)):
            if i > 0 and edges[i].covered_us > edges[i - 1].covered_us:
                return max(t_us, edges[i - 1].t_us)
        return None

    def forget_before(self, t_us: int) -> None:
        """Drop the edges that no later interval needs, keeping one at or before `t_us`."""
        i = bisect_left(self.edges, t_us, key=lambda edge: edge.t_us)
        if i > 1:
            del self.edges[: i - 1]

    @property
    def knows_power(self) -> bool:
        """Whether `recent_power_uw` would say something."""
        edges = self.edges
        if len(edges) > 1 and edges[-1].covered_us > edges[-2].covered_us:  # as a rule
            return True
        return self.recent_power_uw() is not None

    def recent_power_uw(self, over_us: int = 500_000) -> int | None:
        """Mean power over the last edges, in microwatts. None where none of that time was measured."""
        if len(self.edges) < 2:
            return None
        last = self.edges[-1]
        i = bisect_left(self.edges, last.t_us - over_us, key=lambda edge: edge.t_us)
        first = self.edges[min(i, len(self.edges) - 2)]
        covered = last.covered_us - first.covered_us
        if covered <= 0:
            return None
        seen_uj = last.energy_uj - first.energy_uj - (last.unmeasured_uj - first.unmeasured_uj)
        return seen_uj * 1_000_000 // covered
