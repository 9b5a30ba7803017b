"""Which way a GPU is read: the best that answers when called."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accounting.meters.meter import list_gpus
from tests.accounting.meters.watching import Watched
from tests.simulator.gpu.machine import Machines

Watch = Callable[..., Watched]
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
NOT_SUPPORTED, FUNCTION_NOT_FOUND, UNKNOWN = 3, 13, 999


@pytest.mark.parametrize(
    ("faults", "source", "method", "lag_us", "note"),
    [
        ({}, ENERGY, "nvml-counter", 0, None),
        ({ENERGY: FUNCTION_NOT_FOUND}, "field 83", "nvml-counter", 0, f"{ENERGY}: FUNCTION_NOT_FOUND"),
        (
            {ENERGY: NOT_SUPPORTED},
            "field 186",
            "nvml-power",
            12_500,
            f"{ENERGY}: NOT_SUPPORTED, field 83: NOT_SUPPORTED",
        ),
        ({ENERGY: UNKNOWN}, "field 186", "nvml-power", 12_500, f"{ENERGY}: UNKNOWN, field 83: UNKNOWN"),
        (
            {ENERGY: NOT_SUPPORTED, "field 186": NOT_SUPPORTED},
            "field 185",
            "nvml-power-average",
            500_000,
            f"{ENERGY}: NOT_SUPPORTED, field 83: NOT_SUPPORTED, field 186: NOT_SUPPORTED",
        ),
        (
            {ENERGY: NOT_SUPPORTED, "nvmlDeviceGetFieldValues": FUNCTION_NOT_FOUND},
            "nvmlDeviceGetPowerUsage",
            "nvml-power-average",
            500_000,
            f"{ENERGY}: NOT_SUPPORTED, field 83: FUNCTION_NOT_FOUND, field 186: FUNCTION_NOT_FOUND, "
            "field 185: FUNCTION_NOT_FOUND",
        ),
    ],
)
def test_the_best_source_that_answers_is_used_and_says_why_none_before_it(
    machines: Machines,
    watch: Watch,
    faults: dict[str, int],
    source: str,
    method: str,
    lag_us: int,
    note: str | None,
) -> None:
    machine = machines.make()
    for function, code in faults.items():
        machine.board.fault(0, function, code=code)
    watched = watch(machine.library)
    up = watched.until_up(machine.uuids[0])
    assert (up.source, up.method, up.lag_us, up.note) == (source, method, lag_us, note)
    watched.until_reads(machine.uuids[0], 3)


def test_a_gpu_with_neither_counter_nor_power_is_not_measured(machines: Machines, watch: Watch) -> None:
    machine = machines.make(2)
    for function in (ENERGY, "nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage"):
        machine.board.fault(0, function, code=NOT_SUPPORTED)
    watched = watch(machine.library, gpus=machine.uuids)
    assert "vGPU" in watched.until_down(machine.uuids[0], "NOT_SUPPORTED").message
    watched.until_reads(machine.uuids[1], 1)
    assert watched.reads(machine.uuids[0]) == []


def test_the_counter_is_taken_up_again_when_it_answers(machines: Machines, watch: Watch) -> None:
    machine = machines.make()
    uuid = machine.uuids[0]
    machine.board.fault(0, ENERGY, code=UNKNOWN)
    watched = watch(machine.library, better_s=1.0)
    watched.until_up(uuid)
    watched.until_reads(uuid, 3)
    machine.board.heal()
    assert watched.until_up(uuid, times=2).method == "nvml-counter"
    watched.until_reads(uuid, 3)
    assert watched.kinds(uuid) == "u r u r"


def test_a_calibrated_lag_is_passed_on(machines: Machines, watch: Watch) -> None:
    machine = machines.make()
    watched = watch(machine.library, counter_lag_us=42_000)
    assert watched.until_up(machine.uuids[0]).lag_us == 42_000
    watched.until(lambda: bool(watched.qualities(machine.uuids[0])), "the quality")
    assert watched.qualities(machine.uuids[0])[0].counter_lag_us == 42_000


def test_a_listing_says_of_every_source_whether_it_works_and_what_a_call_costs(machines: Machines) -> None:
    machine = machines.make()
    machine.board.fault(0, "field 186", code=NOT_SUPPORTED)
    (gpu,) = list_gpus(machine.library)
    assert [source.name for source in gpu.sources] == [
        ENERGY,
        "field 83",
        "field 186",
        "field 185",
        "nvmlDeviceGetPowerUsage",
    ]
    assert [source.problem for source in gpu.sources] == [None, None, "NOT_SUPPORTED", None, None]
    assert [source.call_us is None for source in gpu.sources] == [False, False, True, False, False]
    assert (gpu.mig, gpu.memory_bytes) == (None, 80 * 2**30)


def test_a_listing_names_mig_instances_and_measures_their_gpu_once(machines: Machines, watch: Watch) -> None:
    machine = machines.make(2, mig=3)
    gpus = list_gpus(machine.library)
    assert [gpu.uuid for gpu in gpus] == machine.uuids
    assert [len(gpu.mig or ()) for gpu in gpus] == [3, 3]
    instances = gpus[1].mig
    assert instances is not None
    assert all(name.startswith("MIG-") for name in instances)
    watched = watch(machine.library, gpus=[instances[0]])
    watched.until_up(machine.uuids[1])
    watched.until_reads(machine.uuids[1], 3)
    assert {event.gpu for event in watched.events} == {machine.uuids[1]}


def test_a_gpu_that_hangs_is_listed_beside_the_others(machines: Machines) -> None:
    machine = machines.make(2)
    machine.board.fault(0, ENERGY, code=0, delay_us=3_600_000_000)
    hung, fine = list_gpus(machine.library, patience_s=1.0)
    assert (hung.uuid, hung.method, hung.code) == (machine.uuids[0], "none", "STALE")
    assert (fine.uuid, fine.method, fine.problem) == (machine.uuids[1], "nvml-counter", None)
