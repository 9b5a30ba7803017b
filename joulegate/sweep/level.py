"""One level of a sweep: load, figures, and the proof that its energies add up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np

from joulegate.sweep import figures, load, spread, steady
from joulegate.sweep.api import POLL_S, Api, Moment, Reading, Record
from joulegate.sweep.figures import Quantiles, Second, Seen, Window
from joulegate.sweep.load import Load
from joulegate.sweep.plan import Plan, SweepError
from joulegate.sweep.proof import Proof, prove
from joulegate.sweep.spread import Interval

EDGE_S = 3.0
"""Time of the books before and after the load in which the meter is read."""

BOOKS_S = 30.0
"""Longest wait for the books to reach the present."""

CORRECTED_S = 30.0
"""Longest wait for corrections, which come a second or two after the records of streamed answers."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level's steady state. None where it cannot be told. Energies in joules over all GPUs.

    `level` is requests in flight or a rate. `requests` ended in the steady state, `failures` and `cut` are of
    all. `joules_per_token` and `joules_per_response` are charged to requests; `tokens_per_joule` (tokens per
    second per watt) counts all energy of the GPUs. Intervals are 95 % (spread.py). `prefill_part` is of
    requests that ended in it. `drift` compares the halves. `slow` says that the load generator was the
    bottleneck.
    """

    level: float
    stopped_by: str
    begin_at: float
    seconds: float
    warm_up_s: float
    steady: bool
    drift: float | None
    requests: int
    failures: int
    cut: int
    in_flight: float
    tokens: float
    tokens_per_s: float | None
    tokens_per_s_interval: Interval | None
    responses_per_s: float
    requests_joules: float | None
    idle_joules: float | None
    unobserved_joules: float | None
    unmeasured_joules: float | None
    prefill_part: float | None
    joules_per_token: float | None
    joules_per_token_interval: Interval | None
    joules_per_response: float | None
    joules_per_response_interval: Interval | None
    tokens_per_joule: float | None
    power_w: float | None
    ttft_ms: Quantiles | None
    itl_ms: Quantiles | None
    tpot_ms: Quantiles | None
    e2e_ms: Quantiles | None
    late_ms: float | None
    goodput_per_s: float | None
    goodput_part: float | None
    corrected: int
    provisional_off: float | None
    """Mean absolute difference between what answers said and the final figure, as a share of the final."""
    proof: Proof
    loadgen_cpu: float
    loadgen_lag_ms: float
    slow: bool
    simulated: bool


@dataclass(frozen=True, slots=True)
class Ran:
    """A level with what it was computed from."""

    level: Level
    seen: list[Seen]
    seconds: list[Second]


def run(
    plan: Plan,
    level: float,
    directory: Path,
    api: Api,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Ran:
    """Run one level; what Locust wrote is kept in `directory`. Raises SweepError."""
    begin_s, before = time.time(), api.meters()
    enough = (lambda: _precise(plan, level, directory, api, begin_s)) if plan.precision else None
    sent = load.run(plan, level, directory, progress, enough)
    records = api.settled([row["id"] for row in sent.rows], begin_s)
    end_s, after = time.time(), api.meters()
    gpus = _gpus(sent, records)
    moments = _moments(api, gpus, begin_s - EDGE_S, end_s)
    records, booked_uj = _corrected(api, records, gpus, begin_s)
    during = [moment for moment in moments if begin_s <= moment.begin_s]
    inside = figures.window(plan, level, sent, during, records)
    seen = figures.seen(sent, records, inside)
    over_time = figures.seconds(sent, records, during, inside)
    proof = prove(records, booked_uj, moments, gpus, begin_s, _counted(gpus, before, after))
    return Ran(_level(plan, level, sent, inside, seen, over_time, proof, records), seen, over_time)


def _counted(
    gpus: set[str], before: dict[str, Reading], after: dict[str, Reading]
) -> tuple[float, float, float] | None:
    """Two times and what the GPUs' meters counted between them; of several GPUs the times' means."""
    if not gpus <= before.keys() & after.keys():
        return None
    begin_s = mean(before[gpu][0] for gpu in gpus)
    end_s = mean(after[gpu][0] for gpu in gpus)
    return begin_s, end_s, sum(after[gpu][1] - before[gpu][1] for gpu in gpus)


def _gpus(sent: Load, records: Sequence[Record]) -> set[str]:
    """Those that served the load. Raises SweepError where none was measured."""
    own = {row["id"] for row in sent.rows}
    gpus = {part["gpu"] for record in records if record["request_id"] in own for part in record["gpus"]}
    if not gpus:
        raise SweepError("no GPU of these requests is measured: see `joulegate meters`")
    return gpus


def _moments(api: Api, gpus: set[str], begin_s: float, end_s: float) -> list[Moment]:
    """The books from `begin_s` on, once they have reached `end_s`."""
    deadline = time.monotonic() + BOOKS_S
    while True:
        moments = api.books(gpus, begin_s, end_s)
        # The interval at the end begins before it.
        if moments and moments[-1].end_s >= end_s:
            return moments
        if time.monotonic() > deadline:
            raise SweepError(f"the books had not reached the level's end after {BOOKS_S:.0f} s")
        time.sleep(POLL_S)


def _corrected(api: Api, records: list[Record], gpus: set[str], begin_s: float) -> tuple[list[Record], int]:
    """The records once their sum is what the books charged, or as they are after `CORRECTED_S`; and that
    charge.

    Corrections move joules between requests, but each is told by itself: until the last one is, the sum is
    off.
    """
    deadline = time.monotonic() + CORRECTED_S
    while True:
        booked_uj = api.charged_uj(gpus, begin_s)
        if (
            prove(records, booked_uj, (), gpus, begin_s, None).exact is not False
            or time.monotonic() > deadline
        ):
            return records, booked_uj
        time.sleep(POLL_S)
        records = api.records(begin_s)


def _precise(plan: Plan, level: float, directory: Path, api: Api, begin_s: float) -> bool:
    """Whether joules per token are known well enough by what is settled so far."""
    sent = Load(begin_s, load.read_rows(directory), [], "time")
    records = api.records(begin_s)
    if not records or not sent.rows:
        return False
    gpus = {part["gpu"] for record in records for part in record["gpus"]}
    until_s = max(record["finished_at"] for record in records)
    moments = (
        [moment for moment in api.books(gpus, begin_s, until_s) if moment.end_s <= until_s] if gpus else []
    )
    # Answers in flight have made tokens that no record tells yet: only what ended long enough ago is whole.
    longest_s = max((row["ended_at"] or 0) - row["sent_at"] for row in sent.rows)
    whole = [moment for moment in moments if moment.end_s <= until_s - longest_s]
    try:
        inside = figures.window(plan, level, sent, whole, records)
    except SweepError:
        return False
    over_time = figures.seconds(sent, records, whole, inside)
    return figures.precise([one for one in over_time if one.in_steady], plan.precision)


def _level(
    plan: Plan,
    level: float,
    sent: Load,
    inside: Window,
    seen: Sequence[Seen],
    over_time: Sequence[Second],
    proof: Proof,
    records: Sequence[Record],
) -> Level:
    moments = [one for one in over_time if one.in_steady]
    done = [one for one in seen if one.in_steady]
    took_s = sum(one.seconds for one in moments)
    measured = all(one.power_w is not None for one in moments)
    per_token, per_token_interval = (
        figures.ratio(moments, "requests_joules", "tokens") if measured else (None, None)
    )
    speed, speed_interval = figures.ratio(moments, "tokens", "seconds")
    costs = np.array([one.joules for one in done if one.joules is not None])
    prefill = sum(one.prefill_joules or 0 for one in done)
    total_j = sum((one.power_w or 0) * one.seconds for one in moments)
    tokens = sum(one.tokens for one in moments)
    good = [_good(plan, one) for one in done]
    off = [abs(one.joules_now / one.joules - 1) for one in done if one.joules and one.joules_now is not None]
    energy, made = (
        np.array([getattr(one, name) for one in moments]) for name in ("requests_joules", "tokens")
    )
    drift = steady.drift(energy, made if tokens else np.array([one.seconds for one in moments]))

    def joules(name: str) -> float | None:
        return sum(getattr(one, name) * one.seconds for one in moments) if measured else None

    late = [one["late_ms"] for one in sent.health if one["late_ms"] is not None]
    window_rows = {one.id for one in done}
    gaps = figures.gaps_of(row for row in sent.rows if row["id"] in window_rows)
    itl = {name: figures.gap_ms(gaps, part) for name, part in figures.PARTS.items()}
    return Level(
        level=level,
        stopped_by=sent.stopped_by,
        begin_at=inside.begin_s,
        seconds=took_s,
        warm_up_s=inside.begin_s - min(row["sent_at"] for row in sent.rows),
        steady=drift is None or abs(drift) <= steady.DRIFT,
        drift=drift,
        requests=len(done),
        failures=sum(one.status == "failed" for one in seen),
        cut=sum(one.status == "cut" for one in seen),
        in_flight=sum(one.in_flight * one.seconds for one in moments) / took_s,
        tokens=tokens,
        tokens_per_s=speed or None,
        tokens_per_s_interval=speed_interval if speed else None,
        responses_per_s=len(done) / took_s,
        requests_joules=joules("requests_w"),
        idle_joules=joules("idle_w"),
        unobserved_joules=joules("unobserved_w"),
        unmeasured_joules=joules("unmeasured_w"),
        prefill_part=float(prefill / costs.sum()) if tokens and costs.sum() else None,
        joules_per_token=per_token,
        joules_per_token_interval=per_token_interval,
        joules_per_response=float(costs.mean()) if len(costs) else None,
        joules_per_response_interval=spread.interval(spread.draws_of(costs, spread.mean)),
        tokens_per_joule=tokens / total_j if measured and total_j and tokens else None,
        power_w=total_j / took_s if measured else None,
        ttft_ms=figures.quantiles(one.ttft_ms for one in done),
        itl_ms={name: value for name, value in itl.items() if value is not None} or None,
        tpot_ms=figures.quantiles(one.tpot_ms for one in done),
        e2e_ms=figures.quantiles(one.e2e_ms for one in done),
        late_ms=max(late) if late else None,
        goodput_per_s=sum(good) / took_s if done and done[0].ttft_ms is not None else None,
        goodput_part=sum(good) / len(good) if done and done[0].ttft_ms is not None else None,
        corrected=sum(one.correction_joules is not None for one in seen),
        provisional_off=float(np.mean(off)) if off else None,
        proof=proof,
        loadgen_cpu=max((one["cpu_share"] for one in sent.health), default=0.0),
        loadgen_lag_ms=max((one["lag_ms"] for one in sent.health), default=0.0),
        slow=any(one["slow"] for one in sent.health),
        simulated=any(record["simulated"] for record in records),
    )


def _good(plan: Plan, one: Seen) -> bool:
    """Within the objective. An answer of one token has no time per token."""
    fast = one.tpot_ms is None or one.tpot_ms <= plan.slo_tpot_ms
    return one.ttft_ms is not None and one.ttft_ms <= plan.slo_ttft_ms and fast
