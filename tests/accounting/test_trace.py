"""A trace is told as the service would have told it, and what it cost is known."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from accounting.events import (
    AnyEvent,
    BackendDeclared,
    CounterReads,
    FirstToken,
    MeterUp,
    ModelCard,
    RequestFinished,
    RequestStarted,
    Tick,
    Usage,
)
from accounting.ledger import Ledger
from accounting.records import BookEntry, Output, RequestRecord
from accounting.trace import TICK_US, ZERO_US, TraceError, is_trace, read_trace, replay_trace
from tests.accounting.ledger.story import assert_balanced, energy_uj
from tests.accounting.recorded import Line, backend, energy, request, write


def replayed(path: Path, *lines: Line) -> tuple[dict[str, RequestRecord], list[BookEntry]]:
    """Records by id, and the books. All balances, and every request is settled and has what was booked."""
    outputs = list(replay_trace(write(path, *lines)))
    records = {o.uid: o for o in outputs if isinstance(o, RequestRecord)}
    books = [o for o in outputs if isinstance(o, BookEntry)]
    assert_balanced(outputs)
    assert sorted(records) == sorted(line["id"] for line in lines if line["type"] == "request")
    assert sum(b.requests_uj for b in books) == sum(r.energy_uj or 0 for r in records.values())
    return records, books


def joules(record: RequestRecord) -> float:
    return energy_uj(record) / 1e6


def at(seconds: float) -> int:
    return ZERO_US + round(seconds * 1e6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.jsonl"


def test_a_request_alone_has_the_energy_of_its_time(path: Path) -> None:
    lines = [backend(), energy("G", 25, (10, 700), (14, 100)), request("r", 10, 14)]
    records, books = replayed(path, *lines)
    assert joules(records["r"]) == pytest.approx(2800, abs=1)
    # Counted from the first step of the counter, at 0.1 s, to the last, at 25 s.
    assert sum(b.measured_uj or 0 for b in books) == pytest.approx((24.9 * 100 + 4 * 600) * 1e6, abs=2000)
    assert sum(b.unobserved_uj + b.unmeasured_uj for b in books) == 0


def test_requests_side_by_side_share_all_of_it(path: Path) -> None:
    lines = [request(f"r{i}", 10, 14) for i in range(4)]
    records, _ = replayed(path, backend(), energy("G", 20, (10, 700), (14, 100)), *lines)
    for record in records.values():
        assert joules(record) == pytest.approx(700, abs=1)


def test_energy_that_the_counter_shows_late_is_put_where_it_was_drawn(path: Path) -> None:
    reads = energy("G", 20, (10, 700), (14, 100))
    late = {**reads, "t": [round(t + 0.2, 4) for t in reads["t"]]}
    records, _ = replayed(path, backend(counter_lag_s=0.2), late, request("r", 10, 14))
    assert joules(records["r"]) == pytest.approx(2800, abs=1)


def mixed_lines() -> list[Line]:
    lines = [backend("x", ["G"]), backend("y", ["G", "H"]), backend("z", ["H"])]
    lines += [energy("G", 25, (8, 650), (18, 100)), energy("H", 25, (9, 500), (19, 100))]
    for i in range(24):
        start = 8 + 0.37 * i
        lines.append(request(f"r{i}", start, start + 1.9, chunks=3 * i, backend="xyz"[i % 3]))
    return lines


def said(path: Path, *lines: Line) -> list[Output]:
    return sorted(replay_trace(write(path, *lines)), key=repr)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_lines_and_how_reads_are_split_do_not_matter(path: Path, seed: int) -> None:
    lines = mixed_lines()
    want = said(path, *lines)
    dice = random.Random(seed)
    shuffled = [line for line in lines if line["type"] != "energy"]
    for line in lines:
        if line["type"] == "energy":
            pairs = list(zip(line["t"], line["mj"], strict=True))
            dice.shuffle(pairs)
            for i in range(0, len(pairs), 7):
                t, mj = zip(*pairs[i : i + 7], strict=True)
                shuffled.append({**line, "t": t, "mj": mj})
    requests = [line for line in shuffled if line["type"] == "request"]
    others = [line for line in shuffled if line["type"] != "request"]
    dice.shuffle(others)
    backends = iter([line for line in lines if line["type"] == "backend"])
    others = [next(backends) if line["type"] == "backend" else line for line in others]
    # Requests and backends keep their order among themselves: ties in sharing go by it.
    assert said(path, *requests[:11], *others, *requests[11:]) == want


def test_a_gzipped_trace_says_the_same(tmp_path: Path) -> None:
    lines = mixed_lines()
    assert said(tmp_path / "t.jsonl.gz", *lines) == said(tmp_path / "t.jsonl", *lines)


def test_backends_and_meters_are_said_first(path: Path) -> None:
    lines = [backend("x", ["G", "H"], counter_lag_s=0.05), energy("G", 2), request("r", 1, 1.5, backend="x")]
    events = list(read_trace(write(path, *lines)).events())
    declared, meter = events[1:3]
    assert isinstance(declared, BackendDeclared)
    assert (declared.gpus, declared.model) == (["G", "H"], ModelCard(name="m", layers=32))
    assert isinstance(meter, MeterUp)  # H is never read
    assert (meter.gpu, meter.device) == ("G", "NVIDIA H100 80GB HBM3")
    assert (meter.lag_us, meter.power_limit_mw) == (50_000, 700_000)
    assert not any(isinstance(e, MeterUp) for e in events[3:])


def test_events_come_at_their_times_and_tokens_before_the_end(path: Path) -> None:
    gaps = [431.9, 6.8, 20.0, 0.0, 131.3]
    usage = {"prompt_tokens": 77, "cached_tokens": 16, "completion_tokens": 5}
    line = request("r", 0.6341, 1.2241, chunk_gap_ms=gaps, usage=usage)
    events = list(read_trace(write(path, backend(), energy("G", 3), line)).events())
    started, first, finished = _only(events, RequestStarted, FirstToken, RequestFinished)
    assert isinstance(started, RequestStarted)
    assert (started.t_us, started.uid, started.tenant, started.streamed) == (at(0.6341), "r", "t", True)
    assert isinstance(first, FirstToken)
    assert (first.t_us, first.prompt_tokens, first.cached_tokens) == (at(1.066), 77, 16)
    assert isinstance(finished, RequestFinished)
    assert (finished.t_us, finished.status) == (at(1.2241), "ok")
    assert finished.usage == Usage(prompt_tokens=77, cached_tokens=16, completion_tokens=5)
    ticks = [e for e in events if isinstance(e, Tick)]
    assert [(t.t_us, t.tokens) for t in ticks if t.handles] == [(at(1.1), [4]), (at(1.2241), [1])]
    last = next(t for t in ticks if t.t_us == at(1.2241))
    assert events.index(first) < events.index(last) == events.index(finished) - 1
    regular = [t.t_us for t in ticks if t is not last]
    assert regular == list(range(regular[0], regular[-1] + 1, TICK_US))
    assert [t.t_us for t in ticks] == sorted(t.t_us for t in ticks)


def _only(events: list[AnyEvent], *kinds: type[AnyEvent]) -> list[AnyEvent]:
    found = [e for kind in kinds for e in events if isinstance(e, kind)]
    assert len(found) == len(kinds)
    return found


def test_every_read_and_every_chunk_is_said_once(path: Path) -> None:
    lines = mixed_lines()
    events = list(read_trace(write(path, *lines)).events())
    for gpu in ("G", "H"):
        told = [mj for e in events if isinstance(e, CounterReads) and e.gpu == gpu for mj in e.energy_mj]
        assert told == next(line["mj"] for line in lines if line.get("gpu") == gpu)
    counts: dict[int, int] = {}
    for event in events:
        if isinstance(event, Tick):
            for handle, count in zip(event.handles, event.tokens, strict=True):
                counts[handle] = counts.get(handle, 0) + count
    assert counts == {i: 3 * i for i in range(1, 24)}


def test_everything_is_settled_at_the_end_even_where_the_counter_stops_early(path: Path) -> None:
    lines = [backend(), energy("G", 11), request("r", 10, 14)]
    ledger = Ledger()
    for event in read_trace(write(path, *lines)).events():
        ledger.hear(event)
    assert ledger.open_requests == 0
    records, _ = replayed(path, *lines)
    assert joules(records["r"]) == pytest.approx(100, abs=1)
    assert records["r"].unmeasured_us == pytest.approx(3e6, abs=10)


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ("ok", "ok"),
        ("completed", "ok"),
        ("length", "ok"),
        ("aborted", "aborted"),
        ("cancelled", "aborted"),
        ("error", "engine_error"),
        ("engine_error", "engine_error"),
        ("lost", "lost"),
    ],
)
def test_statuses_are_mapped(path: Path, told: str, status: str) -> None:
    lines = [backend(), energy("G", 20, (10, 700), (14, 100)), request("r", 10, 14, status=told)]
    records, _ = replayed(path, *lines)
    assert records["r"].status == status
    assert joules(records["r"]) == pytest.approx(2800, abs=1)


def test_a_refused_request_costs_nothing(path: Path) -> None:
    lines = [backend(), energy("G", 20), request("r", 10, 10.3, chunks=0, status="client_error", usage=None)]
    records, _ = replayed(path, *lines)
    assert (records["r"].energy_uj, records["r"].prompt_tokens) == (0, None)


def test_backends_on_one_gpu_pay_for_their_own_time(path: Path) -> None:
    busy = [(10, 700), (12, 100), (15, 400), (17, 100)]
    lines = [backend("x"), backend("y"), energy("G", 25, *busy)]
    lines += [request("a", 10, 12, backend="x"), request("b", 15, 17, backend="y")]
    records, _ = replayed(path, *lines)
    assert joules(records["a"]) == pytest.approx(1400, abs=1)
    assert joules(records["b"]) == pytest.approx(800, abs=1)


def test_a_backend_on_two_gpus_is_charged_for_both(path: Path) -> None:
    lines = [backend(gpus=["G", "H"]), request("r", 10, 12)]
    lines += [energy("G", 20, (10, 700), (12, 100)), energy("H", 20, (10, 300), (12, 100))]
    records, _ = replayed(path, *lines)
    shares = {s.gpu: (s.prefill_uj + s.decode_uj) / 1e6 for s in records["r"].shares}
    assert shares == {"G": pytest.approx(1400, abs=1), "H": pytest.approx(600, abs=1)}


@pytest.mark.parametrize(
    ("chunks", "tokens", "streamed"),
    [
        (0, 0, True),
        (0, None, True),
        (0, 50, False),
        (1, 1, True),
        (1, 50, False),
        (2, 50, True),
        (50, 50, True),
    ],
)
def test_answers_in_any_number_of_chunks_are_charged(
    path: Path, chunks: int, tokens: int | None, streamed: bool
) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": tokens}
    line = request("r", 10, 14, chunks=chunks, usage=usage)
    records, _ = replayed(path, backend(), energy("G", 20, (10, 700), (14, 100)), line)
    assert joules(records["r"]) == pytest.approx(2800, abs=1)
    assert records["r"].streamed == streamed


def test_a_request_that_takes_no_time_has_a_record(path: Path) -> None:
    line = request("r", 10, 10, chunks=0, status="aborted")
    records, _ = replayed(path, backend(), energy("G", 20), line)
    assert records["r"].finished_us == records["r"].started_us == at(10)


def test_a_counter_that_is_reset_goes_on(path: Path) -> None:
    before = energy("G", 13, (10, 700), (20, 100))
    after = energy("G", 30, (10, 700), (20, 100), since=13)
    after["mj"] = [mj - after["mj"][0] + 17 for mj in after["mj"]]
    records, books = replayed(path, backend(), before, after, request("r", 10, 20))
    lost = sum(b.t1_us - b.t0_us - b.covered_us for b in books if at(11) <= b.t0_us < at(19))
    assert 0 < lost <= 300_000
    assert joules(records["r"]) == pytest.approx(7000 - 700 * lost / 1e6, abs=1)
    assert records["r"].unmeasured_us == pytest.approx(lost, abs=5)


def test_a_gap_in_the_polling_is_measured_where_short_and_unmeasured_where_long(path: Path) -> None:
    reads = energy("G", 45, (10, 700), (40, 100))
    for away, unmeasured in (((14, 16), 0.0), ((14, 26), 12 * 700.0)):
        kept = [(t, mj) for t, mj in zip(reads["t"], reads["mj"], strict=True) if not away[0] < t < away[1]]
        t, mj = zip(*kept, strict=True)
        records, books = replayed(path, backend(), {**reads, "t": t, "mj": mj}, request("r", 10, 40))
        assert sum(b.unmeasured_uj for b in books) / 1e6 == pytest.approx(unmeasured, rel=0.02)
        assert joules(records["r"]) == pytest.approx(30 * 700 - unmeasured, rel=0.02)


def test_without_energy_joules_are_none(path: Path) -> None:
    records, books = replayed(path, backend(), request("r", 10, 12))
    assert records["r"].energy_uj is None
    assert {b.measured_uj for b in books} == {None}


def test_reads_of_a_gpu_without_a_backend_are_left_out(path: Path) -> None:
    _, books = replayed(path, backend(), energy("G", 5), energy("other", 5), request("r", 1, 2))
    assert {b.gpu for b in books} == {"G"}


def test_a_year_of_silence_is_told_in_few_ticks(path: Path) -> None:
    year = 365.0 * 24 * 3600
    lines = [
        backend(),
        energy("G", 16, (10, 700), (12, 100)),
        request("a", 10, 12),
        request("b", year, year + 1),
    ]
    events = list(read_trace(write(path, *lines)).events())
    assert len(events) < 2000
    records, books = replayed(path, *lines)
    assert joules(records["a"]) == pytest.approx(1400, abs=1)
    assert records["b"].energy_uj is None
    assert len(books) < 1000


def test_a_request_that_says_nothing_for_a_year_ends(path: Path) -> None:
    year = 365.0 * 24 * 3600
    records, _ = replayed(path, backend(), energy("G", 16, (10, 700)), request("a", 10, year, chunks=2))
    assert joules(records["a"]) == pytest.approx(4200, abs=1)


BAD = [
    ("not json", "JSON is malformed"),
    ("[1]", "Expected `object`"),
    ('{"type":"weather"}', "weather"),
    ('{"type":"energy","gpu":"G","t":[1.0]}', "missing required field `mj`"),
    ('{"type":"energy","gpu":"G","t":[1.0,2.0],"mj":[1]}', "2 times in `t`, but 1 values in `mj`"),
    ('{"type":"energy","gpu":"G","t":[1.0],"mj":[-1]}', "$.mj[0]"),
    ('{"type":"energy","gpu":"G","t":[1e300],"mj":[1]}', "$.t[0]"),
    ('{"type":"energy","gpu":"G","t":[1e999],"mj":[1]}', "$.t[0]"),
    ('{"type":"energy","gpu":"G","t":[NaN],"mj":[1]}', "JSON is malformed"),
    ('{"type":"backend","id":"b","gpu_model":"H","gpus":[]}', "backend 'b' is on line 1 already"),
    ('{"type":"backend","id":"c","gpu_model":"H","gpus":[],"counter_lag_s":-1}', "$.counter_lag_s"),
    (json.dumps(request("r", 2, 1, chunk_gap_ms=[])), "`end` 1.0 is before `start` 2.0"),
    (json.dumps(request("r", 1, 2, status="great")), "status 'great' is none of ok"),
    (json.dumps(request("r", 1, 2, backend="x")), "there is no backend 'x'"),
    (json.dumps(request("r", 1, 2, chunk_gap_ms=[1, -1])), "$.chunk_gap_ms[1]"),
    (json.dumps(request("r", 1, 2, chunk_gap_ms=[1e3, 1e13])), "after `end` 2.0"),
    (json.dumps(request("r", 1, 2, usage={"prompt_tokens": 10**12})), "$.usage.prompt_tokens"),
    (json.dumps(request("again", 1, 2)), "request 'again' is on line 2 already"),
]


@pytest.mark.parametrize(("line", "says"), BAD)
def test_bad_lines_are_told_with_file_and_number(path: Path, line: str, says: str) -> None:
    write(path, backend(), request("again", 1, 2))
    with path.open("a") as file:
        file.write(f"\n{line}\n")  # the empty line counts
    with pytest.raises(TraceError) as told:
        read_trace(path)
    assert str(told.value).startswith(f"{path}:4: ")
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_a_trace_cut_off_anywhere_is_told(tmp_path: Path) -> None:
    whole = write(tmp_path / "t.jsonl.gz", *mixed_lines()).read_bytes()
    cut = tmp_path / "cut.jsonl.gz"
    for size in [*range(2, 40), *range(40, len(whole), 97), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(TraceError, match=rf"{cut}:\d+: "):
            read_trace(cut)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    cut.write_bytes(damaged)
    with pytest.raises(TraceError, match=rf"{cut}:\d+: "):
        read_trace(cut)


@pytest.mark.parametrize("content", [b"", b"\n\n", gzip.compress(b"", mtime=0)])
def test_an_empty_file_is_told(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(TraceError, match="there is no backend in it"):
        read_trace(path)


def test_a_file_that_is_not_there_is_told(path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        read_trace(path)


@pytest.mark.parametrize(
    ("name", "content", "trace"),
    [
        ("a.jsonl", b"junk", True),
        ("a.jsonl.gz", b"junk", True),
        ("a", gzip.compress(b"x", mtime=0), True),
        ("a", b' {"type":"backend"}', True),
        ("00000001.ndjson", b'{"joulegate_journal":1,"segment":1}', False),
        ("notes", b"my notes", False),
    ],
)
def test_a_trace_is_told_from_a_journal(tmp_path: Path, name: str, content: bytes, trace: bool) -> None:
    (tmp_path / name).write_bytes(content)
    assert is_trace(tmp_path / name) == trace
