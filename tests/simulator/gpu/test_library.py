"""The compiled library, asked through pynvml in processes of their own."""

from __future__ import annotations

import ctypes
import multiprocessing
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from simulator.gpu import board as layout
from simulator.gpu import library
from simulator.gpu.board import LIBRARY, Board
from tests.simulator.gpu.machine import Machines

ENERGY = "nvmlDeviceGetTotalEnergyConsumption"

POLL = """
device = nvml.nvmlDeviceGetHandleByIndex(0)
reads, end = [], time.monotonic() + 1.2
while time.monotonic() < end:
    low = time.monotonic_ns() // 1000
    energy = nvml.nvmlDeviceGetTotalEnergyConsumption(device)
    reads.append((low, time.monotonic_ns() // 1000, energy))
    time.sleep(0.002)
answer(reads)
"""

CALL_FIVE_TIMES = """
device, codes = nvml.nvmlDeviceGetHandleByIndex(0), []
for _ in range(5):
    try:
        nvml.nvmlDeviceGetTotalEnergyConsumption(device)
        codes.append(0)
    except nvml.NVMLError as error:
        codes.append(error.value)
answer(codes)
"""


def test_c_and_python_agree_on_the_layout(compiled: Path) -> None:
    out = ctypes.create_string_buffer(4096)
    ctypes.CDLL(str(compiled)).joulegate_sim_layout(out, 4096)
    said = dict(line.rsplit(" ", 1) for line in out.value.decode().splitlines())
    structs: dict[str, Any] = {
        "rule": layout.RuleStruct,
        "board": layout.HeaderStruct,
        "point": layout.PointStruct,
        "gpu": layout.GpuStruct,
    }
    expected = {name: str(ctypes.sizeof(struct)) for name, struct in structs.items()}
    for name, struct in structs.items():
        for field, *_ in struct._fields_:
            expected[f"{name}.{field}"] = str(getattr(struct, field).offset)
    assert said == expected


def test_c_and_python_agree_on_the_curve(machines: Machines) -> None:
    machine = machines.make()
    t_us, _ = machine.board.last(0)
    for k, power_w in enumerate((700, 110, 333, 0, 699), start=1):
        machine.board.extend(0, t_us + 1_000_003 * k, machine.board.last(0)[1] + 1_000_003 * power_w)
    times = range(t_us - 500_000, t_us + 6_000_000, 37_013)
    code = "f = nvml.nvmlLib.joulegate_sim_energy_uj; f.restype = ctypes.c_int64\n"
    code += f"answer([f(0, ctypes.c_int64(t)) for t in range({times.start}, {times.stop}, {times.step})])"
    assert machine.ask(code) == [machine.board.energy_uj(0, t) for t in times]


def test_everything_says_that_it_is_simulated(machines: Machines) -> None:
    machine = machines.make(2)
    said = machine.ask(
        "devices = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]\n"
        "answer([nvml.nvmlSystemGetDriverVersion(), [nvml.nvmlDeviceGetName(d) for d in devices],"
        "[nvml.nvmlDeviceGetUUID(d) for d in devices]])"
    )
    assert said == ["580.00 (simulated)", ["NVIDIA H100 80GB HBM3 (simulated)"] * 2, machine.uuids]


def test_a_gpu_is_found_by_uuid_and_by_bus_id(machines: Machines) -> None:
    machine = machines.make(3)
    code = f"""
device = nvml.nvmlDeviceGetHandleByUUID({machine.uuids[2]!r})
bus_id = nvml.nvmlDeviceGetPciInfo(device).busId
answer([nvml.nvmlDeviceGetIndex(device), nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByPciBusId(bus_id))])
"""
    assert machine.ask(code) == [2, 2]


def test_the_counter_is_a_staircase_of_the_truth(machines: Machines) -> None:
    period_us, jitter_us, lag_us = 100_000, 5_000, 30_000
    machine = machines.make(period_us=period_us, jitter_us=jitter_us, lag_us=lag_us, seed=7)
    t_us, _ = machine.board.last(0)
    for k in range(1, 60):  # a power that changes all the time, so that each moment has its own energy
        machine.board.extend(0, t_us + 50_000 * k, machine.board.last(0)[1] + 50_000 * (100 + 10 * k))
    reads = machine.ask(POLL)
    edges = [(a[0], b[1]) for a, b in pairwise(reads) if a[2] != b[2]]
    assert len(edges) >= 9
    for (first_us, first_end_us), (next_us, next_end_us) in pairwise(edges):
        assert next_end_us - first_us >= period_us - 2 * jitter_us
        assert next_us - first_end_us <= period_us + 2 * jitter_us
    for low_us, high_us, energy_mj in reads:
        newest_uj = machine.board.energy_uj(0, high_us - lag_us)
        oldest_uj = machine.board.energy_uj(0, low_us - lag_us - period_us - 2 * jitter_us)
        assert max(0, oldest_uj // 1000) <= energy_mj <= max(0, newest_uj // 1000)


def test_powers_are_means_over_their_windows(machines: Machines) -> None:
    machine = machines.make()
    t_us, _ = machine.board.last(0)
    machine.board.extend(0, t_us + 60_000_000, 60_000_000 * 500)
    code = """
device = nvml.nvmlDeviceGetHandleByIndex(0)
while time.monotonic_ns() // 1000 < START + 500_000: time.sleep(0.01)
low = time.monotonic_ns() // 1000
fields = nvml.nvmlDeviceGetFieldValues(device, [185, 186, 83, 17])
answer([low, [(f.nvmlReturn, f.value.uiVal) for f in fields], time.monotonic_ns() // 1000])
""".replace("START", str(t_us))
    low_us, ((ok_a, average_mw), (ok_b, instant_mw), (ok_c, counter_mj), (absent, _)), high_us = machine.ask(
        code
    )
    assert (ok_a, ok_b, ok_c, absent) == (0, 0, 0, 3)
    assert instant_mw == 500_000
    busy_low, busy_high = (min(1_000_000, t - t_us) / 1_000_000 for t in (low_us, high_us))
    assert 110_000 + 390_000 * busy_low - 1 <= average_mw <= 110_000 + 390_000 * busy_high + 1
    assert 0 < counter_mj <= machine.board.energy_uj(0, high_us) // 1000


def test_a_fault_skips_then_holds_for_its_count(machines: Machines) -> None:
    machine = machines.make(2)
    machine.board.fault(0, ENERGY, code=15, skip=1, count=2)
    assert machine.ask(CALL_FIVE_TIMES) == [0, 15, 15, 0, 0]
    machine.board.heal()
    machine.board.fault(1, ENERGY, code=15)
    assert machine.ask(CALL_FIVE_TIMES) == [0] * 5


def test_a_fault_of_the_library_makes_init_fail(machines: Machines) -> None:
    machine = machines.make()
    machine.board.fault(LIBRARY, "nvmlInitWithFlags", code=18, count=1)
    code = "answer(0)"
    with pytest.raises(AssertionError, match="NVMLError_LibRmVersionMismatch"):
        machine.ask(code)
    assert machine.ask(code) == 0


def test_a_frozen_counter_stands_still_and_a_reloaded_driver_starts_at_zero(machines: Machines) -> None:
    machine = machines.make(period_us=10_000, jitter_us=0, lag_us=0)
    t_us, _ = machine.board.last(0)
    machine.board.extend(0, t_us, 10**9)
    one = "answer(nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByIndex(0)))"
    before_mj = machine.ask(one)
    assert before_mj >= 10**6
    machine.board.freeze(0, True)
    frozen_mj = machine.ask(one)
    assert frozen_mj >= before_mj
    assert machine.ask(one) == frozen_mj
    machine.board.freeze(0, False)
    assert machine.ask(one) > frozen_mj
    machine.board.reload_driver(0)
    assert machine.ask(one) < 10**6


def test_the_environment_names_a_board_elsewhere(machines: Machines, tmp_path: Path) -> None:
    machine = machines.make(1)
    elsewhere = Board.create(tmp_path / "elsewhere", [layout.B200, layout.B200.numbered(1)])
    code = "answer(nvml.nvmlDeviceGetCount())"
    assert machine.ask(code) == 1
    assert machine.ask(code, JOULEGATE_SIM_BOARD=str(tmp_path / "elsewhere")) == 2
    elsewhere.close()


def test_without_a_board_there_is_no_driver(machines: Machines) -> None:
    machine = machines.make()
    machine.board.path.unlink()
    with pytest.raises(AssertionError, match="NVMLError_DriverNotLoaded"):
        machine.ask("answer(0)")


def _build(directory: str) -> str:
    return str(library.build(Path(directory)))


def test_processes_that_build_at_once_all_get_a_whole_library(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        built = pool.map(_build, [str(tmp_path)] * 4, chunksize=1)
    assert set(built) == {str(tmp_path / "libnvidia-ml.so.1")}
    ctypes.CDLL(built[0]).joulegate_sim_layout(ctypes.create_string_buffer(4096), 4096)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "libnvidia-ml.so.1",
        "libnvidia-ml.so.1.source",
    ]


def test_the_library_is_compiled_again_only_when_its_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copy(library.SOURCE, tmp_path))
    monkeypatch.setattr(library, "SOURCE", source)
    first = library.build(tmp_path / "out").stat().st_ino
    assert library.build(tmp_path / "out").stat().st_ino == first
    source.write_text(source.read_text() + "\nint joulegate_sim_changed(void) { return 42; }\n")
    assert ctypes.CDLL(str(library.build(tmp_path / "out"))).joulegate_sim_changed() == 42


def test_without_a_compiler_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(library.LibraryError, match="install gcc or clang"):
        library.build(tmp_path)
    monkeypatch.setenv("CC", str(tmp_path / "no-such-compiler"))
    with pytest.raises(library.LibraryError, match="does not start"):
        library.build(tmp_path)


FIELDS = """
device = nvml.nvmlDeviceGetHandleByIndex(0)
answer([f.nvmlReturn for f in nvml.nvmlDeviceGetFieldValues(device, [83, 186, 185, 191])])
"""


def test_one_field_can_fail_alone(machines: Machines) -> None:
    machine = machines.make()
    machine.board.fault(0, "field 186", code=3)
    assert machine.ask(FIELDS) == [0, 3, 0, 0]


def test_a_gpu_without_the_counter_has_it_as_no_field_either(machines: Machines) -> None:
    machine = machines.make()
    machine.board.fault(0, ENERGY, code=3)
    assert machine.ask(FIELDS) == [3, 0, 0, 3]
    machine.board.heal()
    machine.board.fault(0, ENERGY, code=13)  # an older library: only the function is missing
    assert machine.ask(FIELDS) == [0, 0, 0, 0]


def test_mig_instances_have_names_of_their_own_and_show_their_gpus_counter(machines: Machines) -> None:
    machine = machines.make(2, mig=2)
    machine.board.jump(1, 1_000)
    machine.board.freeze(1, True)
    code = """
gpu = nvml.nvmlDeviceGetHandleByIndex(1)
parts = [nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, k) for k in (0, 1)]
names = [nvml.nvmlDeviceGetUUID(p) for p in parts]
found = [nvml.nvmlDeviceGetHandleByUUID(name) for name in names]
whole = [nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(p)) for p in found]
read = [nvml.nvmlDeviceGetTotalEnergyConsumption(p) for p in (gpu, *found)]
answer([nvml.nvmlDeviceGetMigMode(gpu), names, whole, read,
    [nvml.nvmlDeviceIsMigDeviceHandle(p).value for p in (gpu, *found)]])
"""
    mode, names, whole, read, is_mig = machine.ask(code)
    assert (mode, is_mig) == ([1, 1], [0, 1, 1])
    assert len(set(names)) == 2
    assert all(name.startswith("MIG-") for name in names)
    assert whole == [machine.uuids[1]] * 2
    assert len(set(read)) == 1
    assert read[0] > 0


def test_a_forked_child_finds_the_library_uninitialised(machines: Machines) -> None:
    code = """
import os
device = nvml.nvmlDeviceGetHandleByIndex(0)
pid = os.fork()
if pid == 0:
    try:
        nvml.nvmlDeviceGetTotalEnergyConsumption(device)
    except nvml.NVMLError as error:
        os._exit(error.value)
    os._exit(0)
answer(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert machines.make().ask(code) == 1


def test_power_can_be_made_impossible_and_the_counter_made_to_lie(machines: Machines) -> None:
    machine = machines.make()
    machine.board.show_power(0, 593_000)
    read = "device = nvml.nvmlDeviceGetHandleByIndex(0)\nanswer([nvml.nvmlDeviceGetPowerUsage(device), "
    read += "nvml.nvmlDeviceGetFieldValues(device, [186])[0].value.uiVal])"
    assert machine.ask(read) == [593_000_000, 593_000_000]
    energy = "answer(nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByIndex(0)))"
    machine.board.jump(0, 100_000)
    assert machine.ask(energy) >= 99_000_000
    machine.board.distort(0, 0.5)
    assert 49_000_000 < machine.ask(energy) < 60_000_000
