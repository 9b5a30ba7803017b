"""Remote meters in bad times: told once, with what to do; the others go on; measured again by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from accounting.clock import Clock
from accounting.events import MeterUp
from accounting.meters.contract import Meter, MeterEvent
from accounting.meters.remote import RemoteMeter
from accounting.meters.remote_http import Remote
from accounting.meters.zeusd import Zeusd
from tests.accounting.meters.watching import wait_until
from tests.accounting.meters_remote.fake_gpus import FakeGpu
from tests.accounting.meters_remote.fake_zeusd import FakeZeusd
from tests.accounting.meters_remote.hearing import NO_TOKEN, Heard, metered, remote, zeusd
from tests.accounting.meters_remote.server import Fault

Hear = Callable[[Meter], Heard]
Closing = Callable[[FakeZeusd], FakeZeusd]


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ("garbage", "BAD_ANSWER", "makes no sense"),
        ("error", "BAD_ANSWER", "HTTP 500"),
        ("slow", "SLOW", "has not answered within 0.3 s"),
        ("dripping", "SLOW", "has not answered within 0.3 s"),
        ("broken", "UNREACHABLE", "ended the connection"),
    ],
)
def test_a_bad_answer_is_told_the_others_go_on_and_it_heals(
    hear: Hear, closing: Closing, fault: Fault, code: str, says: str
) -> None:
    bad, good = closing(FakeZeusd([FakeGpu()])), closing(FakeZeusd([FakeGpu()]))
    heard, other = hear(zeusd(bad.url)), hear(zeusd(good.url))
    heard.until_reads("GPU-a", 2)
    bad.server.fault = fault
    down = heard.until_down("GPU-a", code)
    assert says in down.message
    assert bad.url in down.message
    other.until_reads("GPU-a", 5)
    bad.server.fault = None
    heard.until_up("GPU-a", times=2)
    heard.until_reads("GPU-a", 2)
    assert heard.kinds("GPU-a") == "u r d u r"
    assert other.kinds("GPU-a") == "u r"


def test_a_node_that_is_gone_is_told_once_and_read_again_when_it_is_back(
    hear: Hear, closing: Closing
) -> None:
    server = closing(FakeZeusd([FakeGpu()]))
    heard = hear(zeusd(server.url))
    heard.until_reads("GPU-a", 2)
    server.server.stop()
    assert "cannot be reached" in heard.until_down("GPU-a", "UNREACHABLE").message
    server.server.start()
    heard.until_up("GPU-a", times=2)
    heard.until_reads("GPU-a", 2)
    assert heard.kinds("GPU-a") == "u r d u r"


def test_a_node_that_is_away_at_the_start_is_told_of_its_gpus(hear: Hear, closing: Closing) -> None:
    server = closing(FakeZeusd([FakeGpu()]))
    server.server.stop()
    clock = Clock.anchored_now()
    source = Zeusd(remote(server.url, clock), "node1", {"0": "GPU-a"})
    heard = hear(metered(source, clock, gpus=["GPU-a"]))
    heard.until_down("GPU-a", "UNREACHABLE")
    server.server.start()
    heard.until_reads("GPU-a", 2)
    assert heard.kinds("GPU-a") == "d u r"


def test_a_name_that_no_host_has_is_told(hear: Hear) -> None:
    clock = Clock.anchored_now()
    source = Zeusd(
        Remote("zeusd", "http://nowhere.invalid:4938", clock, token=NO_TOKEN, timeout_s=5.0), "n", {}
    )
    heard = hear(RemoteMeter(source, clock, gpus=["GPU-a"]))
    assert "nowhere.invalid" in heard.until_down("GPU-a", "UNREACHABLE").message


def test_a_gpu_that_the_node_does_not_have_is_told_with_those_that_it_has(
    hear: Hear, closing: Closing
) -> None:
    clock = Clock.anchored_now()
    source = Zeusd(remote(closing(FakeZeusd([FakeGpu()])).url, clock), "node1", {"0": "GPU-a"})
    heard = hear(metered(source, clock, gpus=["GPU-a", "GPU-z"]))
    assert "it has: GPU-a" in heard.until_down("GPU-z", "NOT_FOUND").message
    heard.until_reads("GPU-a", 2)


def test_gpus_not_asked_for_are_not_spoken_of(hear: Hear, closing: Closing) -> None:
    clock = Clock.anchored_now()
    url = closing(FakeZeusd([FakeGpu(), FakeGpu()])).url
    heard = hear(metered(Zeusd(remote(url, clock), "n", {"0": "GPU-a", "1": "GPU-b"}), clock, gpus=["GPU-b"]))
    heard.until_reads("GPU-b", 3)
    assert {event.gpu for event in heard.events} == {"GPU-b"}


def test_values_served_without_change_are_stale(hear: Hear, closing: Closing) -> None:
    gpu = FakeGpu()
    heard = hear(zeusd(closing(FakeZeusd([gpu])).url))
    heard.until_reads("GPU-a", 2)
    gpu.frozen = True
    down = heard.until_down("GPU-a", "STALE")
    assert "serves the same energy" in down.message
    assert down.t_us > heard.reads("GPU-a")[-1][0]
    gpu.frozen = False
    heard.until_up("GPU-a", times=2)
    heard.until_reads("GPU-a", 2)
    assert heard.kinds("GPU-a") == "u r d u r"


def test_a_counter_that_starts_anew_is_told_and_read_on(hear: Hear, closing: Closing) -> None:
    gpu = FakeGpu(energy_mj=10**10)
    heard = hear(zeusd(closing(FakeZeusd([gpu])).url))
    heard.until_reads("GPU-a", 3)
    gpu.reset()
    assert "went back" in heard.until_down("GPU-a", "COUNTER_RESET").message
    heard.until_reads("GPU-a", 3)
    assert heard.kinds("GPU-a") == "u r d u r"
    assert heard.reads("GPU-a")[-1][2] < 10**9
    assert [up.new_epoch for up in heard.ups("GPU-a")] == [False, True]


def test_drain_does_not_wait_for_an_answer(hear: Hear, closing: Closing) -> None:
    server = closing(FakeZeusd([FakeGpu()]))
    answered = threading.Event()
    clock = Clock.anchored_now()
    heard = hear(metered(Zeusd(remote(server.url, clock, timeout_s=20.0), "n", {"0": "GPU-a"}), clock))
    heard.until_reads("GPU-a", 1)
    server.server.slow_for = lambda: wait_until(answered.is_set, "the test to let it answer")
    server.server.fault = "slow"
    asked = len(server.server.asked)
    wait_until(lambda: len(server.server.asked) > asked, "a question that gets no answer")
    for _ in range(100):
        heard.meter.drain()
        heard.meter.set_busy(True)
    assert not answered.is_set()  # all of that came back while the answer was still out
    answered.set()
    server.server.fault = None


def test_an_answer_that_never_comes_is_stale_though_nothing_fails(hear: Hear, closing: Closing) -> None:
    server = closing(FakeZeusd([FakeGpu()]))
    answered = threading.Event()
    clock = Clock.anchored_now()
    source = Zeusd(remote(server.url, clock, timeout_s=20.0), "n", {"0": "GPU-a"})
    heard = hear(metered(source, clock, stale_s=0.5))
    heard.until_reads("GPU-a", 1)
    server.server.slow_for = lambda: wait_until(answered.is_set, "the test to let it answer")
    server.server.fault = "slow"
    assert "has told no energy for" in heard.until_down("GPU-a", "STALE").message
    server.server.fault = None
    answered.set()
    heard.until_up("GPU-a", times=2)


class Broken:
    """A source with a bug."""

    name, busy_period_s, idle_period_s, stale_s = "the broken one", 0.01, 0.01, 60.0

    def open(self) -> list[MeterUp]:
        return [MeterUp(t_us=1, gpu="GPU-a", device="d", method="zeusd-counter")]

    def read(self, busy: bool) -> list[MeterEvent]:
        raise KeyError("a bug")

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_thread_does_not_go_unnoticed(hear: Hear) -> None:
    heard = hear(RemoteMeter(Broken(), Clock.anchored_now()))
    assert "see the log" in heard.until_down("GPU-a", "METER_DIED").message
