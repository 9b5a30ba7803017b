"""Makes the meters that the settings ask for, and asks each of them which GPUs it can measure."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from accounting.clock import Clock
from accounting.events import MeterDown, MeterMethod, MeterUp
from accounting.meters.contract import Meter, MeterError
from accounting.meters.dcgm import Dcgm
from accounting.meters.host import HostMeter
from accounting.meters.meter import NvmlMeter, list_gpus
from accounting.meters.peer import Peer
from accounting.meters.remote import RemoteMeter, Source
from accounting.meters.remote_http import Remote, RemoteError, Token
from accounting.meters.several import Several
from accounting.meters.visible import visible
from accounting.meters.wire import GpuInfo
from accounting.meters.zeusd import Zeusd
from proxy.settings import Backend, Settings, SettingsError
from proxy.settings_meters import MeterSource

log = logging.getLogger(__name__)

_LOCAL = MeterSource(source="nvml")


@dataclass(frozen=True)
class FoundGpu:
    """A GPU that a meter can measure, as it is called in a backend's `gpus`."""

    gpu: str
    device: str
    method: MeterMethod


@dataclass(frozen=True)
class Found:
    """What one of the meters finds; `problem` says why it can not be asked."""

    meter: str
    gpus: list[FoundGpu]
    problem: str | None = None
    listed: Sequence[GpuInfo] | None = None
    """All of this machine's GPUs in PCI order; None where the meter is of another machine."""


def sources(settings: Settings) -> list[MeterSource]:
    """The meters that are configured, best first: this machine's GPUs if nothing else is said."""
    if settings.meter.source == "none":
        return []
    return list(settings.meters) or [_LOCAL]


def look(settings: Settings) -> list[Found]:
    """Ask each meter what it can measure, in the order of the settings. Blocks for seconds at worst."""
    return [_look(settings, source) for source in sources(settings)]


def named(settings: Settings, found: Sequence[Found]) -> Settings:
    """These settings with every backend's GPUs by UUID: where they say `cuda:0,1`, or name a MIG instance.

    Raises SettingsError where `cuda:` shows none of this machine's GPUs.
    """
    listed = next((one.listed for one in found if one.listed is not None), None)
    backends = [_named(one, listed, settings.meter.source != "none") for one in settings.backends]
    return settings.model_copy(update={"backends": backends})


def _named(backend: Backend, listed: Sequence[GpuInfo] | None, measured: bool) -> Backend:
    if backend.gpus == "all":
        return backend
    if isinstance(backend.gpus, str):
        uuids = visible(backend.gpus.removeprefix("cuda:"), listed or ())
        if not uuids and measured:
            here = ", ".join(f"{gpu.index}: {gpu.uuid or gpu.problem}" for gpu in listed or ()) or "none"
            raise SettingsError(f"backend {backend.id}: {backend.gpus} shows no GPU of this machine ({here})")
    else:
        uuids = [next(iter(visible(gpu, listed or ())), gpu) for gpu in backend.gpus]
    return backend.model_copy(update={"gpus": list(dict.fromkeys(uuids))})


def build(settings: Settings, wanted: Sequence[str], clock: Clock) -> Meter | None:
    """The meter of the GPUs `wanted`, and of the host if configured; None if nothing is to be measured.

    With several sources each is asked first which GPUs it has (as `look`). A GPU that none has is left to
    those that did not answer, or else to the first, so that somebody says what is wrong with it.
    """
    meters: list[Meter] = []
    configured = sources(settings) if wanted else []
    if len(configured) == 1:
        meters.append(_meter(settings, configured[0], wanted, clock))
    elif configured:
        found = [_look(settings, source) for source in configured]
        shares = share(found, wanted)
        for source, one, gpus in zip(configured, found, shares, strict=True):
            if one.problem is not None:
                log.warning("%s: %s", one.meter, one.problem)
            if gpus:
                meters.append(_meter(settings, source, gpus, clock))
            else:
                log.warning("%s has none of the GPUs of the backends", one.meter)
    if settings.meter.source != "none" and (host := settings.host).source != "none":
        meters.append(
            HostMeter(
                clock,
                host.name or socket.gethostname(),
                source=host.source,
                idle_w=host.idle_w,
                busy_w=host.busy_w,
                powercap=host.powercap,
            )
        )
    return Several(meters) if meters else None


def share(found: Sequence[Found], wanted: Sequence[str]) -> list[list[str]]:
    """Which of the GPUs `wanted` each meter is to read; the better ones first may read the same as others."""
    known = {gpu.gpu for one in found for gpu in one.gpus}
    lost = [gpu for gpu in wanted if gpu not in known]
    heirs = [i for i, one in enumerate(found) if one.problem is not None] or [0]
    shares = []
    for i, one in enumerate(found):
        has = {gpu.gpu for gpu in one.gpus}
        shares.append([gpu for gpu in wanted if gpu in has] + (lost if i in heirs else []))
    return shares


def _meter(settings: Settings, source: MeterSource, gpus: Sequence[str], clock: Clock) -> Meter:
    if source.source == "nvml":
        local = settings.meter
        return NvmlMeter(
            clock,
            gpus=gpus,
            library=local.library,
            busy_period_s=local.busy_period_s,
            idle_period_s=local.idle_period_s,
            counter_lag_us=round(local.counter_lag_ms * 1000) if local.counter_lag_ms is not None else None,
        )
    return RemoteMeter(_remote(source, clock), clock, gpus=gpus)


def _look(settings: Settings, source: MeterSource) -> Found:
    if source.source == "nvml":
        try:
            listed = list_gpus(settings.meter.library)
        except MeterError as error:
            return Found("nvml", [], str(error))
        gpus = [FoundGpu(g.uuid, g.name or "unknown GPU", g.method) for g in listed if g.uuid is not None]
        return Found("nvml", gpus, listed=listed)
    remote = _remote(source, Clock.anchored_now())
    try:
        told = remote.open()
    except RemoteError as error:
        return Found(remote.name, [], str(error))
    finally:
        remote.close()
    broken = next((e.message for e in told if e.gpu == "*" and isinstance(e, MeterDown)), None)
    return Found(remote.name, [_found(event) for event in told if event.gpu != "*"], broken)


def _found(event: MeterUp | MeterDown) -> FoundGpu:
    """A GPU that a remote meter knows; one that is down there may come back."""
    if isinstance(event, MeterDown):
        return FoundGpu(event.gpu, f"{event.code}: {event.message}", "none")
    return FoundGpu(event.gpu, event.device, event.method)


def _remote(source: MeterSource, clock: Clock) -> Source:
    """How this server is asked."""
    assert source.url is not None
    parts = urlsplit(source.url)
    unix = parts.scheme == "unix"
    token = Token(source.token_env, source.token_file)
    what = {"joulegate": "joulegate meter", "dcgm": "DCGM exporter"}.get(source.source, source.source)
    base = f"{parts.scheme}://{parts.netloc}" if source.source == "dcgm" else source.url
    remote = Remote(what, base, clock, token=token, timeout_s=source.timeout_s)
    if source.source == "zeusd":
        node = source.node or (socket.gethostname() if unix else parts.hostname) or "zeusd"
        return Zeusd(remote, node, source.gpus)
    if source.source == "dcgm":
        return Dcgm(remote, path=parts.path or "/metrics", update_s=source.update_s, host=source.node)
    return Peer(remote)
