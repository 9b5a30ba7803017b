"""What a journal does in a process of its own: `python -m tests.accounting.journal_child MODE DIRECTORY`.

append   append, flush and begin segments until killed, printing an event's number once it is flushed
hold     try to open the journal, print `held` or why not
full     write under a limit of file size as on a full disk, then without it; assertions tell what is wrong
"""

from __future__ import annotations

import resource
import signal
import sys
from itertools import count
from pathlib import Path

from accounting.events import RequestStarted
from accounting.journal import Journal, JournalError, Segment
from accounting.ledger import Ledger, LedgerState


def request(number: int) -> RequestStarted:
    return RequestStarted(
        t_us=number,
        handle=number,
        uid=f"uid-{number}",
        request_id=f"r-{number}",
        backend=None,
        model=None,
        route="/v1/completions",
    )


def append(directory: Path) -> None:
    journal, ledger = Journal(directory), Ledger()
    journal.begin_segment(ledger.state)
    for number in count(1):
        journal.append(request(number))
        ledger.hear(request(number))
        if number % 3 == 0:
            if not journal.flush():
                raise AssertionError(journal.failure)
            print(number, flush=True)
        if number % 40 == 0:
            journal.begin_segment(ledger.state)


def hold(directory: Path) -> None:
    try:
        Journal(directory)
    except JournalError as error:
        print(error)
    else:
        print("held")


def full(directory: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    journal = Journal(directory)
    journal.begin_segment(LedgerState())
    path = directory / "00000001.ndjson"
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = 1000
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, hard))
    for number in range(1, 101):
        journal.append(request(number))
    size = journal.pending_bytes
    assert not journal.flush()
    why = journal.failure or ""
    assert why == "File too large"
    assert journal.pending_bytes == size - room
    for number in range(101, 201):
        journal.append(request(number))
    assert not journal.flush()
    try:
        journal.begin_segment(LedgerState())
    except JournalError as error:
        told = str(error)
    else:
        raise AssertionError("a segment was begun before its past was written")
    assert why in told
    assert len(list(Segment(path).events())) < 10
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert journal.flush()
    assert journal.failure is None
    assert journal.pending_bytes == 0
    assert [e.t_us for e in Segment(path).events() if isinstance(e, RequestStarted)] == list(range(1, 201))
    print("well")


if __name__ == "__main__":
    {"append": append, "hold": hold, "full": full}[sys.argv[1]](Path(sys.argv[2]))
