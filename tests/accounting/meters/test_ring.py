"""The ring between the sampler and the meter."""

from __future__ import annotations

import os
import subprocess
import sys

from accounting.meters.ring import CAPACITY, Read, Ring
from tests.accounting.meters.watching import wait_until

WRITER = """
import sys
from accounting.meters.ring import Ring
ring = Ring(int(sys.argv[1]))
for k in range(int(sys.argv[2])):
    ring.write(k % 8, k, k + 1, 1000 + k, 0)
"""


def some(k: int) -> Read:
    return Read(gpu=k % 8, t_lo_us=k, t_hi_us=k + 1, energy_mj=1000 + k, status=0)


def other_end(ring: Ring) -> Ring:
    return Ring(os.dup(ring.fd))


def test_records_come_out_once_and_in_order() -> None:
    ring = Ring.create()
    reader = other_end(ring)
    for k in range(3):
        ring.write(*some(k))
    assert reader.drain() == ([(k, some(k)) for k in range(3)], 0)
    assert reader.drain() == ([], 0)
    ring.write(*some(3))
    assert reader.drain() == ([(3, some(3))], 0)
    reader.close()
    ring.close()


def test_a_writer_that_laps_the_reader_does_not_wait_and_the_loss_is_told() -> None:
    ring = Ring.create()
    reader = other_end(ring)
    for k in range(CAPACITY + 10):
        ring.write(*some(k))
    records, lost = reader.drain()
    assert lost == 10
    assert records == [(k, some(k)) for k in range(10, CAPACITY + 10)]
    reader.close()
    ring.close()


def test_a_record_that_is_not_wholly_visible_is_left_for_later() -> None:
    ring = Ring.create()
    reader = other_end(ring)
    ring.write(*some(0))
    ring.write(*some(1))
    energy_byte = 64 + 48 + 32  # of the second record
    whole = os.pread(ring.fd, 1, energy_byte)
    os.pwrite(ring.fd, bytes([whole[0] ^ 0xFF]), energy_byte)
    assert reader.drain() == ([(0, some(0))], 0)
    os.pwrite(ring.fd, whole, energy_byte)
    assert reader.drain() == ([(1, some(1))], 0)
    reader.close()
    ring.close()


def test_a_reader_beside_a_fast_writer_gets_only_true_records() -> None:
    ring, count = Ring.create(), 3 * CAPACITY
    command = [sys.executable, "-c", WRITER, str(ring.fd), str(count)]
    writer = subprocess.Popen(command, pass_fds=[ring.fd])
    seen, lost = 0, 0

    def all_accounted_for() -> bool:
        nonlocal seen, lost
        records, overwritten = ring.drain()
        assert all(read == some(number) for number, read in records)
        seen, lost = seen + len(records), lost + overwritten
        return seen + lost == count

    wait_until(all_accounted_for, "the writer's records")
    assert writer.wait() == 0
    assert seen > 0
    ring.close()
