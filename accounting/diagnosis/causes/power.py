"""Clocks held down: by a power limit, or by heat or a power brake.

What the same work costs without that is known only from minutes without it: the newest of this window or of
the days before, on the same GPUs. Its prices and times serve the work anew, at the batch that it had: as of
clients that wait for their answers. A limit a little below what a GPU would draw as a rule saves energy, and
the saving of lifting it comes out below 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from accounting.diagnosis.findings import Finding, RuledOut, Verdict, rounded, uncertainty_uj
from accounting.diagnosis.project import Prices, at_batch, load_of, total
from accounting.diagnosis.window import STEPS, Backend, Window
from accounting.records import FREE, BackendFacts

HELD = 0.2
"""Part of the looks at which clocks were held down, in a minute that counts as held."""

LEAST = 0.1
REASONS = {"capped": ("power-cap", "a power limit"), "throttled": ("thermal", "heat or a power brake")}


def look(window: Window) -> list[Verdict]:
    return [_of(backend, name, window) for backend in window.backends for name in REASONS]


def _of(backend: Backend, name: str, window: Window) -> Verdict:
    cause, by = REASONS[name]
    known = [one for one in backend.worked if getattr(one, name) is not None]
    if not known:
        why = "the GPUs do not say what holds their clocks down"
        return RuledOut(cause=cause, backend=backend.name, why=why, unknown=True)
    held = [one for one in known if getattr(one, name) >= HELD]
    busy_us = sum(one.busy_us for one in held)
    part = busy_us / 1e6 / backend.busy_s if backend.busy_s else 0.0
    newest = (held or known)[-1]
    evidence = {
        "part_of_busy_time": rounded(part),
        "limit_w": rounded(newest.limit_w),
        "default_limit_w": rounded(newest.default_limit_w),
        "peak_w": rounded(max(one.peak_w for one in known)),
        "sm_clock_mhz": rounded(newest.sm_clock_mhz),
    }
    if part < LEAST:
        return RuledOut(
            cause=cause, backend=backend.name, why=f"{by} held clocks at {part:.0%}", evidence=evidence
        )
    energy_uj = sum(one.learnt_uj for one in held)
    free = _reference(newest, [*window.earlier, *backend.worked])
    saving_uj = sigma_uj = None
    if free is not None:
        load, steps = total([load_of(one) for one in held]), sum(one.work[STEPS] for one in held)
        batch, busy_s = load.tokens / steps, busy_us / 1e6
        then = at_batch(load, batch, Prices(free.prices), Prices(free.times))
        wall_s = max(busy_s, then.busy_s)
        now_uj = energy_uj + round(1e6 * backend.static_w * (wall_s - busy_s))
        saving_uj = now_uj - round(1e6 * then.drawn_j(wall_s, backend.static_w))
        sigma_uj = uncertainty_uj(saving_uj, free.price_error, batch, batch)
        sigma_uj = max(sigma_uj, round((free.price_error or 0.1) * energy_uj))
    return Finding(
        cause=cause,
        kind="limit",
        backend=backend.name,
        what=f"{by} held the clocks down for {part:.0%} of the busy time",
        change="raise the power limit" if cause == "power-cap" else "see to the cooling or the power supply",
        joules_uj=energy_uj,
        saving_uj=saving_uj,
        uncertainty_uj=sigma_uj,
        evidence={**evidence, "compared_with_minute": None if free is None else free.t0_us // 1_000_000},
    )


def _reference(held: BackendFacts, facts: Sequence[BackendFacts]) -> BackendFacts | None:
    """The newest minute of the same backend and GPUs that worked with free clocks, before the held ones."""
    free = [
        one
        for one in facts
        if one.backend == held.backend
        and one.gpus == held.gpus
        and one.learnt_us > 0
        and one.capped is not None
        and one.capped <= FREE
        and (one.throttled or 0.0) <= FREE
        and one.price_error is not None
    ]
    return max(free, key=lambda one: one.t0_us, default=None)
