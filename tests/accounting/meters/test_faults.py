"""The meter in bad times: what fails is told, isolated, and read again when it works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.gpu.board import LIBRARY
from tests.accounting.meters.watching import Watched, is_running, wait_until
from tests.simulator.gpu.machine import Machines

Watch = Callable[..., Watched]
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
UNINITIALIZED, NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED = 1, 3, 4, 9
GPU_IS_LOST, RESET_REQUIRED, LIB_RM_VERSION_MISMATCH, UNKNOWN = 15, 16, 18, 999
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


def test_a_counter_that_runs_backwards_begins_anew(machines: Machines, watch: Watch) -> None:
    machine = machines.make(2, period_us=20_000, jitter_us=0, lag_us=0)
    uuid, other = machine.uuids
    machine.board.jump(0, 1_000_000)
    watched = watch(machine.library)
    watched.until(lambda: any(mj >= 10**9 for *_, mj in watched.reads(uuid)), "the high counter")
    machine.board.reload_driver(0)
    assert "ran backwards" in watched.until_down(uuid, "COUNTER_RESET").message
    assert watched.until_up(uuid, times=2).new_epoch
    watched.until_reads(uuid, 3)
    assert not watched.ups(uuid)[0].new_epoch
    assert watched.kinds(uuid) == "u r d u r"
    assert watched.kinds(other) == "u r"
    assert 0 < watched.reads(uuid)[-1][2] < 10**9


def test_a_counter_that_jumps_further_than_power_allows_begins_anew(machines: Machines, watch: Watch) -> None:
    machine = machines.make()
    uuid = machine.uuids[0]
    watched = watch(machine.library)
    watched.until_reads(uuid, 5)
    machine.board.jump(0, 50_000)
    assert "rose by more than the GPU can draw" in watched.until_down(uuid, "COUNTER_JUMPED").message
    assert watched.until_up(uuid, times=2).new_epoch
    watched.until_reads(uuid, 3)
    before_mj = [mj for _, hi_us, mj in watched.reads(uuid) if hi_us < watched.downs(uuid)[0].t_us]
    assert max(before_mj) < 10_000_000  # none of what was not believed


@pytest.mark.parametrize("energy_j", [1_000_000, -1_000_000])  # the latter shows as 0
def test_one_value_that_cannot_be_costs_nothing(machines: Machines, watch: Watch, energy_j: int) -> None:
    machine = machines.make(period_us=20_000, jitter_us=0, lag_us=0)
    uuid = machine.uuids[0]
    machine.board.jump(0, 10_000)
    watched = watch(machine.library, busy_period_s=0.2)
    watched.until_reads(uuid, 2)
    machine.board.jump(0, energy_j)
    watched.until(lambda: watched.meter.refused_reads > 0, "a read that is refused")
    machine.board.jump(0, -energy_j)
    watched.until_reads(uuid, 3)
    assert watched.kinds(uuid) == "u r"
    assert all(10**7 <= mj < 10**8 for *_, mj in watched.reads(uuid))


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


@pytest.mark.parametrize(
    ("code", "name"),
    [(LIB_RM_VERSION_MISMATCH, "LIB_RM_VERSION_MISMATCH"), (UNINITIALIZED, "UNINITIALIZED")],
)
def test_a_driver_that_is_replaced_is_met_by_a_new_process(
    machines: Machines, watch: Watch, code: int, name: str
) -> None:
    machine = machines.make()
    uuid = machine.uuids[0]
    watched = watch(machine.library)
    watched.until_reads(uuid, 1)
    pid = watched.meter.pid
    machine.board.fault(0, ENERGY, code=code, count=1)
    watched.until_down(uuid, name)
    watched.until_up(uuid, times=2)
    assert watched.meter.pid != pid
    assert [event.code for event in watched.downs(uuid)] == [name]


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


@pytest.mark.parametrize(
    ("code", "name", "advice"),
    [
        (UNKNOWN, "UNKNOWN", "restart the container"),
        (NO_PERMISSION, "NO_PERMISSION", "device files"),
        (RESET_REQUIRED, "RESET_REQUIRED", "must be reset"),
    ],
)
def test_a_gpu_whose_calls_all_fail_is_down_with_advice_and_read_again_when_they_work(
    machines: Machines, watch: Watch, code: int, name: str, advice: str
) -> None:
    machine = machines.make(2)
    failing, other = machine.uuids
    watched = watch(machine.library)
    watched.until_reads(failing, 1)
    machine.board.fault(0, "*", code=code)
    assert advice in watched.until_down(failing, name).message
    watched.until_reads(other, 10)
    machine.board.heal()
    watched.until_up(failing, times=2)
    watched.until_reads(failing, 1)
    assert watched.kinds(failing) == "u r d u r"
    assert watched.kinds(other) == "u r"


def test_a_frozen_counter_gives_way_to_power_until_it_moves_again(machines: Machines, watch: Watch) -> None:
    machine = machines.make(2, period_us=20_000, jitter_us=0, lag_us=0)
    uuid, other = machine.uuids
    watched = watch(machine.library, better_s=1.0)
    watched.until_reads(uuid, 5)
    machine.board.freeze(0, True)
    assert "stands still" in watched.until_down(uuid, "COUNTER_FROZEN").message
    power = watched.until_up(uuid, times=2)
    assert (power.method, power.source) == ("nvml-power", "field 186")
    assert "COUNTER_FROZEN" in (power.note or "")
    watched.until_reads(uuid, 20)  # the counter is still frozen: not taken for healed
    assert len(watched.ups(uuid)) == 2
    machine.board.freeze(0, False)
    assert watched.until_up(uuid, times=3).method == "nvml-counter"
    watched.until_reads(uuid, 1)
    assert watched.kinds(uuid) == "u r d u r u r"
    assert watched.kinds(other) == "u r"


def test_power_that_cannot_be_is_not_used(machines: Machines, watch: Watch) -> None:
    machine = machines.make()
    uuid = machine.uuids[0]
    machine.board.fault(0, ENERGY, code=NOT_SUPPORTED)
    watched = watch(machine.library)
    watched.until_reads(uuid, 3)
    machine.board.show_power(0, 593_000)
    assert "593000 W; at most 1400 W" in watched.until_down(uuid, "IMPOSSIBLE_POWER").message
    assert watched.reads(uuid)[-1][2] < 1_000_000
    machine.board.show_power(0, None)
    watched.until_up(uuid, times=2)
    watched.until_reads(uuid, 1)
    assert watched.kinds(uuid) == "u r d u r"


@pytest.mark.parametrize(
    ("code", "name", "advice"),
    [
        (LIB_RM_VERSION_MISMATCH, "LIB_RM_VERSION_MISMATCH", "driver was upgraded"),
        (DRIVER_NOT_LOADED, "DRIVER_NOT_LOADED", "not loaded"),
    ],
)
def test_a_start_that_fails_is_tried_again_in_a_new_process(
    machines: Machines, watch: Watch, code: int, name: str, advice: str
) -> None:
    machine = machines.make()
    machine.board.fault(LIBRARY, "nvmlInitWithFlags", code=code, count=2)
    watched = watch(machine.library)
    assert advice in watched.until_down("*", name).message
    watched.until_up(machine.uuids[0])
    assert len(watched.downs("*")) == 1


def test_a_start_that_hangs_is_told_and_may_still_succeed(
    machines: Machines, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounting.meters.meter.START_S", 1.0)
    machine = machines.make()
    machine.board.fault(LIBRARY, "nvmlInitWithFlags", code=0, delay_us=FOR_EVER_US)
    watched = watch(machine.library)
    assert "reboot" in watched.until_down("*", "INIT_HANGS").message
    machine.board.heal()
    watched.until_up(machine.uuids[0])


def test_what_one_gpu_tells_of_the_library_is_said_of_all(machines: Machines, watch: Watch) -> None:
    machine = machines.make(2)
    watched = watch(machine.library)
    for uuid in machine.uuids:
        watched.until_reads(uuid, 1)
    machine.board.fault(0, ENERGY, code=LIB_RM_VERSION_MISMATCH, count=1)
    for uuid in machine.uuids:
        watched.until_down(uuid, "LIB_RM_VERSION_MISMATCH")
        watched.until_up(uuid, times=2)


def test_slow_calls_are_made_more_seldom_until_they_are_quick_again(machines: Machines, watch: Watch) -> None:
    machine = machines.make(2)
    slow, other = machine.uuids
    watched = watch(machine.library, busy_period_s=0.01)
    watched.until_reads(other, 1)
    machine.board.fault(0, ENERGY, code=0, delay_us=3_000)
    watched.until(lambda: any(q.warning for q in watched.qualities(slow)), "the warning")
    warned = next(q for q in watched.qualities(slow) if q.warning)
    assert warned.read_period_us is not None
    assert warned.read_period_us >= 20_000
    assert "slow" in (warned.warning or "")
    machine.board.heal()
    watched.until(lambda: watched.qualities(slow)[-1].warning is None, "the end of the warning")
    assert watched.qualities(slow)[-1].read_period_us == 10_000
    assert all(q.warning is None for q in watched.qualities(other))
    assert watched.kinds(slow) == watched.kinds(other) == "u r"


def test_nvml_is_never_in_the_process_that_may_fork(machines: Machines, watch: Watch) -> None:
    machine = machines.make()
    watched = watch(machine.library)
    watched.until_reads(machine.uuids[0], 1)
    assert str(machine.library) not in Path("/proc/self/maps").read_text()
    assert str(machine.library) in Path(f"/proc/{watched.meter.pid}/maps").read_text()
