"""What can be measured here, how well, and what to do about the rest: the meters are asked, then watched.

Watching takes as long as the meters need to check a counter against power and to learn its steps.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

import msgspec

from accounting.clock import Clock
from accounting.events import (
    CounterReads,
    CrossCheck,
    GpuTelemetry,
    MeterDown,
    MeterMethod,
    MeterQuality,
    MeterUp,
)
from accounting.meters.contract import MeterEvent
from accounting.meters.visible import visible
from accounting.meters.wire import GpuInfo, SourceInfo
from proxy.meters import Found, build, look
from proxy.settings import Settings

WATCH_S = 15.0
"""At most; a DCGM exporter's next step may come later than that."""

DRAIN_S = 0.05
MEASURED_S = 0.5
"""Energy over at least this long is told as power."""


class Device(msgspec.Struct, kw_only=True):
    """One GPU or host. None where something is not known."""

    gpu: str | None
    """UUID; `host:NAME` of a host; None where the driver does not even tell the UUID."""
    device: str | None
    meter: str
    node: str | None
    index: int | None = None
    measured: bool = False
    method: MeterMethod = "none"
    called: str | None = None
    simulated: bool = False
    power_limit_w: float | None = None
    power_w: float | None = None
    read_period_ms: float | None = None
    counter_period_ms: float | None = None
    counter_jitter_ms: float | None = None
    lag_ms: float | None = None
    call_p50_us: int | None = None
    call_p95_us: int | None = None
    cross_check: CrossCheck | None = None
    mig: list[str] | None = None
    ways: list[SourceInfo] = []
    """All ways to read it, best first, each with its fault or the duration of a call."""
    note: str | None = None
    """Why it is not read a better way, where it is measured all the same."""
    code: str | None = None
    problem: str | None = None
    """Why it is not measured, and what to do."""


class Asked(msgspec.Struct, kw_only=True):
    """A meter of the settings, and why it cannot be asked."""

    meter: str
    gpus: int
    problem: str | None = None


class Survey(msgspec.Struct, kw_only=True):
    meters: list[Asked]
    devices: list[Device]
    advice: list[str]
    """What an operator may want to do, most urgent first."""
    driver: str | None = None
    cuda_visible_devices: str | None = None
    cuda_shows: list[str] | None = None
    """The UUIDs that CUDA_VISIBLE_DEVICES shows; None where it is not set."""

    @property
    def measured(self) -> int:
        return sum(device.measured for device in self.devices)


class _Heard:
    """What a device's meter said while it was watched."""

    def __init__(self) -> None:
        self.up: MeterUp | None = None
        self.down: MeterDown | None = None
        self.quality: MeterQuality | None = None
        self.said: GpuTelemetry | None = None
        self.steps: list[tuple[int, int]] = []
        """Times and energies at which the energy changed."""

    def hear(self, event: MeterEvent) -> None:
        if isinstance(event, MeterUp):
            self.up, self.down = event, None
            self.steps = []
        elif isinstance(event, MeterDown):
            self.down = event
        elif isinstance(event, MeterQuality):
            self.quality = event
        elif isinstance(event, GpuTelemetry):
            self.said = event
        elif isinstance(event, CounterReads):
            for t_us, energy_mj in zip(event.t_hi_us, event.energy_mj, strict=True):
                if not self.steps or energy_mj != self.steps[-1][1]:
                    self.steps.append((t_us, energy_mj))

    @property
    def power_w(self) -> float | None:
        if len(self.steps) < 3:
            return None
        # The first change only tells that the counter moves: when it came to that value is not known.
        (t0_us, begin_mj), (t1_us, end_mj) = self.steps[1], self.steps[-1]
        return (end_mj - begin_mj) * 1000 / (t1_us - t0_us) if t1_us - t0_us >= MEASURED_S * 1e6 else None

    @property
    def known(self) -> bool:
        """Whether more watching would tell nothing new."""
        if self.down is not None:
            return True
        checks = self.up is not None and self.up.method == "nvml-counter"
        return self.power_w is not None and (
            not checks or (self.quality is not None and self.quality.check is not None)
        )


def survey(settings: Settings) -> Survey:
    """Ask all meters and watch them for a while. Raises MeterError where they cannot be started."""
    found = look(settings)
    wanted = list(dict.fromkeys(gpu.gpu for one in found for gpu in one.gpus))
    heard = _watch(settings, wanted)
    devices = [device for one in found for device in _devices(one, heard)]
    known = {device.gpu for device in devices}
    devices += [
        _device(Device(gpu=gpu, device="processors and memory", meter="host", node=None), heard[gpu])
        for gpu in heard
        if gpu not in known and gpu.startswith("host:")
    ]
    listed = next((one.listed for one in found if one.listed is not None), None)
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    result = Survey(
        meters=[Asked(meter=one.meter, gpus=len(one.gpus), problem=one.problem) for one in found],
        devices=devices,
        advice=[],
        driver=listed[0].driver_version if listed else None,
        cuda_visible_devices=shown,
        cuda_shows=visible(shown, listed or ()) if shown is not None else None,
    )
    result.advice = _advice(settings, result, {gpu: one.quality for gpu, one in heard.items()})
    return result


def _watch(settings: Settings, wanted: Sequence[str]) -> dict[str, _Heard]:
    meter = build(settings, wanted, Clock.anchored_now())
    heard: dict[str, _Heard] = {gpu: _Heard() for gpu in wanted}
    if meter is None:
        return heard
    meter.start()
    try:
        meter.set_busy(True)
        deadline_s = time.monotonic() + WATCH_S
        while time.monotonic() < deadline_s:
            for event in meter.drain():
                heard.setdefault(event.gpu, _Heard()).hear(event)
            if all(one.known for one in heard.values()):
                break
            time.sleep(DRAIN_S)
    finally:
        meter.close()
    return heard


def _devices(found: Found, heard: dict[str, _Heard]) -> list[Device]:
    """The devices of one meter, as listed and as heard."""
    listed: dict[str, GpuInfo] = {one.uuid: one for one in found.listed or () if one.uuid is not None}
    devices = []
    for gpu in found.gpus:
        device = Device(gpu=gpu.gpu, device=gpu.device, meter=found.meter, node=None)
        _describe(device, listed.get(gpu.gpu))
        devices.append(_device(device, heard[gpu.gpu]))
    for one in found.listed or ():
        if one.uuid is None:
            device = Device(gpu=None, device=one.name, meter=found.meter, node=socket.gethostname())
            _describe(device, one)
            devices.append(device)
    return devices


def _describe(device: Device, info: GpuInfo | None) -> None:
    """What the listing says of this machine's GPU."""
    if info is None:
        return
    device.index, device.simulated, device.mig = info.index, info.simulated, info.mig
    device.ways, device.code, device.problem = info.sources, info.code, info.problem
    if info.power_limit_mw is not None:
        device.power_limit_w = info.power_limit_mw / 1000


def _device(device: Device, heard: _Heard) -> Device:
    """With what its meter said while it was watched."""
    up, quality = heard.up, heard.quality
    device.node = up.node if up is not None and up.node is not None else socket.gethostname()
    if up is not None:
        device.device, device.simulated = up.device, up.simulated
        device.method, device.called = up.method, up.source
        device.index = up.index if up.index is not None else device.index
        device.measured = heard.down is None
        if up.power_limit_mw is not None:
            device.power_limit_w = up.power_limit_mw / 1000
        if up.lag_us:
            device.lag_ms = up.lag_us / 1000
        if up.period_us:
            device.counter_period_ms = up.period_us / 1000
    if quality is not None:
        device.call_p50_us, device.call_p95_us = quality.call_p50_us, quality.call_p95_us
        device.read_period_ms = _ms(quality.read_period_us)
        device.counter_period_ms = _ms(quality.counter_period_us) or device.counter_period_ms
        device.counter_jitter_ms = _ms(quality.counter_jitter_us)
        if quality.counter_lag_us is not None:
            device.lag_ms = quality.counter_lag_us / 1000
        device.cross_check = quality.check
    device.power_w = heard.power_w if device.measured else None
    if heard.down is not None:
        device.code, device.problem = heard.down.code, heard.down.message
    elif device.measured:
        device.code = device.problem = None
    if up is not None and device.measured:
        device.note = up.note
    elif up is None and heard.down is None and device.problem is None:
        device.problem = f"its meter said nothing for {WATCH_S:.0f} s"
    return device


def _ms(us: int | None) -> float | None:
    return us / 1000 if us is not None else None


def _advice(settings: Settings, found: Survey, qualities: dict[str, MeterQuality | None]) -> list[str]:
    said = [
        one.problem if one.problem.startswith(one.meter) else f"{one.meter}: {one.problem}"
        for one in found.meters
        if one.problem is not None
    ]
    if settings.meter.source == "none":
        said.append("the settings say meter.source: none, so that nothing is measured")
    elif not found.measured:
        said.append(
            "nothing can be measured here: run joulegate on the machine with the GPUs, next to the engine;"
            " or name meters on other machines (docs/remote-meters.md); `joulegate demo` shows it on a"
            " simulated GPU"
        )
    for device in found.devices:
        name = device.gpu or f"GPU {device.index}"
        if device.problem is not None:
            said.append(f"{name}: {device.problem}")
        if device.note is not None:
            said.append(f"{name} is not read the best way, so that its joules are coarser: {device.note}")
        quality = qualities.get(device.gpu or "")
        if quality is not None and quality.warning is not None:
            said.append(f"{name}: {quality.warning}")
        if device.mig:
            said.append(
                f"{name} is split by MIG into {len(device.mig)}, which share its energy: it cannot be told"
                " apart, and each instance's counter is the whole GPU's. Give backends this UUID"
            )
        if device.device is not None and "GH200" in device.device:
            said.append(f"{name}: the counter of a GH200 covers the whole module, its processor included")
    if any(device.method == "nvml-counter" and device.lag_ms is None for device in found.devices):
        said.append(
            "how far the energy counter trails the truth is not known; it matters for requests below a"
            " second. `scripts/gpu-check run --only counter` finds it; then set meter.counter_lag_ms"
        )
    if found.cuda_shows is not None:
        shows = ", ".join(found.cuda_shows) or "no GPU"
        said.append(
            f"CUDA_VISIBLE_DEVICES={found.cuda_visible_devices} shows {shows} to an engine started from here;"
            " joulegate measures all GPUs. For the backend of such an engine: gpus:"
            f" cuda:{found.cuda_visible_devices}"
        )
    if settings.host.source == "none":
        said.append("processors and memory are not measured: set host.source (auto, rapl, estimate)")
    return said
