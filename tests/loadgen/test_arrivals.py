"""Arrival times: their rate, their shape, and traces from files."""

from __future__ import annotations

import random
from itertools import islice, pairwise
from pathlib import Path

import pytest

from loadgen import lengths
from loadgen.arrivals import BURST, KINDS, arrivals, read_trace


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_rate_is_what_was_asked_for(kind: str) -> None:
    times_s = list(islice(arrivals(kind, 20.0, random.Random(3)), 8_000))
    assert times_s == sorted(times_s)
    assert 8_000 / times_s[-1] == pytest.approx(20.0, rel=0.1)


def test_constant_is_even_bursts_come_at_once_and_poisson_has_its_spread() -> None:
    even = list(islice(arrivals("constant", 4.0, random.Random(1)), 50))
    assert all(b - a == pytest.approx(0.25) for a, b in pairwise(even))
    bursts = list(islice(arrivals("bursty", 4.0, random.Random(1)), 10 * BURST))
    assert len(set(bursts)) == 10
    gaps = [b - a for a, b in pairwise(islice(arrivals("poisson", 4.0, random.Random(1)), 4_000))]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread == pytest.approx(mean, rel=0.1)


@pytest.mark.parametrize(("kind", "rate"), [("hourly", 1.0), ("poisson", 0.0), ("poisson", float("nan"))])
def test_nonsense_is_refused_at_once(kind: str, rate: float) -> None:
    with pytest.raises(ValueError, match=r"arrivals are one of|above 0"):
        arrivals(kind, rate, random.Random(1))


def test_a_trace_begins_at_zero_and_must_not_run_backwards(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("5.5\n6\n9\n")
    assert read_trace(path) == [0.0, 0.5, 3.5]
    path.write_text("5\n4\n")
    with pytest.raises(ValueError, match="backwards"):
        read_trace(path)
    path.write_text("")
    with pytest.raises(ValueError, match="no arrival"):
        read_trace(path)


def test_answers_are_as_long_as_the_papers() -> None:
    pick = random.Random(5)
    parts = lengths.answer_tokens("chat", "meta-llama/Llama-3.1-8B-Instruct", 400.0)
    assert sum(parts) / len(parts) == pytest.approx(400.0)
    drawn = [lengths.draw_answer(pick, parts) for _ in range(5_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(400.0, rel=0.05)
    assert min(drawn) >= 2
    prompts = [lengths.draw_prompt(pick, 230.0) for _ in range(5_000)]
    assert sum(prompts) / len(prompts) == pytest.approx(230.0, rel=0.05)


def test_a_model_that_was_not_measured_gets_the_mean_of_those_that_were() -> None:
    assert lengths.answer_tokens("code", "nobody/nothing") == lengths.answer_tokens("code")
    with pytest.raises(KeyError):
        lengths.answer_tokens("juggling")
