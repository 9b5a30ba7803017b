"""Each rule on facts made for it: it finds its cause, says what it should, and holds its tongue otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from accounting.diagnosis import diagnose
from accounting.diagnosis.findings import Finding, RuledOut
from accounting.diagnosis.window import Window
from accounting.records import BackendFacts
from tests.accounting.diagnosis.examples import PRICES, STATIC_W, TIMES, empty, facts, spent, window


def finding(of: Window, cause: str) -> Finding:
    return next(one for one in diagnose(of).findings if one.cause == cause)


def ruled_out(of: Window, cause: str) -> RuledOut:
    return next(one for one in diagnose(of).ruled_out if one.cause == cause)


def test_idle_energy_of_empty_minutes_can_be_saved_that_of_gaps_cannot() -> None:
    gaps = facts(0, steps=3_000)
    found = finding(window(gaps, empty(1), empty(2)), "idle-power")
    assert found.saving_uj == round(2 * 60 * STATIC_W * 1e6)
    assert gaps.idle_uj > 0
    assert found.joules_uj == round(2 * 60 * STATIC_W * 1e6) + gaps.idle_uj


def test_little_idle_energy_is_no_finding() -> None:
    assert "0.0%" in ruled_out(window(facts(0, steps=7_200)), "idle-power").why


def test_without_the_aborted_less_is_saved_than_they_were_charged() -> None:
    busy = [facts(n, batch=16.0, steps=6_500) for n in range(3)]
    charged = sum(one.requests_uj for one in busy) / 1e6
    spends = spent("ok", charged / 2), spent("aborted", charged / 2)
    found = finding(window(*busy, spends=spends), "aborted")
    assert found.joules_uj == pytest.approx(charged / 2 * 1e6, rel=1e-3)
    assert found.saving_uj is not None
    assert 0 < found.saving_uj < 0.9e6 * charged / 2
    assert diagnose(window(*busy, spends=spends)).findings[0].cause == "aborted"


def test_refused_requests_are_not_unwanted_work() -> None:
    assert ruled_out(window(facts(0), spends=(spent("client_error"),)), "aborted").why.startswith("0.0%")


def test_failed_tries_count_against_the_backend_that_failed_them() -> None:
    one = facts(0, retries=30, retried_uj=facts(0).requests_uj // 5)
    assert finding(window(one), "retries").evidence["failed_tries"] == 30
    assert ruled_out(window(facts(0)), "retries").why.startswith("0 failed")


def replicas(count: int, **changes: Any) -> Window:
    of = [facts(n, backend=f"r{k}", gpus=[f"GPU-{k}"], **changes) for k in range(count) for n in range(3)]
    return window(*of, spends=tuple(spent(backend=f"r{k}") for k in range(count)))


def test_replicas_with_little_to_do_are_too_many() -> None:
    found = finding(replicas(4, batch=2.0, steps=6_000), "replicas")
    assert found.backend == "r0, r1, r2, r3"
    assert found.evidence["replicas_enough"] == 1
    assert found.saving_uj is not None
    assert found.joules_uj is not None
    # One engine makes four times as many tokens of a step that costs 3 J however many they are.
    assert 0.5 < found.saving_uj / found.joules_uj < 0.75


def test_full_replicas_are_not_too_many() -> None:
    full: dict[str, Any] = {"batch": 64.0, "steps": 5_000, "kv_used": 0.7, "kv_most": 0.8}
    assert ruled_out(replicas(2, **full), "replicas").why == "fewer would be too slow"


def test_replicas_of_different_models_are_not_put_together() -> None:
    of = [facts(0, backend=name, gpus=[name]) for name in ("a", "b")]
    told = window(*of, spends=(spent(backend="a", model="x"), spent(backend="b", model="y")))
    assert ruled_out(told, "replicas").why == "there is only one of this model"


def queued(**changes: Any) -> BackendFacts:
    given: dict[str, Any] = {"looks_waiting": 55, "waiting": 40.0, "seats": 4, "running": 4.0}
    return facts(0, batch=4.0, steps=7_000, arrived=400, **(given | changes))


def test_a_queue_with_kv_memory_free_is_for_want_of_seats() -> None:
    found = finding(window(queued(kv_used=0.01, kv_most=0.02)), "max-num-seqs")
    assert found.evidence["seats"] == 4
    assert found.evidence["room_for"] == 320  # 80 % of the cache of which 4 took 1 %
    assert found.saving_uj is not None
    assert found.saving_uj > 0
    assert ruled_out(window(queued()), "kv-memory").cause == "kv-memory"
    assert ruled_out(window(queued()), "demand").cause == "demand"


@pytest.mark.parametrize("sign", [{"kv_most": 0.99}, {"preemptions": 7}])
def test_a_queue_at_a_full_kv_cache_is_for_want_of_memory(sign: dict[str, Any]) -> None:
    found = finding(window(queued(**sign)), "kv-memory")
    assert found.saving_uj is not None
    assert found.saving_uj > 0
    assert ruled_out(window(queued(**sign)), "max-num-seqs").cause == "max-num-seqs"


def test_without_a_queue_it_is_demand_that_limits_the_batch() -> None:
    found = finding(window(facts(0, batch=4.0)), "demand")
    steps_j = 6_000 * PRICES[0]
    assert found.joules_uj == pytest.approx(steps_j * 1e6)
    # Half of the steps less, and idle power while the GPU would have nothing to do.
    saved_j = steps_j / 2 - 3_000 * TIMES[0] * STATIC_W
    assert found.saving_uj == pytest.approx(saved_j * 1e6, rel=1e-6)


def test_without_the_engines_counters_nobody_knows_what_limits_the_batch() -> None:
    blind = facts(0, looks=0, running=None, waiting=None, kv_used=None, kv_most=None, preemptions=None)
    for cause in ("max-num-seqs", "kv-memory", "demand"):
        assert ruled_out(window(blind), cause).unknown


def held(**changes: Any) -> BackendFacts:
    """Clocks at half: a step takes twice as long and costs half as much again."""
    slow = [2 * t for t in TIMES]
    one = facts(5, steps=3_500, **changes)
    return type(one)(
        **{
            **{name: getattr(one, name) for name in one.__struct_fields__},
            "times": slow,
            "learnt_uj": round(1.5 * one.learnt_uj),
            "requests_uj": round(1.5 * one.requests_uj),
            "busy_us": min(2 * one.busy_us, 60_000_000),
            "learnt_us": min(2 * one.busy_us, 60_000_000),
        }
    )


@pytest.mark.parametrize(("sign", "cause"), [("capped", "power-cap"), ("throttled", "thermal")])
def test_clocks_held_down_are_compared_with_the_newest_free_minute(sign: str, cause: str) -> None:
    of = held(**{sign: 0.9})
    found = finding(window(of, earlier=[facts(-9), facts(-3)]), cause)
    assert found.evidence["compared_with_minute"] == facts(-3).t0_us // 1_000_000
    free_j = of.learnt_uj / 1.5 / 1e6
    idle_j = STATIC_W * (of.busy_us / 1e6 - sum(w * t for w, t in zip(of.work, TIMES, strict=True)))
    assert found.saving_uj == pytest.approx(of.learnt_uj - (free_j + idle_j) * 1e6, rel=1e-3)


def test_without_a_free_minute_the_saving_is_not_known() -> None:
    found = finding(window(held(capped=0.9)), "power-cap")
    assert found.saving_uj is None
    assert found.uncertainty_uj is None
    assert found.joules_uj == held().learnt_uj


def test_another_gpus_minute_is_no_comparison() -> None:
    other = facts(-3, gpus=["GPU-b"])
    assert finding(window(held(capped=0.9), earlier=[other]), "power-cap").saving_uj is None


def test_gpus_that_say_nothing_of_clocks_leave_it_open() -> None:
    assert ruled_out(window(facts(0, capped=None, throttled=None)), "power-cap").unknown


def test_long_prompts_are_found_by_energy_and_by_time() -> None:
    one = facts(0, batch=2.0, steps=1_000)
    one.work[2] = 1_000_000.0
    one.learnt_uj += 20_000_000_000
    one.learnt_us = one.busy_us = 50_000_000
    told = window(one)
    assert finding(told, "prefill").joules_uj == pytest.approx(20_000e6)
    waits = finding(told, "prefill-interference")
    assert waits.saving_uj is None
    assert waits.joules_uj is None
    assert ruled_out(window(facts(0)), "prefill").cause == "prefill"


def test_what_takes_more_than_half_of_the_time_is_the_bound() -> None:
    assert finding(window(facts(0, batch=2.0)), "bandwidth-bound").joules_uj == 18_000_000_000
    assert finding(window(facts(0, batch=400.0, steps=2_000)), "compute-bound").saving_uj is None


def test_waste_comes_before_what_the_work_is_like_and_the_larger_saving_first() -> None:
    causes = [one.kind for one in diagnose(window(facts(0, steps=3_000), empty(1))).findings]
    assert causes[0] == "waste"
    assert causes.index("work") > causes.index("waste")


def test_a_tenants_findings_are_its_share() -> None:
    whole = finding(window(facts(0), empty(1)), "idle-power")
    mine = finding(window(facts(0), empty(1), shares={"one": 0.25}, booked=None), "idle-power")
    assert whole.saving_uj is not None
    assert mine.saving_uj == whole.saving_uj // 4
    assert mine.evidence["share_asked_about"] == 0.25


def test_where_the_joules_went_is_null_where_only_a_part_is_asked_about() -> None:
    where = diagnose(window(facts(0), booked=None, asked=[spent(joules=10.0)])).where
    assert (where.requests_uj, where.prefill_uj, where.static_uj) == (10_000_000, 1_000_000, 5_000_000)
    assert where.measured_uj is None
    assert where.idle_uj is None
    assert where.retried_uj is None


def test_idle_power_that_was_never_learnt_counts_for_nothing() -> None:
    found = finding(window(facts(0, static_w=None)), "demand")
    assert found.saving_uj == pytest.approx(3_000 * PRICES[0] * 1e6)
