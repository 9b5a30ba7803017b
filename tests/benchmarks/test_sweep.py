"""The sweep's parts: runs that balance, a table that is read right, headlines that are what they say."""

from __future__ import annotations

import dataclasses
from datetime import date
from pathlib import Path

import pytest

from benchmarks.sweeps import rungs, table
from benchmarks.sweeps.headlines import AIMED, Energies, Key, headlines, needed
from benchmarks.sweeps.report import Results, page
from benchmarks.sweeps.rungs import Rung, by_card, measured
from simulator.cards_measured import MEASURED
from simulator.profiles import profiles

LLAMA = ("meta-llama/Llama-3.1-8B-Instruct", "h100", 1, "chat")
LLAMA_70B = ("meta-llama/Llama-3.1-70B-Instruct", "b200", 2, "chat")


def rung(key: tuple[str, str, int, str], max_num_seqs: int) -> Rung:
    profile = profiles()[key]
    point = next(point for point in profile.points if point.max_num_seqs == max_num_seqs)
    return measured(profile, point, 1e9)


@pytest.mark.parametrize("key", [LLAMA, LLAMA_70B])
def test_a_run_through_the_ledger_is_near_the_published_one_and_balances(
    key: tuple[str, str, int, str],
) -> None:
    one = rung(key, 32)
    assert one.books is not None
    assert one.books.exact
    assert one.books.met
    assert one.books.records_uj + one.books.idle_uj + one.books.elsewhere_uj == one.books.measured_uj
    assert max(abs(error) for error in one.errors) < 0.08
    assert one.books.joules_per_token == one.joules_per_token


def test_books_that_miss_a_microjoule_are_not_exact() -> None:
    books = rung(LLAMA, 8).books
    assert books is not None
    assert not dataclasses.replace(books, records_uj=books.records_uj + 1).exact
    assert not dataclasses.replace(books, true_uj=books.true_uj * 2).met


def test_without_the_ledger_the_true_energy_is_taken() -> None:
    profile = profiles()[LLAMA]
    with_it, without = measured(profile, profile.points[1], 1e9), measured(profile, profile.points[1], 0)
    assert without.books is None
    assert without.joules_per_token == pytest.approx(with_it.joules_per_token, rel=0.05)


def test_by_card_a_model_is_served_with_constants_that_never_saw_it() -> None:
    profile = profiles()[LLAMA]
    card = by_card(profile, profile.points[0])
    assert card is not None
    assert card.joules_per_token != pytest.approx(measured(profile, profile.points[0], 0).joules_per_token)
    assert abs(card.errors[1]) < 0.5


def test_results_say_what_was_missed() -> None:
    good = rung(LLAMA, 8)
    results = Results([good], [good], 0, [])
    assert results.missed == []
    bad = dataclasses.replace(good, joules_per_token=2 * good.point.joules_per_token)
    missed = Results([bad], [bad], 0, []).missed
    assert [line.split(":")[0] for line in missed] == ["joules_per_token", "joules_per_token", "left out"]
    assert "Llama-3.1-8B" in page(results, date(2026, 1, 1))


def energies() -> Energies:
    """Two models on two GPUs: reasoning costs 2 J/token and chat 1, half of it on the B200, less at 64."""
    found: Energies = {}
    for model in ("a", "a-FP8"):
        for gpu, factor in (("h100", 1.0), ("b200", 0.5)):
            for task, joules in (("chat", 1.0), ("reasoning", 2.0)):
                for many, less in ((8, 1.0), (64, 0.25)):
                    precision = 1.5 if model == "a-FP8" else 1.0
                    found[model, gpu, 1, task, many] = joules * factor * less * precision
    return found


def test_headlines_are_computed_as_the_paper_says() -> None:
    answers: dict[Key, float] = {key: 100.0 if key[3] == "chat" else 1000.0 for key in energies()}
    lines = {line.claim: line for line in headlines(energies(), energies(), answers, True)}
    assert lines["J/response, reasoning over chat, B200"].points == pytest.approx(20.0)
    assert lines["J/token at 8 over at 64 in flight"].points == pytest.approx(4.0)
    assert lines["least J/token, B200 over H100, chat"].points == pytest.approx(0.5)
    assert lines["J/token, FP8 over BF16 at 8"].points == pytest.approx(1.5)
    assert {line.met for line in lines.values() if line.part in AIMED} == {True}
    assert {line.met for line in lines.values() if line.part not in AIMED} == {None}
    far = dataclasses.replace(lines["J/token, FP8 over BF16 at 8"], simulated=2.0)
    assert far.met is False
    assert Results([rung(LLAMA, 8)], [], 0, [far]).missed == [far.claim]
    short = [line.claim for line in headlines(energies(), energies(), answers, False)]
    assert "J/token at 8 over at 64 in flight" in short
    assert not any("B200" in claim for claim in short)


def test_a_part_needs_no_other_runs_than_its_own() -> None:
    plain, fp8 = "Qwen/Qwen3-235B-A22B-Instruct-2507", "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8"
    assert needed("task-type", (plain, "h100", 8, "reasoning", 8))
    assert not needed("task-type", (plain, "h100", 8, "code", 8))
    assert needed("fp8", (plain, "h100", 8, "chat", 64))
    assert needed("fp8", (fp8, "h100", 8, "chat", 64))
    assert not needed("fp8", (plain, "h100", 8, "chat", 96))
    assert not needed("fp8", ("meta-llama/Llama-3.1-8B-Instruct", "h100", 1, "chat", 8))


def test_the_twentieths_of_a_histogram_have_its_mean() -> None:
    bins, counts = [0.0, 10.0, 20.0, 100.0], [10.0, 5.0, 5.0]
    parts = table._parts({"bins": bins, "counts": counts})
    assert len(parts) == table.PARTS
    assert parts == sorted(parts)
    assert sum(parts) / len(parts) == pytest.approx((10 * 5 + 5 * 15 + 5 * 60) / 20, rel=0.01)


def test_the_table_is_read_and_a_rung_measured_twice_counts_once(tmp_path: Path) -> None:
    head = "task,model_id,gpu_model,num_gpus,max_num_seqs,avg_batch_size,avg_output_len,"
    head += "output_throughput_tokens_per_sec,median_itl_ms,energy_per_token_joules\n"
    rows = "gpqa,m,H100,2,16,15,7000,1000,9,0.5\ngpqa,m,H100,2,8,8,7000,500,9,1\n"
    rows += "gpqa,m,H100,2,8,8,7000,510,9,1\n"
    path = tmp_path / "llm.csv"
    path.write_text(head + rows)
    ladders = table.grouped(table.read_rows(path))
    (ladder,) = ladders.values()
    assert list(ladders) == [("m", "h100", 2, "reasoning")]
    assert [(row.max_num_seqs, row.tokens_per_s) for row in ladder] == [(8, 510.0), (16, 1000.0)]


def test_every_measured_model_belongs_to_an_architecture_that_was_left_out_once() -> None:
    for profile in profiles().values():
        assert rungs.architecture(MEASURED[profile.model])
