"""Whether a counter misses load: the same bursts in step with it, out of step, and fine as dust. Pure.

On A100 and H100 the *power* sensor looks at 25 ms of every 100 ms (arXiv 2312.02741). If the energy counter
did too, 25 ms bursts every 100 ms would be seen whole, in part or not at all, by their phase. So: blocks with
bursts locked to the counter's own period at several phases; a block with the same bursts at random distances;
and one of the same duty in bursts so short that every window sees the same. A counter that sees all shows the
same mean power in each, corrected for the duty that was really burnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.gpucheck.edges import Edges
from benchmarks.gpucheck.lag import Burst, on_us

Kind = Literal["locked", "random", "fine", "on", "off"]

UNDERSAMPLES = 0.2
"""A spread over the phases above this part of (busy - idle) power: the counter misses load."""


@dataclass(frozen=True)
class Block:
    """A stretch of one kind of load: begin and end (monotonic microseconds) and its bursts."""

    kind: Kind
    phase: float | None
    t0_us: float
    t1_us: float
    bursts: Sequence[Burst]


@dataclass(frozen=True)
class Seen:
    """What the counter showed of a block."""

    kind: Kind
    phase: float | None
    duty: float
    """Part of the time with the load on, as it was burnt."""
    mean_w: float
    per_duty_w: float | None
    """(mean - idle power) / duty: the power that the load added while on. None without load."""


@dataclass(frozen=True)
class Sampling:
    blocks: list[Seen]
    idle_w: float
    busy_w: float
    """Of the blocks "off" and "on"."""
    spread: float
    """Largest less smallest mean of the locked blocks, in parts of (busy - idle): 0 sees all, 1 a window."""
    locked_over_random: float | None
    """Power added per time on: mean of the locked blocks over the random one. 1 where nothing is missed."""
    fine_over_random: float | None
    undersamples: bool


def judge(edges: Edges, blocks: Sequence[Block], lag_us: float) -> Sampling | None:
    """Compare the blocks. None where one of "on", "off" and two locked ones is missing or not seen."""
    shown = [(block, seen_of(edges, block, lag_us)) for block in blocks]
    pairs = [(block, mean) for block, mean in shown if mean is not None]
    means = {kind: [mean for block, mean in pairs if block.kind == kind] for kind in ("on", "off", "locked")}
    if not means["on"] or not means["off"] or len(means["locked"]) < 2:
        return None
    busy_w = float(np.mean([watts for watts, _ in means["on"]]))
    idle_w = float(np.mean([watts for watts, _ in means["off"]]))
    seen = [
        Seen(block.kind, block.phase, duty, watts, (watts - idle_w) / duty if duty > 0 else None)
        for block, (watts, duty) in pairs
    ]
    added = {
        kind: [one.per_duty_w for one in seen if one.kind == kind and one.per_duty_w is not None]
        for kind in ("locked", "random", "fine")
    }
    # At the duty that was asked for, so that a burst that came late does not look like one not seen.
    level = [one.per_duty_w for one in seen if one.kind == "locked" and one.per_duty_w is not None]
    duty = float(np.mean([one.duty for one in seen if one.kind == "locked"]))
    spread = (max(level) - min(level)) * duty / (busy_w - idle_w) if busy_w > idle_w else float("nan")
    random_w = float(np.mean(added["random"])) if added["random"] else None
    return Sampling(
        blocks=seen,
        idle_w=idle_w,
        busy_w=busy_w,
        spread=spread,
        locked_over_random=float(np.mean(level)) / random_w if random_w else None,
        fine_over_random=float(np.mean(added["fine"])) / random_w if random_w and added["fine"] else None,
        undersamples=bool(spread > UNDERSAMPLES),
    )


def seen_of(edges: Edges, block: Block, lag_us: float) -> tuple[float, float] | None:
    """Mean power (W) between the block's first and last edge, and the duty of that very time."""
    t_us = edges.t_us
    inside = np.flatnonzero((t_us - lag_us >= block.t0_us) & (t_us - lag_us <= block.t1_us))
    if len(inside) < 3:
        return None
    first, last = inside[0], inside[-1]
    length_us = float(t_us[last] - t_us[first])
    energy_uj = float(edges.value[last] - edges.value[first]) * 1000
    on = on_us(block.bursts, np.asarray([t_us[first] - lag_us, t_us[last] - lag_us]))
    return energy_uj / length_us, float(on[1] - on[0]) / length_us
