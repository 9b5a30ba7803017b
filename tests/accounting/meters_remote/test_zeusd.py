"""GPUs behind a zeusd: what is read, how it is timed, and who may read it."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from accounting.clock import Clock
from accounting.meters import zeusd as zeusd_module
from accounting.meters.contract import Meter
from accounting.meters.remote_http import Token
from tests.accounting.meters.watching import wait_until
from tests.accounting.meters_remote.fake_gpus import FakeGpu
from tests.accounting.meters_remote.fake_zeusd import FakeZeusd, issue_token
from tests.accounting.meters_remote.hearing import Heard, zeusd

Hear = Callable[[Meter], Heard]
Closing = Callable[[FakeZeusd], FakeZeusd]
KEY = b"a key of thirty-two bytes, long!"


def test_the_counters_are_read_as_they_are(hear: Hear, closing: Closing) -> None:
    gpus = [FakeGpu(energy_mj=7_000_000), FakeGpu(energy_mj=9_000_000)]
    server = closing(FakeZeusd(gpus))
    heard = hear(zeusd(server.url))
    heard.until_reads("GPU-a", 5)
    heard.until_reads("GPU-b", 1)
    up = heard.ups("GPU-a")[0]
    assert (up.method, up.device, up.power_limit_mw, up.lag_us) == ("zeusd-counter", "NVIDIA A40", 300_000, 0)
    assert (up.node, up.index) == ("node1", 0)
    assert 7_000_000 < heard.reads("GPU-a")[-1][2] <= gpus[0].true_mj()
    assert 9_000_000 < heard.reads("GPU-b")[-1][2] <= gpus[1].true_mj()
    assert heard.kinds("GPU-a") == "u r"


def test_a_read_lies_within_its_round_trip(hear: Hear, closing: Closing) -> None:
    clock = Clock.anchored_now()
    begin_us = clock.now_us()
    heard = hear(zeusd(closing(FakeZeusd([FakeGpu()], skew_s=3600.0)).url))  # its clock does not matter here
    heard.until_reads("GPU-a", 10)
    reads, slack_us = heard.reads("GPU-a"), 100_000  # two anchors of one clock
    assert begin_us - slack_us <= reads[0][0]
    assert reads[-1][1] <= clock.now_us() + slack_us
    assert all(lo <= hi for lo, hi, _ in reads)
    assert all(before[1] <= after[0] for before, after in pairwise(reads))


@pytest.mark.parametrize("skew_s", [0.0, -7.0, 4.2])
def test_without_a_counter_power_is_summed_whatever_the_clock_there_says(
    hear: Hear, closing: Closing, skew_s: float
) -> None:
    gpu = FakeGpu(100_000)
    heard = hear(zeusd(closing(FakeZeusd([gpu], counters=[False], skew_s=skew_s)).url))
    clock = Clock.anchored_now()
    heard.until_reads("GPU-a", 4)
    assert heard.ups("GPU-a")[0].method == "zeusd-power"
    # 1 s in all, with half a second at 600 W in it.
    begin_us = clock.now_us()
    wait_until(lambda: clock.now_us() >= begin_us + 250_000, "a quarter of a second")
    up_us = clock.now_us()
    gpu.set_power(600_000)
    wait_until(lambda: clock.now_us() >= up_us + 500_000, "half a second")
    down_us = clock.now_us()
    gpu.set_power(100_000)
    end_us = down_us + 250_000
    heard.until(lambda: heard.reads("GPU-a")[-1][0] > end_us, "reads of it")
    true_mj = (100_000 * (end_us - begin_us - (down_us - up_us)) + 600_000 * (down_us - up_us)) / 1e6
    told_mj = at(heard, end_us) - at(heard, begin_us)
    # The daemon polls at 20 Hz: each of the two changes is seen up to 50 ms late, and a bit more when busy.
    assert abs(told_mj - true_mj) < 0.15 * 500_000


def at(heard: Heard, t_us: int) -> float:
    """The energy at `t_us`, between the reads before and after it."""
    reads = heard.reads("GPU-a")
    after = next(i for i, read in enumerate(reads) if read[0] >= t_us)
    (t0, _, e0), (t1, _, e1) = reads[after - 1], reads[after]
    return e0 + (e1 - e0) * (t_us - t0) / max(t1 - t0, 1)


def test_a_power_that_does_not_change_is_held(hear: Hear, closing: Closing) -> None:
    heard = hear(zeusd(closing(FakeZeusd([FakeGpu(250_000)], counters=[False])).url))
    heard.until_reads("GPU-a", 60)  # over a second: longer than an answer may take, and than stale
    reads = heard.reads("GPU-a")
    seconds = (reads[-1][0] - reads[1][0]) / 1e6
    assert (reads[-1][2] - reads[1][2]) / 1000 == pytest.approx(250 * seconds, rel=0.02)
    assert heard.kinds("GPU-a") == "u r"


def test_counters_and_power_come_side_by_side(hear: Hear, closing: Closing) -> None:
    server = closing(FakeZeusd([FakeGpu(), FakeGpu()], counters=[False, True]))
    heard = hear(zeusd(server.url))
    heard.until_reads("GPU-a", 4)
    heard.until_reads("GPU-b", 4)
    assert [heard.ups(gpu)[0].method for gpu in ("GPU-a", "GPU-b")] == ["zeusd-power", "zeusd-counter"]


def test_it_is_read_over_the_unix_socket(hear: Hear, closing: Closing, tmp_path: Path) -> None:
    server = closing(FakeZeusd([FakeGpu()], unix=tmp_path / "zeusd.sock"))
    hear(zeusd(server.url)).until_reads("GPU-a", 3)


def test_a_gpu_without_a_given_uuid_is_named_by_its_place(hear: Hear, closing: Closing) -> None:
    server = closing(FakeZeusd([FakeGpu(), FakeGpu()]))
    heard = hear(zeusd(server.url, names={"0000:02:00.0": "GPU-b"}))
    heard.until_reads("GPU-b", 1)
    heard.until_reads("node1/0000:01:00.0", 1)


def test_a_token_with_the_scope_is_taken(
    hear: Hear, closing: Closing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_ZEUSD_TOKEN", issue_token(KEY, ["gpu-read"]))
    server = closing(FakeZeusd([FakeGpu()], key=KEY))
    hear(zeusd(server.url, Token(env="TEST_ZEUSD_TOKEN"))).until_reads("GPU-a", 2)


@pytest.mark.parametrize(
    ("token", "code", "says"),
    [
        (issue_token(b"another key", ["gpu-read"]), "UNAUTHORIZED", "token_env"),
        (issue_token(KEY, ["gpu-read"], int(time.time()) - 60), "UNAUTHORIZED", "token_env"),
        (issue_token(KEY, ["cpu-read"]), "FORBIDDEN", "does not allow"),
        ("", "NO_TOKEN", "holds no token"),
        ("two\nlines", "NO_TOKEN", "cannot be a token"),
    ],
    ids=["wrong key", "expired", "wrong scope", "empty", "not a token"],
)
def test_a_wrong_token_is_told_never_shown_and_replaced_without_a_restart(
    hear: Hear, closing: Closing, tmp_path: Path, token: str, code: str, says: str
) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    heard = hear(zeusd(closing(FakeZeusd([FakeGpu()], key=KEY)).url, Token(file=file)))
    down = heard.until_down("*", code)
    assert says in down.message
    assert not token or token not in down.message
    file.write_text(issue_token(KEY, ["gpu-read"]) + "\n")
    heard.until_reads("GPU-a", 2)


def test_a_daemon_that_does_not_serve_gpus_is_told(hear: Hear, closing: Closing) -> None:
    heard = hear(zeusd(closing(FakeZeusd([FakeGpu()], groups=("cpu-read",))).url))
    assert "--enable gpu-read" in heard.until_down("*", "FORBIDDEN").message


def test_one_gpu_that_fails_does_not_hide_the_others(
    hear: Hear, closing: Closing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zeusd_module, "ASK_AGAIN_S", 0.2)
    gpus = [FakeGpu(), FakeGpu()]
    heard = hear(zeusd(closing(FakeZeusd(gpus)).url))
    heard.until_reads("GPU-a", 2)
    gpus[0].fault = "GPU is lost"
    assert "GPU is lost" in heard.until_down("GPU-a", "REMOTE_FAULT").message
    heard.until_reads("GPU-b", 10)
    gpus[0].fault = None
    heard.until_up("GPU-a", times=2)
    heard.until_reads("GPU-a", 2)
    assert heard.kinds("GPU-a") == "u r d u r"
    assert heard.kinds("GPU-b") == "u r"
