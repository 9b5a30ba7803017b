"""Traffic that did not pass the proxy: what the engine counted beyond what was seen here.

Engines count the tokens they computed (`EngineCounters`). Laid beside the tokens of the requests seen here,
over the latest ten seconds, the excess is somebody else's. That work gets its share of the energy like any
other, and its share is booked as unobserved.
"""

from __future__ import annotations

from accounting.events import EngineCounters
from accounting.ledger.features import Work
from accounting.ledger.intervals import INTERVAL_US
from accounting.ledger.state import BackendState, Compared, Counted, Guessed

SAMPLES = 32
INTERVALS = 20
"""Intervals compared at a time: counters and tokens are not heard at the same moment."""

TOLERANCE = 0.05
"""Excess below this part of the engine's count is noise."""

NEAR_US = 1_500_000
"""Counters this near to an interval tell its steps and who ran."""

MOST_STEPS = 1.5
"""An interval has at most this many times the steps that the engine counted about then."""

RIGHT = (0.7, 1.4)
"""A guess within these factors of what the engine counts is left alone: the comparison is no better."""

MOST_TIMES = 8.0
"""Answers that are not streamed decode at most this many times as fast as assumed."""

STALE_US = 3_000_000
"""Counters older than this tell nothing of an interval."""


def count(backend: BackendState, event: EngineCounters) -> None:
    """Take the engine's counters. One that fell is a new engine's."""
    if event.generation_tokens is None:
        return
    prompt = max((event.prompt_tokens or 0) - (event.cached_tokens or 0), 0)
    last = backend.counted[-1] if backend.counted else None
    if last is not None and (event.t_us <= last.t_us or event.generation_tokens < last.generated):
        backend.counted, backend.compared = [], []
    now = Counted(
        event.t_us, event.generation_tokens, prompt, event.steps, event.running, waiting=event.waiting
    )
    backend.counted.append(now)
    del backend.counted[:-SAMPLES]


def note(backend: BackendState, work: Work, t0_us: int, t1_us: int) -> None:
    """Set what of the interval's work was done for others."""
    if t1_us - t0_us != INTERVAL_US:
        return
    engine = _between(backend.counted, t0_us, t1_us)
    if engine is None:
        backend.compared = []
        return
    generated, prompt = engine
    _trust_steps(backend.counted, work, t0_us, t1_us)
    _trust_seats(backend.counted, work, t1_us)
    assumed = float(work.assumed.sum())
    if assumed > 0:
        # What is counted and not seen is first of all theirs whose answers are not streamed.
        seen = (float(work.tokens.sum()) - assumed) * backend.tokens_per_event
        backend.guessed.append(Guessed(generated - seen, assumed))
        del backend.guessed[:-INTERVALS]
        if len(backend.guessed) >= INTERVALS // 2:
            times = sum(g.engine for g in backend.guessed) / sum(g.assumed for g in backend.guessed)
            if not RIGHT[0] < times < RIGHT[1]:
                work.assume(min(max(times, 0.0), MOST_TIMES))
        backend.compared = []
        return
    ours = float(work.tokens.sum()) * backend.tokens_per_event
    backend.compared.append(Compared(ours, generated, float(work.prompt.sum()), prompt))
    del backend.compared[:-INTERVALS]
    if len(backend.compared) < INTERVALS // 2:
        return
    work.others_tokens = _excess(ours, generated, [(c.ours, c.engine) for c in backend.compared])
    work.others_tokens /= backend.tokens_per_event
    pairs = [(c.ours_prompt, c.engine_prompt) for c in backend.compared]
    work.others_prompt = _excess(float(work.prompt.sum()), prompt, pairs)


def _trust_steps(samples: list[Counted], work: Work, t0_us: int, t1_us: int) -> None:
    """Tokens that were held up and come in a burst look like many steps: the engine knows better."""
    first, last = samples[0], samples[-1]
    if first.steps is None or last.steps is None or last.t_us <= first.t_us or last.steps < first.steps:
        return
    near = [s for s in samples if s.steps is not None and t0_us - NEAR_US <= s.t_us <= t1_us + NEAR_US]
    if len(near) < 2 or near[-1].t_us <= near[0].t_us:
        return
    rate = ((near[-1].steps or 0) - (near[0].steps or 0)) / (near[-1].t_us - near[0].t_us)
    counted = max(rate, 0.0) * (t1_us - t0_us)
    work.steps = min(work.steps, MOST_STEPS * counted + 1.0)


def _trust_seats(samples: list[Counted], work: Work, t1_us: int) -> None:
    """While some wait, no more unseen answers decode than the engine runs requests beside those seen to.

    Each counts for the part of the interval in which it was in flight: many may have come and gone in it.
    """
    sample = next((s for s in reversed(samples) if s.t_us <= t1_us + NEAR_US), None)
    if sample is None or sample.running is None or sample.waiting == 0:
        return
    there = work.in_flight_us / INTERVAL_US
    unseen = float(there[work.assumed > 0].sum())
    seats = max(sample.running - float(there[(work.tokens > 0) & (work.assumed == 0)].sum()), 0.0)
    if seats < unseen:
        work.assume(seats / unseen)


def _between(samples: list[Counted], t0_us: int, t1_us: int) -> tuple[float, float] | None:
    """Tokens generated and prompt tokens computed in [t0_us, t1_us), between samples taken as even."""
    if len(samples) < 2 or samples[0].t_us > t0_us or samples[-1].t_us + STALE_US < t1_us:
        return None
    (g0, p0), (g1, p1) = _at(samples, t0_us), _at(samples, t1_us)
    return g1 - g0, p1 - p0


def _at(samples: list[Counted], t_us: int) -> tuple[float, float]:
    right = next((i for i, s in enumerate(samples) if s.t_us >= t_us), len(samples) - 1)
    left = max(right - 1, 0)
    a, b = samples[left], samples[max(right, 1)]
    part = (t_us - a.t_us) / max(b.t_us - a.t_us, 1)
    return a.generated + part * (b.generated - a.generated), a.prompt + part * (b.prompt - a.prompt)


def _excess(ours: float, engine: float, pairs: list[tuple[float, float]]) -> float:
    """The others' part of this interval, by the ratio of the latest ones; all of it where none was ours."""
    seen, counted = sum(o for o, _ in pairs), sum(e for _, e in pairs)
    if counted - seen <= TOLERANCE * counted:
        return 0.0
    if ours <= 0 or seen <= 0:
        return max(engine, 0.0)
    return ours * (counted - seen) / seen
