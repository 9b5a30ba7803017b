"""GPUs of a DCGM exporter: its Prometheus page, asked often enough to see when it changes.

Two of its metrics (NVIDIA/dcgm-exporter, etc/default-counters.csv): DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION, a
counter in millijoules, and where that is missing DCGM_FI_DEV_POWER_USAGE, a gauge in watts, summed. The
exporter collects every 30 s if not told otherwise and serves the same values in between. So what it says is
coarse in time: an update lies between the last page with the old value and the first with the new one, and
how the energy was spread between two updates is not seen. docs/remote-meters.md says what that costs.

A GPU in MIG mode has a row for each instance, with the labels GPU_I_ID and GPU_I_PROFILE and the UUID of the
GPU, and each row repeats the GPU's own energy (NVIDIA/dcgm-exporter issue 317): it is counted once, from the
row that is furthest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from accounting.events import CounterReads, MeterDown, MeterUp
from accounting.meters.contract import MeterEvent
from accounting.meters.remote_http import Answer, Remote, RemoteError
from accounting.meters.remote_power import HeldPower

ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
POWER = "DCGM_FI_DEV_POWER_USAGE"

LOOKS = 20
"""Looks per update: an edge is then known to a twentieth of what lies between two."""

MOST_LOOK_S, LEAST_LOOK_S = 2.0, 0.1


class Row(msgspec.Struct):
    """What the page says of one GPU."""

    device: str
    node: str | None = None
    energy_mj: int | None = None
    power_mw: int | None = None


class Dcgm:
    """A `remote.Source`. `update_s` is the exporter's collect interval; `host`: only its rows.

    The host's name is in the label Hostname, or hostname from the exporter's version 4 on.
    """

    def __init__(
        self, remote: Remote, *, path: str = "/metrics", update_s: float = 30.0, host: str | None = None
    ) -> None:
        self.name, self._path = remote.name, path
        self._remote, self._update_us, self._host = remote, int(update_s * 1e6), host
        self.busy_period_s = self.idle_period_s = min(max(update_s / LOOKS, LEAST_LOOK_S), MOST_LOOK_S)
        self.stale_s = 3 * update_s + 5.0
        self._ups: dict[str, MeterUp] = {}
        self._sums: dict[str, HeldPower] = {}

    def open(self) -> list[MeterUp]:
        self._remote.open()
        answer = self._remote.get(self._path)
        rows = self._rows(answer)
        if not rows:
            where = f" of {self._host}" if self._host is not None else ""
            raise RemoteError(
                "NOT_FOUND",
                f"{self.name} shows no GPU{where} with {ENERGY} or {POWER}: see its -f counters.csv",
            )
        self._sums = {}
        self._ups = {gpu: self._up(gpu, row, answer.received_us) for gpu, row in rows.items()}
        return list(self._ups.values())

    def read(self, busy: bool) -> list[MeterEvent]:
        del busy  # it changes when it changes
        answer = self._remote.get(self._path)
        rows = self._rows(answer)
        events: list[MeterEvent] = []
        for gpu, row in rows.items():
            up = self._up(gpu, row, answer.received_us)
            known = self._ups.get(gpu)
            if known is None or known.method != up.method:
                self._sums.pop(gpu, None)
                self._ups[gpu] = up
                events.append(up)
            if (read := self._read(gpu, row, answer)) is not None:
                events.append(read)
        for gpu in self._ups.keys() - rows.keys():
            del self._ups[gpu]
            message = f"{self.name} does not show this GPU any more: look at its log, and at the GPU"
            events.append(MeterDown(t_us=answer.received_us, gpu=gpu, code="GPU_GONE", message=message))
        return events

    def close(self) -> None:
        self._remote.close()

    def _read(self, gpu: str, row: Row, answer: Answer) -> CounterReads | None:
        if row.energy_mj is not None:
            return CounterReads(
                gpu=gpu,
                t_lo_us=[answer.sent_us],
                t_hi_us=[answer.received_us],
                energy_mj=[row.energy_mj],
            )
        held = self._sums.setdefault(gpu, HeldPower())
        if row.power_mw is not None:
            held.tell(answer.received_us, row.power_mw)
        return held.read(gpu, answer.received_us)

    def _up(self, gpu: str, row: Row, t_us: int) -> MeterUp:
        counted = row.energy_mj is not None
        return MeterUp(
            t_us=t_us,
            gpu=gpu,
            device=row.device,
            node=row.node,
            method="dcgm-counter" if counted else "dcgm-power",
            period_us=self._update_us if counted else 0,
        )

    def _rows(self, answer: Answer) -> dict[str, Row]:
        """By GPU, what the page shows of it. Raises RemoteError for a page that cannot be read."""
        if answer.status != 200:
            raise self._remote.bad(f"HTTP {answer.status}")
        rows: dict[str, Row] = {}
        for sample in self._samples(answer.body):
            labels = sample.labels
            gpu = labels.get("UUID")
            host = labels.get("hostname") or labels.get("Hostname")
            if not gpu or not math.isfinite(sample.value) or sample.value < 0:
                continue
            if self._host is not None and host != self._host:
                continue
            row = rows.setdefault(gpu, Row(labels.get("modelName") or "unknown GPU", host or None))
            if sample.name == ENERGY:
                row.energy_mj = max(row.energy_mj or 0, int(sample.value))
            else:
                row.power_mw = max(row.power_mw or 0, round(sample.value * 1000))
        return rows

    def _samples(self, body: bytes) -> Iterator[Sample]:
        """The rows of our two metrics. The others, by far the most, are not parsed."""
        try:
            text = body.decode()
            lines = [line for line in text.splitlines() if line.startswith((ENERGY, POWER))]
            if not lines and "# TYPE " not in text and text.strip():
                raise self._remote.bad("not a page of metrics")
            for family in text_string_to_metric_families("\n".join(lines) + "\n"):
                yield from (s for s in family.samples if s.name in (ENERGY, POWER))
        except (ValueError, IndexError) as error:
            raise self._remote.bad(str(error)) from error
