"""The meter in bad times: what fails is told, isolated, and read again when it works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from simulator.gpu.board import LIBRARY
from tests.accounting.meters.watching import Watched, is_running, wait_until
from tests.simulator.gpu.machine import Machines

Watch = Callable[..., Watched]
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
NOT_SUPPORTED, GPU_IS_LOST, LIB_RM_VERSION_MISMATCH, UNKNOWN = 3, 15, 18, 999
FOR_EVER_US = 3_600_000_000

PARENT = """
import os, signal, sys, time
from pathlib import Path
from accounting.clock import Clock
from accounting.meters.meter import NvmlMeter
from accounting.events import CounterReads, MeterUp
meter = NvmlMeter(Clock.anchored_now(), library=Path(sys.argv[1]))
meter.start()
while not any(isinstance(event, MeterUp) for event in meter.drain()): time.sleep(0.01)
print(meter.pid, flush=True)
sys.stdin.read(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_lost_gpu_is_told_and_the_others_go_on(machines: Machines, watch: Watch) -> None:
    machine = machines.make(3)
    watched = watch(machine.library)
    healthy, lost = [machine.uuids[0], machine.uuids[2]], machine.uuids[1]
    watched.until_reads(lost, 1)
    machine.board.fault(1, "*", code=GPU_IS_LOST)
    assert "fell off the bus" in watched.until_down(lost, "GPU_IS_LOST").message
    for uuid in healthy:
        watched.until_reads(uuid, 10)
        assert watched.kinds(uuid) == "u r"
    machine.board.heal(1)
    watched.until_up(lost, times=2)
    watched.until_reads(lost, 3)
    assert watched.kinds(lost) == "u r d u r"


def test_a_gpu_that_is_lost_from_the_start_comes_up_when_it_is_back(machines: Machines, watch: Watch) -> None:
    machine = machines.make(2)
    machine.board.fault(0, "*", code=GPU_IS_LOST)
    watched = watch(machine.library)
    watched.until_down("index 0", "GPU_IS_LOST")
    watched.until_reads(machine.uuids[1], 3)
    machine.board.heal(0)
    watched.until_up(machine.uuids[0])


@pytest.mark.parametrize("code", [NOT_SUPPORTED, UNKNOWN])
def test_a_call_that_fails_once_takes_no_gpu_down(machines: Machines, watch: Watch, code: int) -> None:
    machine = machines.make()
    uuid = machine.uuids[0]
    watched = watch(machine.library)
    watched.until_reads(uuid, 1)
    machine.board.fault(0, ENERGY, code=code, count=2)
    watched.until_reads(uuid, 10)
    assert watched.kinds(uuid) == "u r"
    assert watched.ups(uuid)[0].method == "nvml-counter"


def test_one_refusal_at_the_start_does_not_cost_the_counter(machines: Machines, watch: Watch) -> None:
    machine = machines.make()
    machine.board.fault(0, ENERGY, code=NOT_SUPPORTED, count=1)
    assert watch(machine.library).until_up(machine.uuids[0]).method == "nvml-counter"


def test_a_counter_that_goes_away_is_replaced_by_power(machines: Machines, watch: Watch) -> None:
    machine = machines.make()
    uuid = machine.uuids[0]
    watched = watch(machine.library)
    watched.until_reads(uuid, 1)
    machine.board.fault(0, ENERGY, code=NOT_SUPPORTED)
    watched.until_up(uuid, times=2)
    watched.until_reads(uuid, 3)
    assert [up.method for up in watched.ups(uuid)] == ["nvml-counter", "nvml-power"]
    assert watched.kinds(uuid) == "u r d u r"


def test_a_counter_that_runs_backwards_is_passed_on_as_read(machines: Machines, watch: Watch) -> None:
    machine = machines.make(period_us=20_000, jitter_us=0, lag_us=0)
    uuid = machine.uuids[0]
    t_us, _ = machine.board.last(0)
    machine.board.extend(0, t_us, 10**12)
    watched = watch(machine.library)
    watched.until(lambda: any(mj >= 10**9 for *_, mj in watched.reads(uuid)), "the high counter")
    machine.board.reload_driver(0)
    watched.until(lambda: 0 < watched.reads(uuid)[-1][2] < 10**9, "the counter's new start")
    assert watched.kinds(uuid) == "u r"


def test_a_frozen_counter_is_read_as_it_stands(machines: Machines, watch: Watch) -> None:
    machine = machines.make(period_us=20_000, jitter_us=0, lag_us=0)
    uuid = machine.uuids[0]
    watched = watch(machine.library)
    watched.until_reads(uuid, 5)
    machine.board.freeze(0, True)
    watched.until_reads(uuid, 20)
    assert len({mj for *_, mj in watched.reads(uuid)[-15:]}) == 1
    frozen_mj = watched.reads(uuid)[-1][2]
    machine.board.freeze(0, False)
    watched.until(lambda: watched.reads(uuid)[-1][2] > frozen_mj, "the counter going on")
    assert watched.kinds(uuid) == "u r"


def test_a_hung_call_is_stale_and_holds_up_its_gpu_only(machines: Machines, watch: Watch) -> None:
    machine = machines.make(2)
    hung, other = machine.uuids
    watched = watch(machine.library)
    watched.until_reads(hung, 1)
    machine.board.fault(0, ENERGY, code=0, delay_us=FOR_EVER_US)
    assert "hangs" in watched.until_down(hung, "STALE").message
    down_us = watched.downs(hung)[0].t_us
    watched.until_reads(other, 3)
    machine.board.heal(0)
    watched.until_up(hung, times=2)
    watched.until_reads(hung, 3)
    assert watched.kinds(hung) == "u r d u r"
    assert watched.kinds(other) == "u r"
    first_after = next(read for read in watched.reads(hung) if read[1] > down_us)
    assert first_after[0] > down_us  # not the read that hung, which began before


def test_a_killed_sampler_is_told_and_started_again(machines: Machines, watch: Watch) -> None:
    machine = machines.make(2)
    watched = watch(machine.library, idle_period_s=3600.0)
    first = machine.uuids[0]
    for uuid in machine.uuids:
        watched.until_reads(uuid, 1)
    pid = watched.meter.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    for uuid in machine.uuids:
        assert "SIGKILL" in watched.until_down(uuid, "SAMPLER_DIED").message
    watched.until_up(first, times=2)
    watched.until_reads(first, 5)  # at the busy pace: the new child was told
    assert watched.kinds(first) == "u r d u r"
    assert watched.meter.pid != pid
    assert not is_running(pid)


def test_a_driver_that_is_replaced_is_met_by_a_new_process(machines: Machines, watch: Watch) -> None:
    machine = machines.make()
    uuid = machine.uuids[0]
    watched = watch(machine.library)
    watched.until_reads(uuid, 1)
    pid = watched.meter.pid
    machine.board.fault(0, ENERGY, code=LIB_RM_VERSION_MISMATCH, count=1)
    watched.until_down(uuid, "LIB_RM_VERSION_MISMATCH")
    watched.until_up(uuid, times=2)
    assert watched.meter.pid != pid
    assert [event.code for event in watched.downs(uuid)] == ["LIB_RM_VERSION_MISMATCH"]


@pytest.mark.parametrize("where", ["nowhere", "a read", "the start"])
def test_the_sampler_ends_with_its_parent_wherever_it_hangs(machines: Machines, where: str) -> None:
    machine = machines.make()
    if where == "a read":
        machine.board.fault(0, ENERGY, code=0, skip=2, delay_us=FOR_EVER_US)
    command = [sys.executable, "-c", PARENT, str(machine.library)]
    if where == "the start":
        machine.board.fault(LIBRARY, "nvmlInitWithFlags", code=0, delay_us=FOR_EVER_US)
        command[2] = PARENT.replace("while not any", "while False and not any")
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.stdin.close()
    assert parent.wait() == -signal.SIGKILL
    parent.stdout.close()
    wait_until(lambda: not is_running(pid), "the end of the sampler")
