"""The load for the ledger: it is the load that it says, and missed aims are told."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import ledger
from benchmarks.load.memory import resident_bytes
from benchmarks.load.streams import TOKENS_PER_S, Streams


def test_the_load_has_as_many_in_flight_and_tokens_as_it_says() -> None:
    streams = Streams(40, life_s=2.0)
    streams.run(2.0)
    costs = streams.run(4.0)
    assert costs.ended == 80
    assert len(costs.plain_s) + len(costs.settling_s) == 4 * 20
    assert len(costs.settling_s) == 8
    in_flight = [request for request in streams.ledger.state.open.values() if request.finished_us is None]
    assert len(in_flight) == 40
    seen = [streams.ledger.provisional(request.handle) for request in in_flight]
    counts = [record.completion_tokens or 0 for record in seen if record is not None]
    assert max(counts) == 2 * TOKENS_PER_S
    assert all(record is not None and record.energy_uj for record in seen)


def test_memory_is_what_the_process_holds() -> None:
    before = resident_bytes()
    held = bytearray(b"x" * 64 * 2**20)
    assert resident_bytes() - before > 48 * 2**20
    del held


def test_speed_and_soak_run_small_and_missed_aims_are_told() -> None:
    speed = ledger.speed(50, 1.0)
    assert speed.tokens_per_s == 50 * TOKENS_PER_S
    assert speed.ticks_load > 0
    soak = ledger.soak(12.0)
    assert soak.requests == 12 * 100
    flat = replace(soak, middle_bytes=10**8, end_bytes=10**8)
    slow = replace(speed, in_flight=ledger.AIM_IN_FLIGHT, ticks_load=1.5)
    assert ledger.misses([speed], flat) == []
    assert len(ledger.misses([slow], replace(flat, end_bytes=10**8 + 3 * 2**20))) == 2
