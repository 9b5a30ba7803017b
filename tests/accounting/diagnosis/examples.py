"""Facts of a made-up backend with round prices: a step costs 3 J and 8 ms, a token 0.05 J and 0.05 ms."""

from __future__ import annotations

from math import log2

import msgspec

from accounting.diagnosis.window import Booked, Spent, Window
from accounting.records import MINUTE_US, BackendFacts

T0_US = 1_790_000_040_000_000
"""A whole minute."""

PRICES = [3.0, 0.0, 0.02, 0.0, 0.05, 0.0]
TIMES = [8e-3, 0.0, 4e-5, 0.0, 5e-5, 0.0]
STATIC_W = 100.0


def facts(minute: int = 0, *, batch: float = 8.0, steps: float = 6_000.0, **changes: object) -> BackendFacts:
    """A minute with so many steps of this batch, its energy and time just what the prices say."""
    tokens, prompt = batch * steps, 20_000.0
    work = [steps, steps * log2(1 + batch), prompt, 0.0, tokens, 0.0]
    busy_s = sum(w * t for w, t in zip(work, TIMES, strict=True))
    energy_uj = round(1e6 * sum(w * p for w, p in zip(work, PRICES, strict=True)))
    whole = BackendFacts(
        backend="one",
        t0_us=T0_US + minute * MINUTE_US,
        gpus=["GPU-a"],
        simulated=True,
        settled_us=MINUTE_US,
        busy_us=min(round(busy_s * 1e6), MINUTE_US),
        request_us=round(batch * busy_s * 1e6),
        arrived=200,
        arriving_us=MINUTE_US - 500_000,
        requests_uj=energy_uj,
        idle_uj=round(max(60.0 - busy_s, 0.0) * STATIC_W * 1e6),
        unobserved_uj=0,
        peak_w=600.0,
        static_w=STATIC_W,
        retries=0,
        retried_uj=0,
        learnt_us=min(round(busy_s * 1e6), MINUTE_US),
        learnt_uj=energy_uj,
        tokens=tokens,
        work=work,
        prices=PRICES,
        times=TIMES,
        price_error=0.02,
        time_error=0.02,
        looks=60,
        running=batch,
        waiting=0.0,
        most_running=round(batch) + 2,
        looks_waiting=0,
        seats=None,
        kv_used=0.2,
        kv_most=0.3,
        preemptions=0,
        gpu_looks=60,
        limit_w=700.0,
        default_limit_w=700.0,
        sm_clock_mhz=1980.0,
        capped=0.0,
        throttled=0.0,
    )
    return msgspec.structs.replace(whole, **changes)


def empty(minute: int, **changes: object) -> BackendFacts:
    """A minute without a request."""
    nothing = {"request_us": 0, "arrived": 0, "arriving_us": 0, "requests_uj": 0, "learnt_us": 0}
    nothing |= {"learnt_uj": 0, "busy_us": 0, "idle_uj": round(60 * STATIC_W * 1e6)}
    one = facts(minute, **nothing)
    return msgspec.structs.replace(one, tokens=0.0, work=[0.0] * 6, running=0.0, **changes)


def spent(status: str = "ok", joules: float = 1000.0, backend: str = "one", model: str = "m") -> Spent:
    uj = round(joules * 1e6)
    return Spent(
        backend=backend,
        model=model,
        status=status,
        requests=100,
        energy_uj=uj,
        prefill_uj=uj // 10,
        decode_uj=uj - uj // 10,
        dynamic_uj=uj // 2,
        prompt_tokens=20_000,
        cached_tokens=0,
        completion_tokens=40_000,
    )


def window(*of: BackendFacts, spends: tuple[Spent, ...] = (), **changes: object) -> Window:
    given = {
        "t0_us": T0_US,
        "t1_us": T0_US + 60 * MINUTE_US,
        "facts": list(of),
        "spent": list(spends or (spent(),)),
        "booked": Booked(measured_uj=1, requests_uj=1),
    }
    return Window(**(given | changes))  # type: ignore[arg-type]
