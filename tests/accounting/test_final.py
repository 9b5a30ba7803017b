"""Each request once, with its correction in it, in the order of their records and with bounded memory."""

from __future__ import annotations

from pathlib import Path

from accounting.final import WAIT_US, final
from accounting.records import BackendFacts, BookEntry, Correction, Output, RequestRecord, corrected
from accounting.replay import Replay, owed_uj, replay
from tests.accounting.store.examples import book, correction, record
from tests.accounting.test_replay import busy_story, written

LATER = 2 * WAIT_US // 500_000
"""Number of a book entry so long after the first ones."""


def test_a_record_waits_for_its_correction_and_keeps_its_place() -> None:
    given: list[Output] = [record(1), record(2), book(1), correction(2), record(3), book(2)]
    assert list(final(given)) == [book(1), book(2), record(1), corrected(record(2), correction(2)), record(3)]


def test_what_is_older_than_a_correction_can_be_is_given_at_once() -> None:
    outputs = final([record(1), record(2), book(LATER), record(LATER), book(LATER + 1), correction(LATER)])
    assert [next(outputs) for _ in range(4)] == [book(LATER), record(1), record(2), book(LATER + 1)]
    assert list(outputs) == [corrected(record(LATER), correction(LATER))]


def test_a_correction_without_a_record_before_it_is_given_as_it_is() -> None:
    assert list(final([correction(7), record(1), book(LATER), correction(1)])) == [
        correction(7),
        book(LATER),
        record(1),
        correction(1),
    ]


def test_no_more_is_held_than_the_time_allows() -> None:
    held = most = 0

    def told() -> list[Output]:
        return [output for n in range(10_000) for output in (record(n), book(2 * n))]

    for output in final(told()):
        held += 1 if isinstance(output, BookEntry) else -1
        most = max(most, held)
    assert most <= WAIT_US // 1_000_000 + 2


def test_books_of_a_journal_are_what_its_requests_have_and_are_still_owed(tmp_path: Path) -> None:
    """However much of the journal is read, from whichever segment on."""
    parts = written(tmp_path, busy_story())
    assert any(isinstance(output, Correction) for part in parts for output in part)
    owed = []
    for path in sorted(tmp_path.glob("*.ndjson")):
        journal = Replay(path)
        sums = {gpu: -uj for gpu, uj in owed_uj(journal.begins).items()}
        for output in journal.outputs():
            if isinstance(output, BookEntry):
                sums[output.gpu] = sums.get(output.gpu, 0) - output.requests_uj
                continue
            if isinstance(output, BackendFacts):
                continue
            for share in output.shares:
                sums[share.gpu] = sums.get(share.gpu, 0) + share.prefill_uj + share.decode_uj
        after = owed_uj(journal.ledger.state)
        assert all(sums[gpu] + after.get(gpu, 0) == 0 for gpu in sums)
        owed.append(sum(after.values()))
    assert any(owed)
    assert owed[-1] == 0
    records = [output for output in final(replay(tmp_path)) if isinstance(output, RequestRecord)]
    assert len(records) == 25
    assert any(record.correction_uj for record in records)
