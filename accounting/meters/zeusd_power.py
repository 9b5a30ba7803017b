"""Energy of GPUs whose zeusd has no counter for them: its stream of power, summed.

/gpu/stream_power is a stream of server-sent events, one per GPU and change of its power, up to 20 a second,
with the daemon's time in milliseconds; nothing is sent while the power stays the same, and nothing at the
start until it changes (zeusd/src/devices/gpu/power.rs, power_streaming.rs). So each value holds until the
next, the first one comes from /gpu/get_power, and that is asked again now and then: it tells whether the
daemon is alive, and corrects a value that was missed. Times are put on our clock by means of /time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping

import msgspec

from accounting.meters.contract import MeterEvent
from accounting.meters.remote_clock import RemoteClock
from accounting.meters.remote_http import Remote, RemoteError
from accounting.meters.remote_power import HeldPower

SENSOR_LAG_US = 12_500
"""Half the window of the sensor behind instantaneous power (25 ms on A100 and H100: arXiv 2312.02741)."""

DELAY_US = 150_000
"""The sum is told up to this long ago: by then a change has arrived."""

CHECK_S = 2.0
"""Time between two looks at /gpu/get_power and /time."""

SYNCS = 4
"""Exchanges of the time at the start: the quickest decides."""

MOST_UNSURE_US = 500_000
"""Joules are shared out by half seconds: a clock less sure than that cannot be used."""


class Sample(msgspec.Struct):
    """One event of the stream."""

    timestamp_ms: int
    gpu_id: int
    power_mw: int


class Snapshot(msgspec.Struct):
    """/gpu/get_power."""

    timestamp_ms: int
    power_mw: dict[str, int]


class Time(msgspec.Struct):
    """/time."""

    timestamp_ms: int


class PowerStream:
    """Follows the power of `gpus`, names by zeusd's index. To be opened once."""

    def __init__(self, remote: Remote, gpus: Mapping[int, str]) -> None:
        self._remote, self._gpus = remote, gpus
        self._clock = RemoteClock()
        self._held = {i: HeldPower() for i in gpus}
        self._heard: deque[Sample | RemoteError] = deque()
        self._check_at_s = 0.0
        self._closing = False
        self._stream = Remote(
            remote.what, remote.url, remote.clock, token=remote.token, timeout_s=remote.timeout_s
        )
        self._thread = threading.Thread(target=self._follow, name=f"{remote.name} power", daemon=True)

    def open(self) -> None:
        """Get the clocks together and the first values. Raises RemoteError."""
        for _ in range(SYNCS):
            self._sync()
        self._thread.start()

    def read(self) -> list[MeterEvent]:
        """The sums, up to a moment ago. Raises RemoteError when the stream or the daemon is gone."""
        while self._heard:
            heard = self._heard.popleft()
            if isinstance(heard, RemoteError):
                raise heard
            self._hold(heard.gpu_id, heard.timestamp_ms, heard.power_mw)
        if time.monotonic() >= self._check_at_s:
            self._check()
        upto_us = self._remote.clock.now_us() - DELAY_US
        reads = (self._held[i].read(gpu, upto_us) for i, gpu in self._gpus.items())
        return [read for read in reads if read is not None]

    def close(self) -> None:
        """End the stream. The thread ends with its next line or its timeout."""
        self._closing = True

    def _follow(self) -> None:
        """Hear the stream. A timeout is no fault: nothing has changed, and `_check` tells who is alive."""
        try:
            self._stream.open()
            while not self._closing:
                try:
                    self._listen()
                except RemoteError as error:
                    if error.code != "SLOW":
                        raise
        except RemoteError as error:
            self._heard.append(error)
        finally:
            self._stream.close()

    def _listen(self) -> None:
        ids = {"gpu_ids": ",".join(map(str, self._gpus))}
        with self._stream.lines("/gpu/stream_power", ids) as lines:
            for line in lines:
                if self._closing:
                    return
                if line.startswith("data:"):
                    try:
                        self._heard.append(msgspec.json.decode(line[5:], type=Sample))
                    except msgspec.DecodeError as error:
                        raise self._stream.bad(str(error)) from error
        if not self._closing:
            raise self._stream.unreachable("the stream of power ended")

    def _sync(self) -> None:
        answer = self._remote.get("/time")
        theirs_us = self._remote.decoded(answer, Time).timestamp_ms * 1000
        self._clock.add(answer.sent_us, answer.received_us, theirs_us + 999, theirs_us)

    def _check(self) -> None:
        """Look at the power and the time themselves."""
        self._check_at_s = time.monotonic() + CHECK_S
        self._sync()
        offset = self._clock.offset_us(self._remote.clock.now_us())
        if offset is None or offset[1] > MOST_UNSURE_US:
            raise RemoteError(
                "CLOCK_UNSURE", f"{self._remote.name} answers too slowly to know what time it has there"
            )
        told = self._remote.decoded(self._remote.get("/gpu/get_power"), Snapshot)
        for i in self._gpus:
            if str(i) not in told.power_mw:
                raise self._remote.bad(f"no power of GPU {i}")
            self._hold(i, told.timestamp_ms, told.power_mw[str(i)])

    def _hold(self, gpu: int, timestamp_ms: int, power_mw: int) -> None:
        offset = self._clock.offset_us(self._remote.clock.now_us())
        if gpu in self._held and offset is not None:
            # The middle of the millisecond that they tell.
            self._held[gpu].tell(timestamp_ms * 1000 + 500 - offset[0], power_mw)
