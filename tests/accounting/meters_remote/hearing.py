"""Drain any meter until it has said what a test waits for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accounting.clock import Clock
from accounting.events import CounterReads, MeterDown, MeterUp
from accounting.meters.contract import Meter, MeterEvent
from accounting.meters.dcgm import Dcgm
from accounting.meters.peer import Peer
from accounting.meters.remote import RemoteMeter, Source
from accounting.meters.remote_http import Remote, Token
from accounting.meters.zeusd import Zeusd
from tests.accounting.meters.watching import wait_until

NO_TOKEN = Token()


class Heard:
    """A meter, started and busy, and all that it has said."""

    def __init__(self, meter: Meter, *, busy: bool = True) -> None:
        self.meter = meter
        self.events: list[MeterEvent] = []
        meter.set_busy(busy)
        meter.start()

    def until(self, true: Callable[[], bool], what: str) -> None:
        def drained() -> bool:
            self.events += self.meter.drain()
            return true()

        wait_until(drained, what)

    def ups(self, gpu: str) -> list[MeterUp]:
        return [e for e in self.events if isinstance(e, MeterUp) and e.gpu == gpu]

    def downs(self, gpu: str) -> list[MeterDown]:
        return [e for e in self.events if isinstance(e, MeterDown) and e.gpu == gpu]

    def reads(self, gpu: str) -> list[tuple[int, int, int]]:
        """(t_lo_us, t_hi_us, energy_mj), in order."""
        batches = [e for e in self.events if isinstance(e, CounterReads) and e.gpu == gpu]
        return [read for e in batches for read in zip(e.t_lo_us, e.t_hi_us, e.energy_mj, strict=True)]

    def until_reads(self, gpu: str, more: int = 1) -> None:
        """Until there are this many reads more than now."""
        wanted = len(self.reads(gpu)) + more
        self.until(lambda: len(self.reads(gpu)) >= wanted, f"{wanted} reads of {gpu}")

    def until_down(self, gpu: str, code: str) -> MeterDown:
        self.until(lambda: any(e.code == code for e in self.downs(gpu)), f"{gpu} going down with {code}")
        return next(e for e in reversed(self.downs(gpu)) if e.code == code)

    def until_up(self, gpu: str, times: int = 1) -> MeterUp:
        self.until(lambda: len(self.ups(gpu)) >= times, f"{gpu} coming up")
        return self.ups(gpu)[times - 1]

    def kinds(self, gpu: str) -> str:
        """The events of one GPU in order, e.g. "u r d u r", neighbouring batches of reads taken together."""
        letters: dict[type[MeterEvent], str] = {MeterUp: "u", MeterDown: "d", CounterReads: "r"}
        said = [letters[type(e)] for e in self.events if e.gpu == gpu and type(e) in letters]
        return " ".join(a for a, b in zip(said, [*said[1:], ""], strict=True) if not (a == b == "r"))


def remote(url: str, clock: Clock, token: Token = NO_TOKEN, timeout_s: float = 0.3) -> Remote:
    return Remote("the meter", url, clock, token=token, timeout_s=timeout_s)


def zeusd(url: str, token: Token = NO_TOKEN, names: dict[str, str] | None = None) -> RemoteMeter:
    clock = Clock.anchored_now()
    source = Zeusd(remote(url, clock, token), "node1", names or {"0": "GPU-a", "1": "GPU-b"})
    return metered(source, clock, stale_s=1.0)


def dcgm(url: str, update_s: float, host: str | None = None, stale_s: float = 2.0) -> RemoteMeter:
    clock = Clock.anchored_now()
    return metered(Dcgm(remote(url, clock), update_s=update_s, host=host), clock, stale_s=stale_s)


def peer(
    url: str, token: Token = NO_TOKEN, clock: Clock | None = None, gpus: Sequence[str] | None = None
) -> RemoteMeter:
    clock = clock or Clock.anchored_now()
    return metered(Peer(remote(url, clock, token, timeout_s=2.0)), clock, gpus=gpus)


def metered(
    source: Source, clock: Clock, *, gpus: Sequence[str] | None = None, stale_s: float | None = None
) -> RemoteMeter:
    """A meter of this source, at a pace that suits tests."""
    source.busy_period_s = source.idle_period_s = min(source.busy_period_s, 0.05)
    if stale_s is not None:
        source.stale_s = stale_s
    return RemoteMeter(source, clock, gpus=gpus)
