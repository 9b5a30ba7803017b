"""The machines around the GPUs: their energy, split over requests as the GPUs' energy of the same time was.

A host is a boundary of its own: a device `host:NAME` with a curve and books, never part of a GPU's. Nothing
says which request a processor worked for, so what the GPUs of its node gave in an interval decides: to each
request, to idle, to unobserved. That is taken as it was when the GPU was settled. Where late news split a
GPU's interval anew, the host's stays as it is.

`host:NAME` belongs to the GPUs whose meter says that their node is NAME. Where its own meter tells no node it
is the one where joulegate runs, and belongs to the GPUs of which no node is told as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from accounting.events import LASTING_COUNTERS, CounterReads, MeterUp
from accounting.ledger import intervals
from accounting.ledger.apportion import apportion
from accounting.ledger.curve import Curve, Span
from accounting.ledger.flights import Flights
from accounting.ledger.group import Group
from accounting.ledger.intervals import HOLD_US, INTERVAL_US, MAX_WAIT_US
from accounting.ledger.packed import pack, unpack
from accounting.ledger.state import GpuState, HostInterval, HostState
from accounting.records import BookEntry, RequestRecord, boundary_of

Ints = NDArray[np.int64]


class Share(NamedTuple):
    """What requests got of one GPU's interval: handles, microjoules, and for how much of their time."""

    handles: Ints
    got_uj: Ints
    covered_us: Ints


@dataclass(slots=True)
class _Waiting:
    """What the GPUs of a node gave in one interval."""

    idle_uj: int = 0
    unobserved_uj: int = 0
    shares: list[Share] = field(default_factory=list)

    @property
    def joined(self) -> Share:
        columns = zip(*self.shares, strict=True)
        return Share(*(np.concatenate(column) for column in columns))


class Hosts:
    def __init__(self, states: dict[str, HostState], gpus: dict[str, GpuState]) -> None:
        """`gpus` as they were written down: an older joulegate had hosts among them."""
        self.all = dict(states)
        for name, gpu in gpus.items():
            if boundary_of(name) == "host":
                self.all[name] = HostState(name, gpu.settled_us, gpu.curve, method=gpu.method)
        self._waiting = {name: _read(host.waiting) for name, host in self.all.items()}
        self._by_node: dict[str | None, HostState] = {}
        self.left = False
        """Whether one went that requests may have waited for. Whoever looks after these sets it back."""
        self._find_nodes()

    def state(self) -> dict[str, HostState]:
        for name, host in self.all.items():
            host.waiting = _write(self._waiting[name])
        return dict(self.all)

    def _find_nodes(self) -> None:
        self._by_node = {}
        for host in self.all.values():
            if host.present:
                self._by_node[host.node] = host
                if host.node is None:
                    self._by_node[host.host.removeprefix("host:")] = host

    def of(self, node: str | None) -> HostState | None:
        """The host that is measured at this node."""
        return self._by_node.get(node)

    def around(self, gpus: Iterable[GpuState]) -> list[HostState]:
        """The hosts of these GPUs, each once."""
        if not self._by_node:
            return []
        found = {node: self.of(node) for node in dict.fromkeys(gpu.node for gpu in gpus)}
        return list({host.host: host for host in found.values() if host is not None}.values())

    # -- hearing ---------------------------------------------------------------------------------------------

    def read(self, event: CounterReads) -> None:
        host = self.all.get(event.gpu)
        if host is None or not host.present:
            return
        host.awaited_us = None
        for lo, hi, mj in zip(event.t_lo_us, event.t_hi_us, event.energy_mj, strict=False):
            host.curve.read(lo, hi, mj, host.settled_us)

    def meter_up(self, event: MeterUp) -> None:
        """A host is measured; another one that was there is not, any more."""
        for other in self.all.values():
            if other.node == event.node and other.host != event.gpu:
                self._leave(other)
        begins_us = intervals.start(event.t_us)
        host = self.all.get(event.gpu)
        if host is None:
            host = self.all[event.gpu] = HostState(event.gpu, begins_us, Curve(), event.node)
            self._waiting[event.gpu] = {}
        elif not host.present or host.node != event.node:
            self._leave(host)
            host.present, host.node, host.curve = True, event.node, Curve()
            host.settled_us = max(host.settled_us, begins_us)
        if event.new_epoch or event.method != host.method or event.method not in LASTING_COUNTERS:
            host.curve.break_epoch()
        host.method, host.awaited_us = event.method, None
        host.curve.lag_us = event.lag_us
        host.curve.period_us = min(max(event.period_us, 0), intervals.MOST_PERIOD_US)
        self._find_nodes()

    def restarted(self, t_us: int) -> None:
        """joulegate started anew: whoever is still to be measured will be heard of soon."""
        for host in self.all.values():
            host.awaited_us = t_us

    def _leave(self, host: HostState) -> None:
        host.present, host.awaited_us, host.per_gpu_joule = False, None, None
        self.left = True
        self._waiting[host.host].clear()

    def rename(self, handle: int, to: int) -> None:
        """A request's row has another handle."""
        for waiting in self._waiting.values():
            for interval in waiting.values():
                for share in interval.shares:
                    share.handles[share.handles == handle] = to

    def note(self, gpu: GpuState, entry: BookEntry, share: Share) -> None:
        """A GPU was settled. Entries of several intervals hold nothing that was shared."""
        host = self.of(gpu.node)
        if host is None or entry.t1_us - entry.t0_us != INTERVAL_US or entry.t0_us < host.settled_us:
            return
        waiting = self._waiting[host.host].setdefault(entry.t0_us, _Waiting())
        waiting.idle_uj += entry.idle_uj
        waiting.unobserved_uj += entry.unobserved_uj
        waiting.shares.append(share)

    # -- settling --------------------------------------------------------------------------------------------

    def settle(self, groups: list[Group], flights: Flights, watermark_us: int) -> list[BookEntry]:
        """Settle what the GPUs of each host's node are settled for."""
        out: list[BookEntry] = []
        for host in [host for host in self.all.values() if host.present]:
            if host.awaited_us is not None and watermark_us > host.awaited_us + MAX_WAIT_US:
                self._leave(host)
                self._find_nodes()
                continue
            around = [group.settled_us for group in groups if self._has(group, host)]
            upto_us = min(around, default=watermark_us - HOLD_US)
            while (end_us := _next_end(host, upto_us, watermark_us)) is not None:
                out.append(self._settle(host, flights, end_us))
        return out

    def _has(self, group: Group, host: HostState) -> bool:
        return any(self.of(gpu.node) is host for gpu in group.gpus)

    def _settle(self, host: HostState, flights: Flights, t1_us: int) -> BookEntry:
        """Book [settled, t1_us)."""
        span = host.curve.span(host.settled_us, t1_us)
        waiting = self._waiting[host.host]
        due = [waiting.pop(t0_us) for t0_us in [t0_us for t0_us in waiting if t0_us < t1_us]]
        entry = BookEntry(
            gpu=host.host,
            t0_us=span.t0_us,
            t1_us=t1_us,
            covered_us=span.covered_us,
            measured_uj=span.measured_uj,
            requests_uj=0,
            idle_uj=(span.measured_uj or 0) - span.unmeasured_uj,
            unobserved_uj=0,
            unmeasured_uj=span.unmeasured_uj,
            requests=0,
            method=host.method if span.measured_uj is not None else "none",
            simulated=False,
        )
        if len(due) == 1 and t1_us - span.t0_us == INTERVAL_US:
            _split(host, entry, due[0], flights, span)
        host.settled_us = t1_us
        host.curve.forget_before(t1_us)
        return entry

    # -- records ---------------------------------------------------------------------------------------------

    def complete(self, record: RequestRecord, flights: Flights, row: int, gpus: list[GpuState]) -> None:
        """Put into the record what is settled of its hosts."""
        covered_us = int(flights.host_covered_us[row])
        hosts = self.around(gpus)
        if not covered_us and not hosts:
            return
        start_us, settled_us = int(flights.start[row]), [host.settled_us for host in hosts]
        end_us = int(flights.end[row]) or max(settled_us, default=start_us)
        unknown = len({gpu.node for gpu in gpus if self.of(gpu.node) is None})
        wanted_us = sum(max(min(end_us, us) - start_us, 0) for us in [*settled_us, *[end_us] * unknown])
        record.host_unmeasured_us = min(max(wanted_us - covered_us, 0), max(end_us - start_us, 0))
        if covered_us:
            record.host_uj = int(flights.host_uj[row])
            record.host_method = "estimate" if flights.host_estimated[row] else "rapl"

    def add_estimate(
        self, record: RequestRecord, handle: int, gpus: list[GpuState], unsettled_uj: int
    ) -> None:
        """Add what the host of a request should still give, as its GPUs gave or will give `unsettled_uj`."""
        for host in self.around(gpus):
            if host.per_gpu_joule is None:
                continue
            here = sum(self.of(gpu.node) is host for gpu in gpus)
            gpu_uj = unsettled_uj * here // len(gpus)
            for interval in self._waiting[host.host].values():
                gpu_uj += sum(int(share.got_uj[share.handles == handle].sum()) for share in interval.shares)
            record.host_uj = (record.host_uj or 0) + round(gpu_uj * host.per_gpu_joule)
            if record.host_method != "estimate":
                record.host_method = "estimate" if host.method == "estimate" else "rapl"


def _next_end(host: HostState, upto_us: int, watermark_us: int) -> int | None:
    """The end of the host's next interval if it can be settled now: before `upto_us` all GPUs are."""
    end_us = host.settled_us + INTERVAL_US
    if upto_us < end_us:
        return None
    known_us = host.curve.known_until_us
    wait_us = MAX_WAIT_US + host.curve.slack_us
    if known_us is not None and known_us >= end_us:
        sure_us = min(known_us, upto_us)
    elif watermark_us < end_us + wait_us:
        return None
    else:
        sure_us = min(watermark_us - wait_us, upto_us)  # its meter is away
    blind_us = host.curve.blind_until(host.settled_us)
    sure_us = sure_us if blind_us is None else min(sure_us, blind_us)
    return max(end_us, intervals.start(sure_us))


def _split(host: HostState, entry: BookEntry, given: _Waiting, flights: Flights, span: Span) -> None:
    """Divide the energy of an entry, all of it idle so far, as the GPUs divided theirs."""
    energy_uj, joined = entry.idle_uj, given.joined
    handles, place = np.unique(joined.handles, return_inverse=True)
    got_uj = np.zeros(len(handles), np.int64)
    np.add.at(got_uj, place, joined.got_uj)
    covered_us = np.full(len(handles), INTERVAL_US, np.int64)
    np.minimum.at(covered_us, place, joined.covered_us)
    find = flights.row.get
    rows = np.fromiter((find(handle, -1) for handle in handles.tolist()), np.int64, len(handles))
    # What one got whose record is out cannot be given to it any more.
    there = (rows >= 0) & ~flights.concluded[rows]
    entry.requests = int((there & flights.works[rows]).sum())
    unobserved_uj = given.unobserved_uj + int(got_uj[~there].sum())
    weights = [*got_uj[there].tolist(), given.idle_uj, unobserved_uj]
    whole_uj = sum(weights)
    if not whole_uj or not (span.covered_us or energy_uj):
        return  # nobody knows whose it is: no GPU drew anything, or none was measured
    parts = apportion(energy_uj, weights)
    entry.idle_uj, entry.unobserved_uj = int(parts[-2]), int(parts[-1])
    entry.requests_uj = energy_uj - entry.idle_uj - entry.unobserved_uj
    mine, covered_us = rows[there], covered_us[there]
    flights.host_uj[mine] += parts[:-2]
    # Of two GPUs one may have been away: what the other one brought counts, though most of the time does not.
    some = (covered_us > 0) | (parts[:-2] > 0)
    known_us = np.maximum(covered_us * span.covered_us // INTERVAL_US, some)
    flights.host_covered_us[mine] += known_us
    flights.host_estimated[mine[known_us > 0]] |= host.method == "estimate"
    if span.covered_us == INTERVAL_US:
        host.per_gpu_joule = energy_uj / whole_uj


def _write(waiting: dict[int, _Waiting]) -> list[HostInterval]:
    written = []
    for t0_us, interval in waiting.items():
        columns = [pack(column) for column in interval.joined]
        written.append(HostInterval(t0_us, interval.idle_uj, interval.unobserved_uj, *columns))
    return written


def _read(written: list[HostInterval]) -> dict[int, _Waiting]:
    waiting = {}
    for interval in written:
        columns = (interval.handles, interval.got_uj, interval.covered_us)
        share = Share(*(unpack(column, np.int64) for column in columns))
        waiting[interval.t0_us] = _Waiting(interval.idle_uj, interval.unobserved_uj, [share])
    return waiting
