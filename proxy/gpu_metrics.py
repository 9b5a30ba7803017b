"""What Prometheus sees of devices and their meters: energy, power, and how well they are measured.

`hw_energy_joules_total` and `hw_power_watts` are OpenTelemetry's `hw.energy` and `hw.power` (semantic
conventions for hardware) under the names that Prometheus gives them; `hw.id` is the label `gpu`. Energy is
added up from what the meter reads, so it never goes back: a counter that starts over, or another way of
measuring, only leaves out what was drawn in between.
"""

from __future__ import annotations

import socket
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from accounting.events import (
    LASTING_COUNTERS,
    AnyEvent,
    CounterReads,
    GpuTelemetry,
    MeterDown,
    MeterQuality,
    MeterUp,
)
from accounting.records import boundary_of

POWER_OVER_US = 1_000_000
"""Power is the mean over the last second, or over the last two changes of a slower counter."""

LABELS = ("gpu", "index", "node", "hw_type")


@dataclass
class _Device:
    """What was heard of one device."""

    up: MeterUp | None = None
    down: MeterDown | None = None
    energy_mj: int = 0
    last_mj: int | None = None
    reads: int = 0
    edges: deque[tuple[int, int]] = field(default_factory=deque)
    """The counter's last changes: UTC microseconds, millijoules added up."""
    quality: MeterQuality | None = None
    said: GpuTelemetry | None = None
    downs: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def rise(self, event: MeterUp) -> None:
        goes_on = (
            self.up is not None
            and event.method == self.up.method
            and event.method in LASTING_COUNTERS
            and not event.new_epoch
        )
        if not goes_on:
            self.last_mj = None
        self.edges.clear()
        self.up, self.down = event, None

    def fall(self, event: MeterDown) -> None:
        self.down, self.quality, self.said = event, None, None
        self.edges.clear()
        self.downs[event.code] += 1

    def read(self, event: CounterReads) -> None:
        self.reads += len(event.energy_mj)
        for t_lo_us, t_hi_us, energy_mj in zip(event.t_lo_us, event.t_hi_us, event.energy_mj, strict=True):
            if self.last_mj is not None and energy_mj > self.last_mj:
                self.energy_mj += energy_mj - self.last_mj
                self._edge((t_lo_us + t_hi_us) // 2)
            self.last_mj = energy_mj

    def _edge(self, t_us: int) -> None:
        self.edges.append((t_us, self.energy_mj))
        while len(self.edges) > 2 and self.edges[1][0] <= t_us - POWER_OVER_US:
            self.edges.popleft()

    @property
    def power_w(self) -> float | None:
        """Mean power of late; None while it is not known."""
        if self.down is not None or len(self.edges) < 2:
            return None
        (t0_us, begin_mj), (t1_us, end_mj) = self.edges[0], self.edges[-1]
        return (end_mj - begin_mj) * 1000 / (t1_us - t0_us) if t1_us > t0_us else None


class GpuMetrics:
    """Hears events; `collect` shows what is known. All in one thread."""

    def __init__(self) -> None:
        self._node = socket.gethostname()
        self._devices: dict[str, _Device] = {}

    def event(self, event: AnyEvent) -> None:
        """Take what a meter said; other events are of no interest."""
        if isinstance(event, CounterReads):
            self._of(event.gpu).read(event)
        elif isinstance(event, MeterUp):
            self._of(event.gpu).rise(event)
        elif isinstance(event, MeterDown):
            self._of(event.gpu).fall(event)
        elif isinstance(event, MeterQuality):
            self._of(event.gpu).quality = event
        elif isinstance(event, GpuTelemetry):
            self._of(event.gpu).said = event

    def _of(self, gpu: str) -> _Device:
        if gpu not in self._devices:
            self._devices[gpu] = _Device()
        return self._devices[gpu]

    def devices(self) -> list[dict[str, object]]:
        """Every device as it is now: the fields of the REST surface's `DeviceView`."""
        views = [self._view(gpu, device) for gpu, device in self._devices.items()]
        return sorted(
            views, key=lambda view: (view["boundary"], view["node"], view["index"] is None, view["index"])
        )

    def _view(self, gpu: str, device: _Device) -> dict[str, object]:
        up, down, said = device.up, device.down, device.said
        limit_mw = said.power_limit_mw if said is not None else None
        if limit_mw is None and up is not None:
            limit_mw = up.power_limit_mw
        use = said.utilization_percent if said is not None else None
        return {
            "gpu": gpu,
            "boundary": boundary_of(gpu),
            "index": None if up is None else up.index,
            "node": self._node if up is None or up.node is None else up.node,
            "device": None if up is None else up.device,
            "method": "none" if up is None or down is not None else up.method,
            "simulated": up is not None and up.simulated,
            "power_watts": device.power_w,
            "power_limit_watts": None if limit_mw is None else limit_mw / 1000,
            "temperature_celsius": None if said is None else said.temperature_c,
            "utilization_ratio": None if use is None else use / 100,
            "clock_reasons": None if said is None else said.clock_reasons,
            "energy_joules": device.energy_mj / 1000 if device.reads else None,
            "energy_at": device.edges[-1][0] / 1e6 if device.edges else None,
            "fault": None if down is None else f"{down.code}: {down.message}",
        }

    def collect(self) -> Iterator[Metric]:
        yield from self._energy()
        yield from self._meters()
        yield from self._calls()
        yield from self._said()

    def _labels(self, gpu: str, device: _Device) -> list[str]:
        up = device.up
        index = "" if up is None or up.index is None else str(up.index)
        node = self._node if up is None or up.node is None else up.node
        return [gpu, index, node, "host" if gpu.startswith("host:") else "gpu"]

    def _energy(self) -> Iterator[Metric]:
        energy = CounterMetricFamily(
            "hw_energy_joules", "Energy read from the device since joulegate started.", labels=LABELS
        )
        power = GaugeMetricFamily("hw_power_watts", "Mean power over the last second.", labels=LABELS)
        for gpu, device in self._devices.items():
            labels = self._labels(gpu, device)
            if device.reads:
                energy.add_metric(labels, device.energy_mj / 1000)
            if (power_w := device.power_w) is not None:
                power.add_metric(labels, power_w)
        yield from (energy, power)

    def _meters(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("joulegate_meter_up", "Whether the device can be read.", labels=["gpu"])
        info = GaugeMetricFamily(
            "joulegate_meter_info",
            "How the device is measured; always 1.",
            labels=[*LABELS, "device", "method", "simulated"],
        )
        fault = GaugeMetricFamily(
            "joulegate_meter_fault", "Why the device cannot be read now; always 1.", labels=["gpu", "code"]
        )
        faults = CounterMetricFamily(
            "joulegate_meter_faults", "Times that the device could no longer be read.", labels=["gpu", "code"]
        )
        for gpu, device in self._devices.items():
            if device.up is None and device.down is None:
                continue
            up.add_metric([gpu], 0.0 if device.down is not None else 1.0)
            if device.down is not None:
                fault.add_metric([gpu, device.down.code], 1.0)
            elif device.up is not None:
                simulated = "true" if device.up.simulated else "false"
                named = [device.up.device, device.up.method, simulated]
                info.add_metric([*self._labels(gpu, device), *named], 1.0)
            for code, count in device.downs.items():
                faults.add_metric([gpu, code], count)
        yield from (up, info, fault, faults)

    def _calls(self) -> Iterator[Metric]:
        reads = CounterMetricFamily("joulegate_meter_reads", "Reads of the device's energy.", labels=["gpu"])
        call = GaugeMetricFamily(
            "joulegate_meter_call_seconds", "Duration of such a read, of late.", labels=["gpu", "quantile"]
        )
        pace = GaugeMetricFamily(
            "joulegate_meter_read_period_seconds", "Time between two reads now.", labels=["gpu"]
        )
        period = GaugeMetricFamily(
            "joulegate_meter_counter_period_seconds",
            "Time between two steps of its counter, as learnt.",
            labels=["gpu"],
        )
        check = GaugeMetricFamily(
            "joulegate_meter_cross_check_ratio",
            "Its counter over its power integrated, when the meter started; 1 is right.",
            labels=["gpu"],
        )
        for gpu, device in self._devices.items():
            reads.add_metric([gpu], device.reads)
            quality = device.quality
            if quality is None:
                continue
            for quantile, us in (("0.5", quality.call_p50_us), ("0.95", quality.call_p95_us)):
                if us is not None:
                    call.add_metric([gpu, quantile], us / 1e6)
            if quality.read_period_us is not None:
                pace.add_metric([gpu], quality.read_period_us / 1e6)
            if quality.counter_period_us is not None:
                period.add_metric([gpu], quality.counter_period_us / 1e6)
            if quality.check is not None and quality.check.power_mj > 0:
                check.add_metric([gpu], quality.check.counter_mj / quality.check.power_mj)
        yield from (reads, call, pace, period, check)

    def _said(self) -> Iterator[Metric]:
        limit = GaugeMetricFamily("hw_power_limit_watts", "Power limit in force.", labels=LABELS)
        use = GaugeMetricFamily(
            "hw_gpu_utilization_ratio", "Part of the time in which a kernel ran.", labels=LABELS
        )
        memory = GaugeMetricFamily("hw_gpu_memory_usage_bytes", "Memory in use.", labels=LABELS)
        heat = GaugeMetricFamily("hw_temperature_celsius", "Temperature of the GPU.", labels=LABELS)
        for gpu, device in self._devices.items():
            said, labels = device.said, self._labels(gpu, device)
            if said is None:
                continue
            if said.power_limit_mw is not None:
                limit.add_metric(labels, said.power_limit_mw / 1000)
            if said.utilization_percent is not None:
                use.add_metric(labels, said.utilization_percent / 100)
            if said.memory_used_bytes is not None:
                memory.add_metric(labels, said.memory_used_bytes)
            if said.temperature_c is not None:
                heat.add_metric(labels, said.temperature_c)
        yield from (limit, use, memory, heat)
