"""Figures of a level from rows, records and books that are known."""

from __future__ import annotations

from typing import Any

import pytest

from joulegate.sweep import figures
from joulegate.sweep.api import Moment
from joulegate.sweep.figures import Window
from joulegate.sweep.load import Load
from joulegate.sweep.plan import Plan, SweepError
from joulegate.sweep.proof import METER_LAG_S, prove

PLAN = Plan("http://x", "m", "chat")


def row(name: str, sent: float, ended: float, status: str = "ok", **more: Any) -> dict[str, Any]:
    """A request whose first token came after 0.1 s, with 11 tokens."""
    row = {"id": name, "intended_at": sent, "sent_at": sent, "first_at": sent + 0.1, "last_at": ended}
    row |= {"ended_at": ended, "prompt_tokens": 5, "tokens": 11, "chunks": 11, "gaps": {"40": 10}}
    return {**row, "joules": 1.0, "status": status, "error": None, **more}


def record(name: str, first: float, end: float, tokens: int = 100, uj: int = 7) -> dict[str, Any]:
    found = {"request_id": name, "first_token_at": first, "finished_at": end, "completion_tokens": tokens}
    found |= {"started_at": first - 0.1, "energy_joules": uj / 1e6, "gpus": [{"gpu": "G", "energy_uj": uj}]}
    return found


def moment(begin: float, seconds: float = 1.0, requests_uj: int = 400_000_000, **more: Any) -> Moment:
    parts = {"idle_uj": 0, "unobserved_uj": 0, "unmeasured_uj": 0, "balanced": True}
    parts |= {"measured_uj": requests_uj, "requests_uj": requests_uj}
    return Moment(begin, begin + seconds, **{**parts, **more})


def moments(count: int, begin: float = 0.0) -> list[Moment]:
    return [moment(begin + number) for number in range(count)]


def test_tokens_are_spread_over_their_answer() -> None:
    t = 1_790_000_000.0
    records = [record("a", t + 0.5, t + 2.5), record("b", t + 1.0, t + 1.0, 7)]
    assert figures.tokens_in(records, moments(4, t)).tolist() == pytest.approx([25, 57, 25, 0], abs=0.01)
    nothing = {**record("c", t, t + 1), "first_token_at": None}
    assert figures.tokens_in([nothing], moments(2, t)).tolist() == [0, 0]


def test_the_steady_state_begins_with_the_first_token_of_the_last_and_ends_with_sending() -> None:
    rows = [row("a", 0.0, 9.0), row("b", 2.0, 9.0), row("c", 9.0, 12.0)]
    health = [{"stopped_at": 10.0}, {"stopped_at": 10.5}]
    records = [record(r["id"], r["first_at"], r["ended_at"]) for r in rows]
    inside = figures.window(PLAN, 2, Load(0.0, rows, health, "time"), moments(14), records)
    assert 3.0 <= inside.begin_s <= 6.0
    assert inside.end_s == 10.0
    by_requests = figures.window(PLAN, 2, Load(0.0, rows, health, "requests"), moments(14), records)
    assert by_requests.end_s == 9.0


def test_a_level_that_never_was_full_or_is_over_at_once_is_refused() -> None:
    rows = [row("a", 0.0, 9.0)]
    with pytest.raises(SweepError, match="never were so many"):
        figures.window(PLAN, 2, Load(0.0, rows, [{"stopped_at": 10.0}], "time"), moments(14), [])
    with pytest.raises(SweepError, match="nothing is left"):
        figures.window(PLAN, 1, Load(0.0, rows, [{"stopped_at": 1.5}], "time"), moments(14), [])


def test_times_count_from_the_intended_moment_and_joules_are_the_final_ones() -> None:
    rows = [row("a", 1.0, 3.1, intended_at=0.5), row("b", 1.0, 3.0, "cut")]
    records = [{**record("a", 1.1, 3.1, 11, 2_000_000), "prefill_joules": 0.5, "correction_joules": 0.1}]
    first, second = figures.seen(Load(0.0, rows, [], "time"), records, Window(0.0, 4.0, "given"))
    assert first.ttft_ms == pytest.approx(600)
    assert first.tpot_ms == pytest.approx(200)
    assert first.e2e_ms == pytest.approx(2600)
    assert first.itl_p50_ms == pytest.approx(10)
    assert (first.joules, first.joules_now, first.correction_joules) == (2.0, 1.0, 0.1)
    assert first.in_steady
    assert not second.in_steady
    assert second.e2e_ms is None
    assert second.joules is None


def test_requests_in_flight_are_counted_over_time() -> None:
    rows = [row("a", 0.0, 3.0), row("b", 1.5, 3.0)]
    over_time = figures.seconds(Load(0.0, rows, [], "time"), [], moments(4), Window(1.0, 3.0, "given"))
    assert [one.in_flight for one in over_time] == pytest.approx([1.0, 1.5, 2.0, 0.0], abs=1e-3)
    assert [one.in_steady for one in over_time] == [False, True, True, False]
    assert over_time[0].power_w == 400.0


def test_the_proof_is_exact_to_the_microjoule() -> None:
    records = [record("a", 2.0, 3.0, uj=600), record("b", 2.0, 4.0, uj=400)]
    proof = prove(records, 1000, moments(5), {"G"}, 1.5, None)
    assert (proof.records_uj, proof.booked_uj, proof.exact, proof.met) == (1000, 1000, True, True)
    off = prove(records, 1001, moments(5), {"G"}, 1.5, None)
    assert off.exact is False
    assert not off.met
    foreign = prove([*records, record("c", 1.0, 2.0)], 1000, moments(5), {"G"}, 1.5, None)
    assert foreign.exact is None
    elsewhere = {**record("d", 2.0, 3.0), "gpus": [{"gpu": "H", "energy_uj": 5}]}
    assert prove([*records, elsewhere], 1000, moments(5), {"G"}, 1.5, None).exact
    assert not prove(records, 1000, [moment(2.0, balanced=False)], {"G"}, 1.5, None).met


def test_books_are_compared_with_the_meter_over_the_same_time() -> None:
    booked = [moment(float(n), requests_uj=100_000_000) for n in range(10)]
    proof = prove([], 0, booked, {"G"}, 0.0, (1.5, 8.5, 700.0))
    assert proof.books_joules == pytest.approx(700.0)
    assert proof.meter_off == pytest.approx(0)
    assert proof.meter_tolerance == pytest.approx(2 * METER_LAG_S * 100 / 700)
    lost = prove([], 0, booked, {"G"}, 0.0, (1.5, 8.5, 900.0))
    assert not lost.met
    unmeasured = [*booked[:9], moment(9.0, measured_uj=None)]
    assert prove([], 0, unmeasured, {"G"}, 0.0, (1.5, 8.5, 700.0)).books_joules is None
