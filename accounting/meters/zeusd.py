"""GPUs behind a zeusd, the daemon of the Zeus project, on TCP or on its Unix socket.

What is asked, as of ml-energy/zeus 75a8b93 (docs/zeusd/api.md, zeusd/src/routes/gpu.rs):
- /discover, without a token: the GPUs, by index and PCI address (it tells no UUID), and whether each has an
  energy counter to be trusted;
- /gpu/get_cumulative_energy: millijoules of the counter, read while we wait. There is no time with it, so
  the round trip brackets it, on our own clock;
- where there is no counter, /gpu/stream_power (see `zeusd_power`).

A call for several GPUs of which one fails answers {"errors": {index: why}} and nothing for the others; so the
one that failed is left out of the next calls and asked again later.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from accounting.events import CounterReads, MeterDown, MeterUp
from accounting.meters.contract import MeterEvent
from accounting.meters.remote_http import Answer, Remote, RemoteError
from accounting.meters.zeusd_power import SENSOR_LAG_US, PowerStream

ASK_AGAIN_S = 5.0
"""A GPU that failed is asked again after this."""


class Gpu(msgspec.Struct):
    """One of /discover's GPUs."""

    id: int
    name: str
    pci_address: str
    cumulative_energy_available: bool


class Discovery(msgspec.Struct):
    gpus: list[Gpu]
    enabled_api_groups: list[str]
    auth_required: bool = False


class Energy(msgspec.Struct):
    energy_mj: int


class Limit(msgspec.Struct):
    power_limit_mw: int


class Errors(msgspec.Struct):
    """What failed, by GPU index; or the whole call."""

    errors: dict[str, str] = {}
    error: str | None = None


class Zeusd:
    """A `remote.Source`. `names`: UUIDs by PCI address or index; a GPU without is called `node/address`."""

    busy_period_s = 0.1
    idle_period_s = 1.0
    stale_s = 10.0

    def __init__(self, remote: Remote, node: str, names: Mapping[str, str]) -> None:
        self.name = remote.name
        self._remote, self._node, self._names = remote, node, names
        self._counters: dict[int, MeterUp] = {}
        self._broken: dict[int, float] = {}
        """Counters that failed, and when to ask them again."""
        self._power: PowerStream | None = None

    def open(self) -> list[MeterUp]:
        self._remote.open()
        told = self._remote.decoded(self._remote.get("/discover"), Discovery)
        if "gpu-read" not in told.enabled_api_groups:
            raise RemoteError(
                "FORBIDDEN", f"{self.name} does not serve GPUs: start it with --enable gpu-read"
            )
        if not told.gpus:
            raise RemoteError("NOT_FOUND", f"{self.name} finds no GPU on its machine")
        limits = self._limits()
        ups = {gpu.id: self._up(gpu, limits.get(str(gpu.id))) for gpu in told.gpus}
        self._broken = {}
        self._counters = {gpu.id: ups[gpu.id] for gpu in told.gpus if gpu.cumulative_energy_available}
        without = {gpu.id: ups[gpu.id].gpu for gpu in told.gpus if not gpu.cumulative_energy_available}
        if without:
            self._power = PowerStream(self._remote, without)
            self._power.open()
        return list(ups.values())

    def read(self, busy: bool) -> list[MeterEvent]:
        del busy  # it reads when it is asked
        events: list[MeterEvent] = []
        now_s = time.monotonic()
        ask = [i for i in self._counters if self._broken.get(i, now_s) <= now_s]
        while ask:
            answer = self._energy(ask)
            errors = self._errors(answer)
            if not errors:
                events += self._reads(answer)
                break
            failed = [i for i in ask if str(i) in errors]
            if not failed:
                raise self._remote.bad(f"HTTP {answer.status}")
            for i in failed:
                self._broken[i] = now_s + ASK_AGAIN_S
                events.append(self._fault(i, errors[str(i)], answer.received_us))
            ask = [i for i in ask if i not in failed]
        return events + (self._power.read() if self._power is not None else [])

    def close(self) -> None:
        power, self._power = self._power, None
        if power is not None:
            power.close()
        self._remote.close()

    def _fault(self, i: int, why: str, t_us: int) -> MeterDown:
        message = f"{self.name} cannot read GPU {i}: {why}"
        return MeterDown(t_us=t_us, gpu=self._counters[i].gpu, code="REMOTE_FAULT", message=message)

    def _energy(self, ids: list[int]) -> Answer:
        return self._remote.get("/gpu/get_cumulative_energy", {"gpu_ids": ",".join(map(str, ids))})

    def _errors(self, answer: Answer) -> Mapping[str, str]:
        """By GPU index, what failed. Raises RemoteError when the whole call did."""
        if answer.status == 200:
            return {}
        try:
            told = msgspec.json.decode(answer.body, type=Errors)
        except (msgspec.DecodeError, UnicodeDecodeError):
            told = Errors()
        if not told.errors:
            raise self._remote.bad(f"HTTP {answer.status} {told.error or ''}".rstrip())
        return told.errors

    def _reads(self, answer: Answer) -> list[MeterEvent]:
        told = self._remote.decoded(answer, dict[str, Energy])
        events: list[MeterEvent] = []
        for i, up in self._counters.items():
            energy = told.get(str(i))
            if energy is None:
                continue
            if self._broken.pop(i, None) is not None:
                events.append(msgspec.structs.replace(up, t_us=answer.received_us))
            events.append(
                CounterReads(
                    gpu=up.gpu,
                    t_lo_us=[answer.sent_us],
                    t_hi_us=[answer.received_us],
                    energy_mj=[energy.energy_mj],
                )
            )
        return events

    def _limits(self) -> dict[str, Limit]:
        """Power limits by index; none where one of the GPUs has none to tell."""
        answer = self._remote.get("/gpu/get_power_limit")
        return self._remote.decoded(answer, dict[str, Limit]) if answer.status == 200 else {}

    def _up(self, gpu: Gpu, limit: Limit | None) -> MeterUp:
        known = self._names.get(gpu.pci_address) or self._names.get(str(gpu.id))
        counted = gpu.cumulative_energy_available
        return MeterUp(
            t_us=self._remote.clock.now_us(),
            gpu=known or f"{self._node}/{gpu.pci_address}",
            device=gpu.name,
            index=gpu.id,
            node=self._node,
            method="zeusd-counter" if counted else "zeusd-power",
            lag_us=0 if counted else SENSOR_LAG_US,
            power_limit_mw=limit.power_limit_mw if limit is not None else None,
        )
