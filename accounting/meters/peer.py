"""GPUs of another node, read there by `joulegate meter` and told here as they were read.

The node numbers what its meter says and keeps the last while of it; `GET /v1/meter/reads?after=N` answers
with what came after number N. So no read is lost between two questions, however slow the network, and several
can ask. Its reads have its own brackets, [t_lo, t_hi] on its clock; each answer also tells when the question
arrived and when the answer left, which is all that is needed to put them on ours: a bracket grows by what
the offset between the clocks may be off. Its clock cannot be set while it runs (accounting/clock.py).
"""

from __future__ import annotations

import msgspec

from accounting.events import CounterReads, MeterDown, MeterUp
from accounting.meters.contract import MeterEvent
from accounting.meters.remote_clock import RemoteClock
from accounting.meters.remote_http import Remote, RemoteError

PATH = "/v1/meter/reads"
FORMAT = 1

SYNCS = 3
"""Answers at the start that only compare the clocks."""

MOST_UNSURE_US = 500_000
"""Joules are shared out by half seconds: a clock less sure than that cannot be used."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of the node. Times are UTC microseconds of its clock.

    `node` its name; `run` differs after each of its starts; `next` is what to ask `after` the next time;
    `lost` how many were forgotten before we asked. Without `after`, or with another run's, `events` are the
    present state: one MeterUp or MeterDown for each GPU.
    """

    format: int
    node: str
    run: str
    received_us: int
    sent_us: int
    next: int
    lost: int
    events: list[MeterEvent]


class Peer:
    """A `remote.Source`."""

    busy_period_s = 0.2
    idle_period_s = 1.0
    stale_s = 10.0

    def __init__(self, remote: Remote) -> None:
        self.name = remote.name
        self.lost = 0
        """Events forgotten over there before we asked for them."""
        self._remote = remote
        self._clock = RemoteClock()
        self._run = ""
        self._next = 0

    def open(self) -> list[MeterUp | MeterDown]:
        self._remote.open()
        self._clock, self._run = RemoteClock(), ""
        for _ in range(SYNCS - 1):
            self._ask(busy=False)
        now_us = self._remote.clock.now_us()  # what came about long ago over there begins now for us
        return [
            msgspec.structs.replace(event, t_us=now_us)
            for event in self._heard(self._ask(busy=False))
            if isinstance(event, MeterUp | MeterDown)
        ]

    def read(self, busy: bool) -> list[MeterEvent]:
        return self._heard(self._ask(busy=busy))

    def close(self) -> None:
        self._remote.close()

    def _ask(self, *, busy: bool) -> Told:
        params: dict[str, str | int] = {"busy": int(busy)}
        if self._run:
            params |= {"run": self._run, "after": self._next}
        answer = self._remote.get(PATH, params)
        if answer.status == 404:
            raise self._remote.bad("there is no joulegate meter there")
        told = self._remote.decoded(answer, Told)
        if told.format != FORMAT:
            raise self._remote.bad(
                f"its format is {told.format}, ours {FORMAT}: use the same version of joulegate"
            )
        if self._run and told.run != self._run:
            raise RemoteError("RESTARTED", f"{self.name} was started again")
        self._clock.add(answer.sent_us, answer.received_us, told.received_us, told.sent_us)
        return told

    def _heard(self, told: Told) -> list[MeterEvent]:
        self._run, self._next = told.run, told.next
        self.lost += told.lost
        offset = self._clock.offset_us(self._remote.clock.now_us())
        if offset is None or offset[1] > MOST_UNSURE_US:
            raise RemoteError(
                "CLOCK_UNSURE", f"{self.name} answers too slowly to know what time it has there"
            )
        ahead_us, unsure_us = offset
        ours = [_ours(event, ahead_us, unsure_us) for event in told.events]
        return [
            msgspec.structs.replace(event, node=event.node or told.node)
            if isinstance(event, MeterUp)
            else event
            for event in ours
        ]


def _ours(event: MeterEvent, ahead_us: int, unsure_us: int) -> MeterEvent:
    """The event in our time, `ahead_us` less, its brackets widened by `unsure_us` on both sides."""
    if isinstance(event, CounterReads):
        return msgspec.structs.replace(
            event,
            t_lo_us=[t - ahead_us - unsure_us for t in event.t_lo_us],
            t_hi_us=[t - ahead_us + unsure_us for t in event.t_hi_us],
        )
    return msgspec.structs.replace(event, t_us=event.t_us - ahead_us)
