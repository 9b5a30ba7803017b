"""The judging: errors by hand, every method on a small run, and what is written for readers."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import attribution
from benchmarks.judge import plot, report
from benchmarks.judge.baselines import METHODS
from benchmarks.judge.ours import Settlement, settle
from benchmarks.judge.score import OURS, Errors, Score, errors_of, judge
from benchmarks.judge.seen import see
from benchmarks.traces.scenario import named
from benchmarks.traces.trace import Trace, make_trace


@pytest.fixture(scope="module")
def trace() -> Trace:
    return make_trace(named("8b-pieces"), 10.0)


@pytest.fixture(scope="module")
def score() -> Score:
    return judge(replace(named("moe-half"), rate_per_s=1.0), 10.0)


def test_every_method_runs_and_is_judged_on_the_same_requests(score: Score) -> None:
    assert list(score.methods) == [OURS, *METHODS]
    assert score.judged > 0
    assert score.balanced
    assert abs(score.measured_error) < 0.01
    for errors in score.methods.values():
        assert 0 <= errors.median <= errors.p90 <= errors.p99
    assert score.methods[OURS].median < score.methods["tokens in+out"].median


def test_every_method_gives_away_all_energy_and_no_more(trace: Trace) -> None:
    settlement = settle(trace)
    seen = see(trace, settlement)
    charged_j = sum(record.energy_uj or 0 for record in settlement.records.values()) / 1e6
    assert charged_j == pytest.approx(seen.energy_j.sum(), rel=1e-9)
    for name, method in METHODS.items():
        assert method(seen).sum() == pytest.approx(charged_j, rel=1e-6), name
        assert (method(seen) >= 0).all(), name


def test_arrays_hold_what_the_events_say(trace: Trace) -> None:
    seen = see(trace, settle(trace))
    requests = [trace.requests[number] for number in seen.numbers]
    assert seen.output.tolist() == [sum(request.outputs) for request in requests]
    assert seen.tokens.by_request(len(requests)) == pytest.approx(seen.output)
    flying_s = seen.in_flight_s.by_request(len(requests))
    last_s = [trace.run.step_end_s[max(trace.run.outcomes[n].last_steps)] for n in seen.numbers]
    expected_s = [end - request.arrived_s for end, request in zip(last_s, requests, strict=True)]
    assert flying_s == pytest.approx(expected_s, abs=0.01)


def balanced(settlement: Settlement) -> bool:
    return settlement.balanced


def test_books_that_lose_a_microjoule_are_found(trace: Trace) -> None:
    settlement = settle(trace)
    assert balanced(settlement)
    record = next(record for record in settlement.records.values() if record.shares)
    record.shares[0].decode_uj += 1
    assert not balanced(settlement)
    record.shares[0].decode_uj -= 1
    settlement.books[-1].idle_uj += 1
    assert not balanced(settlement)
    settlement.books[-1].idle_uj -= 1
    settlement.left_open = 1
    assert not balanced(settlement)


def test_errors_are_those_worked_out_by_hand() -> None:
    errors = errors_of(np.array([1.1, 1.0, 4.0]), np.array([1.0, 1.0, 2.0]), ["a", "a", "b"])
    assert errors.median == pytest.approx(0.1)
    assert errors.tenant == pytest.approx(1.0)
    same_tenant = errors_of(np.array([1.5, 0.5]), np.array([1.0, 1.0]), ["a", "a"])
    assert same_tenant.tenant == pytest.approx(0.0)
    assert same_tenant.median == pytest.approx(0.5)


def test_an_aim_that_is_missed_is_said(score: Score) -> None:
    good = replace(score, methods={**score.methods, OURS: Errors(0.01, 0.02, 0.03, 0.01)})
    assert good.missed == []
    bad = replace(
        good,
        methods={**score.methods, OURS: Errors(0.2, 0.02, 0.03, float("nan"))},
        balanced=False,
        measured_error=-0.02,
    )
    assert [words.split(" ")[0] for words in bad.missed] == ["median", "tenant", "books", "measured"]


def test_the_docs_are_written_from_the_scores(score: Score, tmp_path: Path) -> None:
    text = "# A\n## Error on simulated traces\nold\n## After\nkept\n"
    (tmp_path / "attribution.md").write_text(text)
    attribution.write_docs([score], 10.0, tmp_path)
    page = (tmp_path / "attribution-errors.md").read_text()
    assert report.percent(score.methods[OURS].median) in page
    assert "Nothing here was checked on a real GPU" in page
    section = (tmp_path / "attribution.md").read_text()
    assert "old" not in section
    assert section.startswith("# A\n## Error on simulated traces\n")
    assert section.endswith("\n## After\nkept\n")
    drawn = ElementTree.fromstring((tmp_path / "img" / "attribution-errors.svg").read_text())
    circles = drawn.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 2 * len(score.methods)  # the legend and one row
    assert plot.picture([score]).count(score.scenario.title) == 1


def test_a_section_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="no heading"):
        report.replace_section("# A\n", "## B", "new")


def test_the_page_says_when_it_was_made(score: Score) -> None:
    assert "2031-02-03" in report.page([score], 600.0, date(2031, 2, 3))
