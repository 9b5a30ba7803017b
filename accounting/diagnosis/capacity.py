"""How many requests of the present mix fit a power budget and limits on latency, on how many replicas.

The requests that were seen are served by an engine that is not there (`serving.py`), at ever higher rates,
until a limit is passed or the queue grows without end. What it says of power and time is as good as what was
learnt, so figures far from the loads that were seen (`beyond_seen`) are less sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, inf, log, log1p
from statistics import median

from accounting.diagnosis.project import Prices
from accounting.diagnosis.serving import Asked, Engine, Run, percentile, run
from accounting.diagnosis.window import DEC, KV, STEPS, Backend
from accounting.store.engine import CannotAnswer

REQUESTS, SEEDS = 800, (1, 2)
"""Requests served at each rate, with each of these seeds."""

MARGIN = 0.97
"""Of the highest rate that fits, so much is promised."""

ROUNDS = 9
MOST_WAYS = 4
"""Requests that come in turn to more replicas than this come to each as evenly as to so many."""

MOST_SEATS = 1024
MOST_REPLICAS = 64
HIGHEST = 512.0
"""Times the present rate: beyond it no limit is looked for."""


class Unanswerable(CannotAnswer):
    """Too little is known of the model, or the question is about several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """None: no limit. Latencies are percentiles over requests; `itl_ms` of a request's mean time between
    tokens. `prompt_factor`, `answer_factor`: how lengths change. `growth` of the rate per month, 0.1 for a
    tenth."""

    power_w: float | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    percent: float = 95.0
    per_s: float | None = None
    growth: float | None = None
    most_replicas: int | None = None
    prompt_factor: float = 1.0
    answer_factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Minutes of a like load, observed. Powers and rates are per replica and while measured."""

    batch: float
    minutes: int
    tokens_per_s: float
    power_w: float
    tokens_per_joule: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """So many replicas, each at its share of `per_s` requests a second."""

    replicas: int
    per_s: float
    power_w: float
    batch: float
    tokens_per_s: float
    tokens_per_joule: float
    ttft_ms: float | None
    itl_ms: float | None
    max_num_seqs: int
    """A limit that the batch hardly reaches at this load."""
    held_by: str
    """What forbids more: power, ttft, itl, overload; nothing where this is all that was asked for."""
    beyond_seen: bool
    """Whether the batch is more than twice as large as any minute's that was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """`most` is the way that carries most requests, None: none fits. `forecast` carries the asked rate with
    least power, None: it does not fit. `months` until `most` is full. `changed` is `most` with the changed
    mix."""

    model: str | None
    backends: list[str]
    gpus_each: int
    present_per_s: float
    peak_per_s: float
    """Of the busiest minute."""
    seen: list[Seen]
    most: Way | None
    by_replicas: list[Way]
    forecast: Way | None
    forecast_per_s: float
    months: float | None
    changed: Way | None
    price_error: float | None
    time_error: float | None
    simulated: bool


def capacity(
    group: Sequence[Backend], mix: Sequence[Asked], question: Question, model: str | None = None
) -> Capacity:
    """`group`: the replicas of one model. Takes seconds of one core. Raises Unanswerable."""
    known = [backend for backend in group if backend.worked]
    if not known or not mix:
        raise Unanswerable("no requests of this model were seen at work in this time")
    best = max(known, key=lambda backend: sum(one.learnt_us for one in backend.worked))
    seconds = max(backend.settled_s for backend in known)
    present = sum(one.arrived for backend in known for one in backend.facts) / max(seconds, 1.0)
    curve = _Curve(best, mix, question, max(present / len(known), 0.01))
    by_replicas = curve.ways(question)
    most = max(by_replicas, key=lambda way: (way.per_s, -way.replicas), default=None)
    asked = question.per_s if question.per_s is not None else present
    changed = None
    if (question.prompt_factor, question.answer_factor) != (1.0, 1.0):
        ways = _Curve(best, _stretched(mix, question), question, curve.start).ways(question)
        changed = max(ways, key=lambda way: (way.per_s, -way.replicas), default=None)
    months = None
    if most is not None and question.growth and asked > 0:
        months = max(log(most.per_s / asked) / log1p(question.growth), 0.0)
    return Capacity(
        model=model,
        backends=[backend.name for backend in known],
        gpus_each=best.gpus,
        present_per_s=present,
        peak_per_s=_peak(known),
        seen=_seen(known),
        most=most,
        by_replicas=by_replicas,
        forecast=curve.least_power(asked, by_replicas, question),
        forecast_per_s=asked,
        months=months,
        changed=changed,
        price_error=best.newest.price_error,
        time_error=best.newest.time_error,
        simulated=any(one.simulated for one in best.facts),
    )


class _Curve:
    """One replica at any rate."""

    def __init__(self, backend: Backend, mix: Sequence[Asked], question: Question, start: float) -> None:
        self.start = start
        self._backend, self._mix, self._question = backend, mix, question
        self._engine = Engine(
            Prices(backend.newest.prices),
            Prices(backend.newest.times),
            backend.static_w,
            MOST_SEATS,
            kv_tokens(backend),
        )
        self._runs: dict[tuple[float, int], Way] = {}
        self._largest = max(one.tokens / one.work[STEPS] for one in backend.worked)

    def at(self, per_s: float, ways: int) -> Way:
        """One of so many replicas at this rate; `held_by` says which limit on latency it passes."""
        key = (per_s, min(ways, MOST_WAYS))
        if key not in self._runs:
            runs = [run(self._engine, self._mix, per_s, REQUESTS, ways=key[1], seed=seed) for seed in SEEDS]
            self._runs[key] = self._way(per_s, runs)
        return self._runs[key]

    def _way(self, per_s: float, runs: list[Run]) -> Way:
        percent = self._question.percent
        ttft_s = percentile([t for one in runs for t in one.ttft_s], percent)
        itl_s = percentile([t for one in runs for t in one.itl_s], percent)
        seconds, energy_j = sum(one.seconds for one in runs), sum(one.energy_j for one in runs)
        tokens = sum(one.tokens for one in runs)
        batch = tokens / max(sum(one.steps for one in runs), 1e-9)
        held = ""
        if any(one.overloaded for one in runs):
            held = "overload"
        elif self._question.ttft_ms is not None and 1000 * (ttft_s or 0.0) > self._question.ttft_ms:
            held = "ttft"
        elif self._question.itl_ms is not None and 1000 * (itl_s or 0.0) > self._question.itl_ms:
            held = "itl"
        seats = 8 * ceil(1.2 * max(one.most_running for one in runs) / 8)
        return Way(
            replicas=1,
            per_s=per_s,
            power_w=energy_j / seconds,
            batch=batch,
            tokens_per_s=tokens / seconds,
            tokens_per_joule=tokens / energy_j if energy_j else 0.0,
            ttft_ms=None if ttft_s is None else 1000 * ttft_s,
            itl_ms=None if itl_s is None else 1000 * itl_s,
            max_num_seqs=max(seats, 8),
            held_by=held,
            beyond_seen=batch > 2 * self._largest,
        )

    def most(self, power_w: float, ways: int) -> Way | None:
        """The highest rate of one of so many replicas within all limits and this power; `held_by` says what
        forbids more."""

        def held(way: Way) -> str:
            return way.held_by or ("power" if way.power_w > power_w else "")

        low, high = 0.0, self.start
        while not held(self.at(high, ways)) and high < HIGHEST * self.start:
            low, high = high, 2 * high
        if not (why := held(self.at(high, ways))):
            return replace(self.at(high, ways), held_by="")
        lowest = self.start / HIGHEST
        while low == 0.0 and high > lowest:
            if held(self.at(high / 2, ways)):
                high /= 2
            else:
                low = high / 2
        if low == 0.0:
            return None
        for _ in range(ROUNDS):
            middle = exp((log(low) + log(high)) / 2)
            if now := held(self.at(middle, ways)):
                high, why = middle, now
            else:
                low = middle
        return replace(self.at(MARGIN * low, ways), held_by=why)

    def ways(self, question: Question) -> list[Way]:
        """By number of replicas, as long as more of them carry more."""
        ways: list[Way] = []
        highest = question.most_replicas
        if highest is None:
            highest = MOST_REPLICAS if question.power_w is not None else 1
        for count in range(1, highest + 1):
            one = self.most(inf if question.power_w is None else question.power_w / count, count)
            if one is None:
                break
            ways.append(_times(one, count))
            if len(ways) > 2 and ways[-1].per_s < ways[-2].per_s < ways[-3].per_s:
                break
        return ways

    def least_power(self, per_s: float, ways: Sequence[Way], question: Question) -> Way | None:
        """The number of replicas that carries this rate with least power."""
        fitting = [
            _times(self.at(per_s / way.replicas, way.replicas), way.replicas)
            for way in ways
            if way.per_s >= per_s
        ]
        allowed = [way for way in fitting if not way.held_by and way.power_w <= (question.power_w or inf)]
        return min(allowed, key=lambda way: way.power_w, default=None)


def kv_tokens(backend: Backend) -> float | None:
    """Tokens that the KV cache has room for, from how many ran, with which context, in which part of it."""
    shown = [
        one.running * one.work[KV] / one.work[DEC] / one.kv_used
        for one in backend.worked
        if one.running and one.kv_used and one.kv_used > 0.01 and one.work[DEC] > 0
    ]
    return median(shown) if shown else None


def _times(way: Way, count: int) -> Way:
    return replace(
        way,
        replicas=count,
        per_s=way.per_s * count,
        power_w=way.power_w * count,
        tokens_per_s=way.tokens_per_s * count,
    )


def _stretched(mix: Sequence[Asked], question: Question) -> list[Asked]:
    by_prompt, by_answer = question.prompt_factor, question.answer_factor
    return [
        Asked(
            max(round(asked.prompt * by_prompt), 1),
            round(asked.cached * by_prompt),
            max(round(asked.answer * by_answer), 1),
        )
        for asked in mix
    ]


def _peak(group: Sequence[Backend]) -> float:
    by_minute: dict[int, float] = {}
    for backend in group:
        for one in backend.facts:
            if one.settled_us >= 30_000_000:
                rate = 1e6 * one.arrived / one.settled_us
                by_minute[one.t0_us] = by_minute.get(one.t0_us, 0.0) + rate
    return max(by_minute.values(), default=0.0)


def _seen(group: Sequence[Backend]) -> list[Seen]:
    """Throughput and power over load: minutes whose batches lie within a factor of the square root of 2."""
    classes: dict[int, list[tuple[float, float, float, float]]] = {}
    for backend in group:
        for one in backend.worked:
            seconds, drawn_j = one.settled_us / 1e6, (one.requests_uj + one.idle_uj + one.unobserved_uj) / 1e6
            if seconds >= 30 and drawn_j > 0:
                row = (one.work[STEPS], one.tokens, seconds, drawn_j)
                classes.setdefault(round(2 * log(one.tokens / one.work[STEPS], 2)), []).append(row)
    seen = []
    for _, rows in sorted(classes.items()):
        steps, tokens, seconds, joules = (sum(column) for column in zip(*rows, strict=True))
        seen.append(
            Seen(
                batch=tokens / steps,
                minutes=len(rows),
                tokens_per_s=tokens / seconds,
                power_w=joules / seconds,
                tokens_per_joule=tokens / joules,
            )
        )
    return seen
