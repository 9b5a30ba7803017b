"""The meter in good times: what it reads is what the GPUs did."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from accounting.clock import Clock
from accounting.meters.meter import MeterError, NvmlMeter, list_gpus
from tests.accounting.meters.watching import Watched, is_running, wait_until
from tests.simulator.gpu.machine import Machines

Watch = Callable[..., Watched]
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"


def test_the_gpus_are_listed_with_what_can_be_measured(machines: Machines) -> None:
    machine = machines.make(3)
    machine.board.fault(1, ENERGY, code=3)
    machine.board.fault(2, "*", code=15)
    counter, power, lost = list_gpus(machine.library)
    assert (counter.uuid, counter.method, counter.power_limit_mw) == (
        machine.uuids[0],
        "nvml-counter",
        700_000,
    )
    assert (power.uuid, power.method, power.simulated) == (machine.uuids[1], "nvml-power", True)
    assert (lost.uuid, lost.method) == (None, "none")
    assert lost.problem is not None
    assert "fell off the bus" in lost.problem


def test_without_a_driver_the_error_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match=r"no NVIDIA driver found \(libnvidia-ml.so.1\)"):
        list_gpus(tmp_path / "libnvidia-ml.so.1")


def test_without_a_driver_the_meter_is_down_and_the_service_goes_on(watch: Watch, tmp_path: Path) -> None:
    watched = watch(tmp_path / "libnvidia-ml.so.1")
    assert "libnvidia-ml.so.1" in watched.until_down("*", "LIBRARY_NOT_FOUND").message
    first = watched.meter.pid
    watched.until(lambda: watched.meter.pid not in (None, first), "another try")
    named = watch(tmp_path / "libnvidia-ml.so.1", gpus=["GPU-1"])
    named.until_down("GPU-1", "LIBRARY_NOT_FOUND")


def test_a_gpu_comes_up_with_its_name_and_method_before_its_reads(machines: Machines, watch: Watch) -> None:
    machine = machines.make(2)
    watched = watch(machine.library)
    for uuid in machine.uuids:
        watched.until_reads(uuid, 3)
        assert watched.kinds(uuid) == "u r"
        up = watched.ups(uuid)[0]
        assert (up.device, up.method, up.simulated) == (
            "NVIDIA H100 80GB HBM3 (simulated)",
            "nvml-counter",
            True,
        )
        assert up.power_limit_mw == 700_000


def test_only_the_chosen_gpus_are_read(machines: Machines, watch: Watch) -> None:
    machine = machines.make(3)
    watched = watch(machine.library, gpus=[machine.uuids[2], "GPU-none"])
    watched.until_reads(machine.uuids[2], 3)
    assert "nvidia-smi -L" in watched.until_down("GPU-none", "NOT_FOUND").message
    assert {event.gpu for event in watched.events} == {machine.uuids[2], "GPU-none"}


def test_a_square_wave_is_measured_to_within_one_period_of_the_counter(
    machines: Machines, watch: Watch
) -> None:
    period_us, jitter_us, lag_us = 100_000, 3_000, 20_000
    machine = machines.make(period_us=period_us, jitter_us=jitter_us, lag_us=lag_us)
    board, uuid = machine.board, machine.uuids[0]
    t_us, _ = board.last(0)
    for k in range(1, 9):  # half a second idle, then 1.6 s of bursts, then idle again
        power_w = 700 if k % 2 == 0 else 110
        t_us += 500_000 if k == 1 else 230_000
        board.extend(0, t_us, board.last(0)[1] + power_w * (t_us - board.last(0)[0]))
    watched = watch(machine.library)
    offset_us = watched.clock.offset_us
    end_us = t_us + 300_000 + offset_us
    watched.until(lambda: any(hi > end_us for _, hi, _ in watched.reads(uuid)), "the end of the wave")
    reads = watched.reads(uuid)

    for t_lo_us, t_hi_us, energy_mj in reads:  # each read lies on the staircase of the truth
        newest_uj = board.energy_uj(0, t_hi_us - offset_us - lag_us)
        oldest_uj = board.energy_uj(0, t_lo_us - offset_us - lag_us - period_us - 2 * jitter_us)
        assert max(0, oldest_uj // 1000) <= energy_mj <= max(0, newest_uj // 1000)
    assert all(a[1] <= b[0] and a[2] <= b[2] for a, b in pairwise(reads))
    (_, first_us, first_mj), (_, last_us, last_mj) = reads[0], reads[-1]
    true_uj = board.energy_uj(0, last_us - offset_us) - board.energy_uj(0, first_us - offset_us)
    assert true_uj > 600_000_000
    assert abs((last_mj - first_mj) * 1000 - true_uj) < 700 * period_us


def test_a_gpu_without_a_counter_is_measured_by_its_power(machines: Machines, watch: Watch) -> None:
    machine = machines.make()
    board, uuid = machine.board, machine.uuids[0]
    board.fault(0, ENERGY, code=3)
    t_us, _ = board.last(0)
    board.extend(0, t_us + 60_000_000, 60_000_000 * 500)
    watched = watch(machine.library)
    up = watched.until_up(uuid)
    assert (up.method, up.lag_us) == ("nvml-power", 12_500)
    watched.until_reads(uuid, 20)
    (_, first_us, first_mj), *_, (_, last_us, last_mj) = watched.reads(uuid)
    assert last_mj - first_mj == pytest.approx(500 * (last_us - first_us) / 1000, rel=0.02)


def test_where_instantaneous_power_is_missing_too_the_average_serves(
    machines: Machines, watch: Watch
) -> None:
    machine = machines.make()
    machine.board.fault(0, ENERGY, code=3)
    machine.board.fault(0, "nvmlDeviceGetFieldValues", code=3)
    up = watch(machine.library).until_up(machine.uuids[0])
    assert (up.method, up.lag_us) == ("nvml-power-average", 500_000)


def test_an_idle_meter_reads_seldom_and_at_once_when_work_begins(machines: Machines, watch: Watch) -> None:
    machine = machines.make()
    uuid = machine.uuids[0]
    watched = watch(machine.library, busy=False, busy_period_s=0.06, idle_period_s=3600.0)
    watched.until_reads(uuid, 1)
    watched.meter.set_busy(True)
    watched.until_reads(uuid, 30)
    periods_us = [b[0] - a[0] for a, b in pairwise(watched.reads(uuid)[1:])]
    assert min(periods_us) >= 45_000  # 60 ms less a quarter
    assert min(periods_us) < 58_000  # a period without dither is never shorter than 60 ms


def test_the_child_is_ended_and_reaped(machines: Machines, watch: Watch) -> None:
    machine = machines.make()
    watched = watch(machine.library)
    watched.until_up(machine.uuids[0])
    pid = watched.meter.pid
    assert pid is not None
    watched.meter.close()
    watched.meter.close()
    assert not Path(f"/proc/{pid}").exists()
    assert watched.meter.drain() == []


def test_a_meter_that_is_closed_before_its_child_has_started_leaves_nothing(machines: Machines) -> None:
    meter = NvmlMeter(Clock.anchored_now(), library=machines.make().library)
    open_before = len(os.listdir("/proc/self/fd"))
    meter.start()
    pid = meter.pid
    meter.close()
    assert pid is not None
    wait_until(lambda: not is_running(pid), "the child's end")
    assert len(os.listdir("/proc/self/fd")) == open_before
