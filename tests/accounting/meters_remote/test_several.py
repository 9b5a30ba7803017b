"""Several meters as one: a GPU is never counted twice, and is read while any of them can."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from accounting.events import CounterReads, MeterDown, MeterUp
from accounting.meters.contract import Meter, MeterError, MeterEvent
from accounting.meters.several import Several


class Listed:
    """A meter that says what it is told to."""

    def __init__(self, broken: bool = False) -> None:
        self.todo: list[MeterEvent] = []
        self.calls: list[str] = []
        self._broken = broken

    def start(self) -> None:
        self.calls.append("start")
        if self._broken:
            raise MeterError("it cannot")

    def set_busy(self, busy: bool) -> None:
        self.calls.append(f"busy {busy}")

    def drain(self) -> Sequence[MeterEvent]:
        todo, self.todo = self.todo, []
        return todo

    def close(self) -> None:
        self.calls.append("close")


def up(t_us: int, gpu: str = "GPU-a", device: str = "d") -> MeterUp:
    return MeterUp(t_us=t_us, gpu=gpu, device=device, method="nvml-counter")


def down(t_us: int, gpu: str = "GPU-a") -> MeterDown:
    return MeterDown(t_us=t_us, gpu=gpu, code="GPU_IS_LOST", message="m")


def read(t_us: int, gpu: str = "GPU-a") -> CounterReads:
    return CounterReads(gpu=gpu, t_lo_us=[t_us], t_hi_us=[t_us], energy_mj=[t_us])


@pytest.fixture
def pair() -> tuple[Listed, Listed, Several]:
    first, second = Listed(), Listed()
    return first, second, Several([first, second])


Pair = tuple[Listed, Listed, Several]


def test_each_reads_its_own_gpus(pair: Pair) -> None:
    first, second, both = pair
    first.todo, second.todo = [up(1), read(2)], [up(1, "GPU-b"), read(3, "GPU-b")]
    assert both.drain() == [up(1), read(2), up(1, "GPU-b"), read(3, "GPU-b")]


def test_of_two_that_read_one_gpu_the_first_is_heard(pair: Pair) -> None:
    first, second, both = pair
    second.todo = [up(1, device="worse"), read(2)]
    assert both.drain() == [up(1, device="worse"), read(2)]  # nobody better yet
    first.todo, second.todo = [up(5), read(6)], [read(7)]
    assert both.drain() == [up(5), read(6)]
    second.todo = [down(8), up(9, device="worse"), read(10)]
    assert both.drain() == []


def test_the_second_takes_over_and_hands_back(pair: Pair) -> None:
    first, second, both = pair
    first.todo, second.todo = [up(1)], [up(2, device="worse")]
    assert both.drain() == [up(1)]
    first.todo, second.todo = [down(5)], [read(6)]
    assert both.drain() == [down(5), up(5, device="worse"), read(6)]
    first.todo, second.todo = [up(8), read(9)], [read(10)]
    assert both.drain() == [up(8), read(9)]


def test_a_gpu_that_nobody_reads_is_down_in_the_words_of_each(pair: Pair) -> None:
    first, second, both = pair
    first.todo, second.todo = [up(1), down(2), read(3)], [down(4)]
    assert both.drain() == [up(1), down(2), down(4)]


def test_all_are_told_to_hurry_and_to_stop(pair: Pair) -> None:
    first, second, both = pair
    both.start()
    both.set_busy(True)
    both.close()
    assert first.calls == second.calls == ["start", "busy True", "close"]


def test_when_one_cannot_start_the_others_are_closed() -> None:
    good, bad = Listed(), Listed(broken=True)
    meters: list[Meter] = [good, bad]
    with pytest.raises(MeterError):
        Several(meters).start()
    assert good.calls == ["start", "close"]


def test_of_none_nothing_is_said() -> None:
    assert Several().drain() == []
