"""How well a GPU is measured: the counter's rhythm, the cross-check with power, telemetry, call times."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from accounting.events import AnyEvent, CrossCheck, MeterUp
from accounting.meters.pace import WINDOW, Calls, percentiles
from accounting.meters.staircase import Step, cross_check, rhythm
from accounting.meters.telemetry import names
from tests.accounting.meters.watching import Watched
from tests.simulator.gpu.machine import Machines

Watch = Callable[..., Watched]


def stairs(period_us: int, jitter_us: int, poll_us: int, count: int, power_mw: int = 300_000) -> list[Step]:
    """What reads every `poll_us` (a quarter of dither) see of a counter with that beat."""
    dice = random.Random(1)
    edges = [k * period_us + dice.randint(-jitter_us, jitter_us) for k in range(1, count + 1)]
    t_us, reads = 0, [0]
    while t_us < edges[-1] + poll_us:
        t_us += round(poll_us * dice.uniform(0.75, 1.25))
        reads.append(t_us)
    steps = []
    for edge in edges:
        lo = max(r for r in reads if r < edge)
        hi = min(r for r in reads if r >= edge)
        steps.append(Step(lo, hi, power_mw * edge // 1_000_000))
    return steps


@pytest.mark.parametrize("period_us", [50_000, 100_000, 103_700])
def test_period_and_jitter_are_learnt_from_brackets(period_us: int) -> None:
    learnt = rhythm(stairs(period_us, 6_000, 10_000, 60))
    assert learnt is not None
    assert learnt.period_us == pytest.approx(period_us, rel=0.005)
    assert learnt.jitter_us == pytest.approx(6_000 / 3**0.5, abs=1_500)  # of an even spread


def test_jitter_that_the_reads_cannot_show_is_not_claimed_to_be_none() -> None:
    learnt = rhythm(stairs(100_000, 100, 20_000, 60))
    assert learnt is not None
    assert learnt.period_us == pytest.approx(100_000, rel=0.005)
    assert learnt.jitter_us is None


def test_steps_that_are_missing_do_not_disturb_the_rhythm() -> None:
    steps = stairs(100_000, 2_000, 10_000, 60)
    learnt = rhythm([step for k, step in enumerate(steps) if k % 7 != 3])
    assert learnt is not None
    assert learnt.period_us == pytest.approx(100_000, rel=0.005)


def test_no_rhythm_is_claimed_of_few_steps_or_of_reads_too_far_apart() -> None:
    assert rhythm(stairs(100_000, 2_000, 10_000, 8)) is None
    every_read_a_step = [Step(k * 30_000, (k + 1) * 30_000, k) for k in range(60)]
    assert rhythm(every_read_a_step) is None


def powers(power_mw: int, until_us: int) -> list[tuple[int, int]]:
    return [(t_us, power_mw) for t_us in range(0, until_us, 50_000)]


def test_a_counter_that_shows_what_power_shows_agrees() -> None:
    check = cross_check(stairs(100_000, 3_000, 10_000, 50), powers(300_000, 5_200_000))
    assert check is not None
    assert check.agrees
    assert check.counter_mj == pytest.approx(check.power_mj, rel=0.01)
    assert check.power_mj == pytest.approx(0.3 * check.over_us, rel=0.01)


@pytest.mark.parametrize("power_mw", [171_500, 350_000])
def test_a_counter_that_is_off_by_more_than_a_tenth_does_not(power_mw: int) -> None:
    check = cross_check(stairs(100_000, 3_000, 10_000, 50), powers(power_mw, 5_200_000))
    assert check is not None
    assert not check.agrees


def test_nothing_is_compared_where_power_or_steps_are_missing() -> None:
    assert cross_check(stairs(100_000, 3_000, 10_000, 50), []) is None
    assert cross_check([], powers(300_000, 5_200_000)) is None
    assert cross_check(stairs(100_000, 3_000, 10_000, 50), powers(300_000, 200_000)) is None


def test_a_healthy_counter_is_learnt_and_agrees_with_power(machines: Machines, watch: Watch) -> None:
    machine = machines.make(jitter_us=12_000)
    uuid = machine.uuids[0]
    watched = watch(machine.library, busy=False, check_s=2.5)
    watched.until(lambda: bool(watched.qualities(uuid)), "the first quality")
    quality = watched.qualities(uuid)[0]
    assert quality.counter_period_us == pytest.approx(100_000, rel=0.02)
    assert quality.counter_jitter_us is not None
    assert quality.counter_lag_us is None
    assert isinstance(quality.check, CrossCheck)
    assert quality.check.agrees
    assert quality.warning is None
    assert quality.read_period_us is not None
    assert quality.call_p50_us is not None


def test_a_counter_that_power_contradicts_is_a_warning_with_both_figures(
    machines: Machines, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = machines.make()
    uuid = machine.uuids[0]
    machine.board.distort(0, 187 / 327)
    watched = watch(machine.library, check_s=2.5)
    watched.until(lambda: bool(watched.qualities(uuid)), "the first quality")
    quality = watched.qualities(uuid)[0]
    assert quality.check is not None
    assert quality.check.counter_mj == pytest.approx(quality.check.power_mj * 187 / 327, rel=0.05)
    assert f"{quality.check.counter_mj / 1000:.0f} J against {quality.check.power_mj / 1000:.0f} J" in str(
        quality.warning
    )
    assert str(quality.warning) in caplog.text


def test_telemetry_says_limits_clocks_reasons_and_none_for_what_is_missing(
    machines: Machines, watch: Watch
) -> None:
    machine = machines.make()
    uuid = machine.uuids[0]
    machine.board.limit_power(0, 500)
    machine.board.fault(0, "nvmlDeviceGetUtilizationRates", code=3)
    watched = watch(machine.library)
    watched.until(lambda: len(watched.telemetry(uuid)) >= 2, "telemetry, twice")
    said = watched.telemetry(uuid)[0]
    assert (said.power_limit_mw, said.default_power_limit_mw) == (500_000, 700_000)
    assert (said.sm_clock_mhz, said.memory_clock_mhz) == (345, 2619)
    assert said.clock_reasons == ["gpu_idle"]
    assert said.utilization_percent is None
    assert said.memory_total_bytes == 80 * 2**30
    assert said.temperature_c is not None
    assert said.power_mw == pytest.approx(110_000, rel=0.02)


def test_reasons_have_names_and_unknown_bits_stay_visible() -> None:
    assert names(0) == []
    assert names(0x4 | 0x80) == ["sw_power_cap", "hw_power_brake_slowdown"]
    assert names(0x20 | 0x400) == ["sw_thermal_slowdown", "0x400"]


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert percentiles([7]) == (7, 7)
    assert percentiles(list(range(1, 101))) == (51, 95)


def test_reads_slow_down_step_by_step_to_one_second_and_come_back() -> None:
    calls = Calls()

    def after(taken_us: int) -> int:
        calls.taken_us.extend([taken_us] * WINDOW)
        calls.judge(0.03)
        return calls.every

    assert [after(100), after(2_000), after(2_000)] == [1, 2, 4]
    assert [after(5_000) for _ in range(5)] == [8, 16, 32, 32, 32]  # 0.96 s
    assert after(800) == 32  # neither slow nor quick
    calls.taken_us.clear()
    assert [after(200) for _ in range(6)] == [16, 8, 4, 2, 1, 1]


def test_two_slow_calls_of_forty_are_let_pass() -> None:
    calls = Calls()
    calls.taken_us.extend([50_000] * 2 + [100] * (WINDOW - 2))
    calls.judge(0.03)
    assert calls.every == 1


def test_what_was_learnt_of_a_gpu_holds_when_it_comes_back(machines: Machines, watch: Watch) -> None:
    machine = machines.make(period_us=50_000, jitter_us=0)
    uuid = machine.uuids[0]
    watched = watch(machine.library, check_s=1.5)
    watched.until(lambda: len(watched.qualities(uuid)) == 1, "the first quality")
    machine.board.fault(0, "*", code=15)
    watched.until_down(uuid, "GPU_IS_LOST")
    machine.board.heal()
    watched.until(lambda: len(watched.qualities(uuid)) == 2, "the second quality")
    first, second = watched.qualities(uuid)
    assert first.check is not None
    assert second.check == first.check  # not made again: it means a hundred reads per second
    assert second.counter_period_us == first.counter_period_us


def test_what_older_journals_say_of_meters_can_still_be_read() -> None:
    old = b'{"type":"meter","t_us":1,"gpu":"GPU-1","device":"H100","method":"nvml-counter","lag_us":7}'
    up = msgspec.json.decode(old, type=AnyEvent)
    assert isinstance(up, MeterUp)
    assert (up.lag_us, up.new_epoch, up.index, up.source, up.note) == (7, False, None, None, None)
    assert msgspec.json.decode(msgspec.json.encode(up)) == msgspec.json.decode(old)
