"""The figures of a level, from what the client saw, what joulegate recorded and what its books say. Pure.

Energy and tokens of the steady state are joulegate's: what the books charged to requests in it, and the
tokens of all records, each answer's spread evenly from its first token to its end. Times are the client's.
Joules of a request are its final record's, corrections included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from joulegate.sweep import spread, steady
from joulegate.sweep.api import Moment, Record
from joulegate.sweep.load import Load
from joulegate.sweep.plan import Plan, SweepError
from joulegate.sweep.spread import Interval

Floats = NDArray[np.float64]
Quantiles = dict[str, float]

PARTS = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
GAPS_PER_DECADE = 40
"""A key k of a row's `gaps` stands for 10^(k/40) ms (loadgen/rows.py)."""

LEAST_MOMENTS = 2


@dataclass(frozen=True, slots=True)
class Seen:
    """One request: the client's times in unix seconds, joulegate's joules. None: not known."""

    id: str
    status: str
    in_steady: bool
    intended_at: float
    sent_at: float
    ended_at: float | None
    prompt_tokens: int | None
    cached_tokens: int | None
    tokens: int | None
    chunks: int
    ttft_ms: float | None
    tpot_ms: float | None
    itl_p50_ms: float | None
    itl_p99_ms: float | None
    e2e_ms: float | None
    joules_now: float | None
    joules: float | None
    prefill_joules: float | None
    decode_joules: float | None
    correction_joules: float | None
    uncertainty_joules: float | None


@dataclass(frozen=True, slots=True)
class Second:
    """About a second of a level, all GPUs together. Powers in watts; None: not measured."""

    begin_at: float
    end_at: float
    in_steady: bool
    power_w: float | None
    requests_w: float
    idle_w: float
    unobserved_w: float
    unmeasured_w: float
    tokens: float
    requests_joules: float
    in_flight: float

    @property
    def seconds(self) -> float:
        return self.end_at - self.begin_at


@dataclass(frozen=True, slots=True)
class Window:
    """The steady state, in unix seconds. `told` says how its begin was found."""

    begin_s: float
    end_s: float
    told: str


def window(
    plan: Plan, level: float, load: Load, moments: Sequence[Moment], records: Sequence[Record]
) -> Window:
    """Raises SweepError where too little is left."""
    sent = [row["sent_at"] for row in load.rows]
    stopped = [one["stopped_at"] for one in load.health]
    end_s = max(sent) if load.stopped_by == "requests" else min(stopped, default=load.began_s + plan.seconds)
    if plan.warm_up_s is not None:
        begin_s, told = min(sent) + plan.warm_up_s, "given"
    else:
        firsts = [at for row in load.rows if (at := row["first_at"] or row["ended_at"]) is not None]
        warm_s = steady.warm_at(firsts, int(level) if plan.closed else 1)
        if warm_s is None or warm_s >= end_s:
            raise SweepError(f"level {level:g}: there never were so many in flight; sweep for longer")
        begin_s, told = warm_s, "found"
        inside = [moment for moment in moments if warm_s <= moment.begin_s and moment.end_s <= end_s]
        if inside:
            took = np.array([moment.end_s - moment.begin_s for moment in inside])
            speed = tokens_in(records, inside) / took
            power = np.array([moment.measured_uj or 0 for moment in inside]) / took
            begin_s = inside[max(steady.truncation(speed), steady.truncation(power))].begin_s
    if sum(begin_s <= moment.begin_s and moment.end_s <= end_s for moment in moments) < LEAST_MOMENTS:
        raise SweepError(f"level {level:g}: nothing is left beside warm-up and drain; sweep for longer")
    return Window(begin_s, end_s, told)


def tokens_in(records: Iterable[Record], moments: Sequence[Moment]) -> Floats:
    """Output tokens made in each moment."""
    ramps = [
        (record["first_token_at"], record["finished_at"], float(record["completion_tokens"]))
        for record in records
        if record["first_token_at"] is not None and record["completion_tokens"]
    ]
    return _per_moment(ramps, moments)


def _per_moment(ramps: list[tuple[float, float, float]], moments: Sequence[Moment]) -> Floats:
    """What grows evenly from a first time to a last one by an amount, in each moment."""
    if not ramps or not moments:
        return np.zeros(len(moments))
    zero = moments[0].begin_s  # unix seconds are too large to multiply without losing microseconds
    first, last, amount = (np.array(column) for column in zip(*ramps, strict=True))
    first, last = first - zero, np.maximum(last, first + 1e-6) - zero

    def upto(times: Floats) -> Floats:
        """Sum of all ramps at these times: the slopes that have begun less those that have ended."""
        total = np.zeros(len(times))
        for at, sign in ((first, 1.0), (last, -1.0)):
            order = np.argsort(at)
            slope = (sign * amount / (last - first))[order]
            starts = at[order]
            place = np.searchsorted(starts, times, side="right")
            slopes, offsets = (np.concatenate([[0.0], np.cumsum(v)]) for v in (slope, slope * starts))
            total += slopes[place] * times - offsets[place]
        return total

    begins = np.array([moment.begin_s for moment in moments]) - zero
    ends = np.array([moment.end_s for moment in moments]) - zero
    return np.maximum(upto(ends) - upto(begins), 0.0)


def seconds(load: Load, records: Sequence[Record], moments: Sequence[Moment], inside: Window) -> list[Second]:
    """Power, tokens and requests in flight over time."""
    tokens = tokens_in(records, moments)
    flights = [(row["sent_at"], row["ended_at"] or inside.end_s, 1.0) for row in load.rows]
    # A request adds its length to the time in flight, evenly.
    busy = _per_moment([(a, b, b - a) for a, b, _ in flights if b > a], moments)
    found = []
    for moment, made, in_flight_s in zip(moments, tokens.tolist(), busy.tolist(), strict=True):
        took_s = moment.end_s - moment.begin_s
        found.append(
            Second(
                begin_at=moment.begin_s,
                end_at=moment.end_s,
                in_steady=inside.begin_s <= moment.begin_s and moment.end_s <= inside.end_s,
                power_w=None if moment.measured_uj is None else moment.measured_uj / 1e6 / took_s,
                requests_w=moment.requests_uj / 1e6 / took_s,
                idle_w=moment.idle_uj / 1e6 / took_s,
                unobserved_w=moment.unobserved_uj / 1e6 / took_s,
                unmeasured_w=moment.unmeasured_uj / 1e6 / took_s,
                tokens=made,
                requests_joules=moment.requests_uj / 1e6,
                in_flight=in_flight_s / took_s,
            )
        )
    return found


def seen(load: Load, records: Iterable[Record], inside: Window) -> list[Seen]:
    """Each request of the load with its final record."""
    known = {record["request_id"]: record for record in records}
    return [_seen(row, known.get(row["id"], {}), inside) for row in load.rows]


def _seen(row: dict[str, Any], record: Record, inside: Window) -> Seen:
    first, last, ended, tokens = row["first_at"], row["last_at"], row["ended_at"], row["tokens"]
    ok = row["status"] == "ok"
    spread_out = first is not None and tokens is not None and tokens > 1
    gaps = {int(key): count for key, count in row["gaps"].items()}
    return Seen(
        id=row["id"],
        status=row["status"],
        in_steady=ok and ended is not None and inside.begin_s <= ended < inside.end_s,
        intended_at=row["intended_at"],
        sent_at=row["sent_at"],
        ended_at=ended,
        prompt_tokens=row["prompt_tokens"],
        cached_tokens=record.get("cached_tokens"),
        tokens=tokens,
        chunks=row["chunks"],
        ttft_ms=1000 * (first - row["intended_at"]) if first is not None else None,
        tpot_ms=1000 * (last - first) / (tokens - 1) if spread_out else None,
        itl_p50_ms=gap_ms(gaps, 0.5),
        itl_p99_ms=gap_ms(gaps, 0.99),
        e2e_ms=1000 * (ended - row["intended_at"]) if ok and ended is not None else None,
        joules_now=row["joules"],
        joules=record.get("energy_joules"),
        prefill_joules=record.get("prefill_joules"),
        decode_joules=record.get("decode_joules"),
        correction_joules=record.get("correction_joules"),
        uncertainty_joules=record.get("uncertainty_joules"),
    )


def gap_ms(counts: dict[int, int], part: float) -> float | None:
    """A quantile of the times between pieces, within 3 %."""
    left = part * sum(counts.values())
    for key in sorted(counts):
        left -= counts[key]
        if left <= 0:
            return float(10 ** (key / GAPS_PER_DECADE))
    return None


def gaps_of(rows: Iterable[dict[str, Any]]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for row in rows:
        for key, count in row["gaps"].items():
            total[int(key)] += count
    return dict(total)


def quantiles(values: Iterable[float | None]) -> Quantiles | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {name: float(np.quantile(known, part)) for name, part in PARTS.items()}


def ratio(moments: Sequence[Second], above: str, below: str) -> tuple[float | None, Interval | None]:
    """Sum of one column over that of another, and its interval; columns are fields of `Second`."""
    top, bottom = (np.array([getattr(moment, name) for moment in moments], float) for name in (above, below))
    if not len(top) or not bottom.sum():
        return None, None
    return float(top.sum() / bottom.sum()), spread.interval(spread.ratio_draws(top, bottom))


def precise(moments: Sequence[Second], precision: float) -> bool:
    """Whether joules per token are known to +- `precision`, as a share."""
    value, found = ratio(moments, "requests_joules", "tokens")
    if value is None or found is None or len(moments) < steady.FEWEST:
        return False
    return (found.high - found.low) / 2 <= precision * value
