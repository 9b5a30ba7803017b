"""GPUs of a DCGM exporter: slow, coarse, and several times on the page under MIG."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accounting.meters.contract import Meter
from tests.accounting.meters_remote.fake_dcgm import Exported, FakeDcgm
from tests.accounting.meters_remote.fake_gpus import FakeGpu
from tests.accounting.meters_remote.hearing import Heard, dcgm

Hear = Callable[[Meter], Heard]
Closing = Callable[[FakeDcgm], FakeDcgm]


def test_the_counter_comes_with_the_time_between_its_updates(hear: Hear, closing: Closing) -> None:
    gpu = FakeGpu()
    heard = hear(dcgm(closing(FakeDcgm([Exported("GPU-a", gpu)], update_s=0.3)).url, 0.3))
    heard.until(lambda: len({mj for *_, mj in heard.reads("GPU-a")}) >= 4, "four updates")
    up = heard.ups("GPU-a")[0]
    assert (up.method, up.device, up.period_us) == ("dcgm-counter", "NVIDIA H100 80GB HBM3", 300_000)
    assert up.node == "node1"
    reads = heard.reads("GPU-a")
    assert len(reads) > 8  # looked at several times per update: that narrows each edge
    assert reads[-1][2] <= gpu.true_mj()
    assert heard.kinds("GPU-a") == "u r"


@pytest.mark.parametrize("label", ["Hostname", "hostname"])
def test_rows_of_other_hosts_are_left_out_by_either_label(hear: Hear, closing: Closing, label: str) -> None:
    mine, other = Exported("GPU-a", FakeGpu()), Exported("GPU-b", FakeGpu())
    mine.host, other.host = (label, "node1"), (label, "node2")
    heard = hear(dcgm(closing(FakeDcgm([mine, other], update_s=0.1)).url, 0.1, host="node1"))
    heard.until_reads("GPU-a", 5)
    assert {event.gpu for event in heard.events} == {"GPU-a"}


def test_instances_of_mig_are_their_gpu_once(hear: Hear, closing: Closing) -> None:
    gpu = FakeGpu(power_mw=400_000)
    server = closing(FakeDcgm([Exported("GPU-a", gpu, instances=(3, 4, 5))], update_s=0.1))
    heard = hear(dcgm(server.url, 0.1))
    heard.until_reads("GPU-a", 20)
    assert len(heard.ups("GPU-a")) == 1
    (first_us, _, first_mj), (last_us, _, last_mj) = heard.reads("GPU-a")[0], heard.reads("GPU-a")[-1]
    seconds = (last_us - first_us) / 1e6
    assert (last_mj - first_mj) / 1000 < 400 * (seconds + 0.3)  # three times that if they were summed


def test_without_the_counter_power_is_summed(hear: Hear, closing: Closing) -> None:
    server = closing(FakeDcgm([Exported("GPU-a", FakeGpu(200_000), counter=False)], update_s=0.1))
    heard = hear(dcgm(server.url, 0.1))
    heard.until_reads("GPU-a", 30)
    assert heard.ups("GPU-a")[0].method == "dcgm-power"
    reads = heard.reads("GPU-a")
    seconds = (reads[-1][0] - reads[1][0]) / 1e6
    assert (reads[-1][2] - reads[1][2]) / 1000 == pytest.approx(200 * seconds, rel=0.02)


def test_a_counter_that_comes_or_goes_changes_the_method(hear: Hear, closing: Closing) -> None:
    one = Exported("GPU-a", FakeGpu(), counter=False)
    heard = hear(dcgm(closing(FakeDcgm([one], update_s=0.1)).url, 0.1))
    heard.until_reads("GPU-a", 2)
    one.counter = True
    heard.until_up("GPU-a", times=2)
    assert [up.method for up in heard.ups("GPU-a")] == ["dcgm-power", "dcgm-counter"]


def test_an_exporter_that_is_stuck_is_stale(hear: Hear, closing: Closing) -> None:
    server = closing(FakeDcgm([Exported("GPU-a", FakeGpu())], update_s=0.1))
    heard = hear(dcgm(server.url, 0.1, stale_s=0.6))
    heard.until_reads("GPU-a", 3)
    server.stuck = True
    assert "restart it" in heard.until_down("GPU-a", "STALE").message
    server.stuck = False
    heard.until_up("GPU-a", times=2)
    assert heard.kinds("GPU-a").startswith("u r d u")


def test_a_gpu_that_leaves_the_page_is_told_and_comes_back(hear: Hear, closing: Closing) -> None:
    stays, goes = Exported("GPU-a", FakeGpu()), Exported("GPU-b", FakeGpu())
    heard = hear(dcgm(closing(FakeDcgm([stays, goes], update_s=0.1)).url, 0.1))
    heard.until_reads("GPU-b", 2)
    goes.shown = False
    heard.until_down("GPU-b", "GPU_GONE")
    heard.until_reads("GPU-a", 3)
    goes.shown = True
    heard.until_up("GPU-b", times=2)
    heard.until_reads("GPU-b", 2)
    assert heard.kinds("GPU-a") == "u r"


def test_a_page_without_energy_says_where_to_turn_it_on(hear: Hear, closing: Closing) -> None:
    heard = hear(dcgm(closing(FakeDcgm([], update_s=0.1)).url, 0.1))
    assert "counters.csv" in heard.until_down("*", "NOT_FOUND").message


def test_what_is_no_page_of_metrics_is_told(hear: Hear, closing: Closing) -> None:
    server = closing(FakeDcgm([Exported("GPU-a", FakeGpu())], update_s=0.1))
    heard = hear(dcgm(server.url, 0.1))
    heard.until_reads("GPU-a", 2)
    server.server.fault = "garbage"
    heard.until_down("GPU-a", "BAD_ANSWER")
    server.server.fault = None
    heard.until_up("GPU-a", times=2)
