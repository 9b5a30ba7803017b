"""Hears events, settles intervals, concludes records.

Pure: what comes out depends only on the events heard, in their order. `hear` never raises for what events
say; nonsense (a handle nobody opened, times that run backwards) is let go.
"""

from __future__ import annotations

from math import isqrt

from accounting.events import (
    HANDLE_BITS,
    AnyEvent,
    BackendDeclared,
    CounterReads,
    FirstToken,
    MeterDown,
    MeterUp,
    RequestFinished,
    RequestStarted,
    ServiceStarted,
    Tick,
    source_of,
)
from accounting.ledger import work
from accounting.ledger.curve import Curve
from accounting.ledger.provisional import add_estimate
from accounting.ledger.rule import Rule, TokenActivity
from accounting.ledger.sanity import MAX_TOKENS, sound_times, sound_usage
from accounting.ledger.settle import settle_interval
from accounting.ledger.state import BackendState, GpuState, LedgerState, OpenRequest
from accounting.ledger.work import INTERVAL_US
from accounting.records import BookEntry, GpuShare, Output, RequestRecord

HOLD_US = 300_000
"""An interval waits this long past its end, so that short unstreamed answers are known when it is split."""

MAX_WAIT_US = 5_000_000
"""An interval waits at most this long for the counter; then it is booked without it."""

RULE_ERROR_PERCENT = 50
"""Assumed error of the first rule on energy shared with others (token splits: docs/attribution.md)."""


class Ledger:
    def __init__(self, state: LedgerState | None = None, rule: Rule | None = None) -> None:
        self.state = state if state is not None else LedgerState()
        self.rule = rule if rule is not None else TokenActivity()

    # -- hearing ---------------------------------------------------------------------------------------------

    def hear(self, event: AnyEvent) -> list[Output]:
        match event:
            case Tick():
                return self._tick(event)
            case CounterReads():
                self._reads(event)
            case RequestStarted():
                self._started(event)
            case FirstToken():
                self._first(event)
            case RequestFinished():
                return self._finished(event)
            case BackendDeclared():
                for gpu in event.gpus:
                    self._gpu(gpu, event.t_us)
                known = self.state.backends.get(event.backend)
                if known is None:
                    self.state.backends[event.backend] = BackendState(gpus=list(event.gpus))
                else:
                    known.gpus = list(event.gpus)
            case MeterUp():
                self._meter_up(event)
            case MeterDown():
                pass  # the gap will show in the reads
            case ServiceStarted():
                return self._service_started(event)
        return []

    def _gpu(self, gpu: str, t_us: int) -> GpuState:
        found = self.state.gpus.get(gpu)
        if found is None:
            start = work.number(t_us) * INTERVAL_US
            found = self.state.gpus[gpu] = GpuState(gpu=gpu, settled_us=start, curve=Curve())
        return found

    def _meter_up(self, event: MeterUp) -> None:
        gpu = self._gpu(event.gpu, event.t_us)
        if event.method != gpu.method or event.method != "nvml-counter":
            gpu.curve.break_epoch()  # integrated power starts at 0 whenever its meter starts
        gpu.method, gpu.simulated, gpu.device = event.method, event.simulated, event.device
        gpu.curve.lag_us = event.lag_us

    def _reads(self, event: CounterReads) -> None:
        gpu = self.state.gpus.get(event.gpu)
        if gpu is not None:
            for lo, hi, mj in zip(event.t_lo_us, event.t_hi_us, event.energy_mj, strict=False):
                gpu.curve.read(lo, hi, mj, gpu.settled_us)

    def _service_started(self, event: ServiceStarted) -> list[Output]:
        """Close what a source that died had left open, at the last moment it was heard."""
        seen_until = self.state.watermarks.get(event.source, event.t_us)
        left = [
            h for h, r in self.state.open.items() if source_of(h) == event.source and r.finished_us is None
        ]
        out: list[Output] = []
        for handle in left:
            why = "joulegate stopped while the request was in flight"
            out += self._finished(RequestFinished(t_us=seen_until, handle=handle, status="lost", error=why))
        self.state.watermarks[event.source] = max(event.t_us, seen_until)
        return out

    def next_handle(self, source: int) -> int:
        """A handle that this source has never used."""
        return self.state.last_handles.get(source, source << HANDLE_BITS) + 1

    def _started(self, event: RequestStarted) -> None:
        if event.handle in self.state.open:
            return
        source = source_of(event.handle)
        self.state.last_handles[source] = max(event.handle, self.state.last_handles.get(source, 0))
        backend = self.state.backends.get(event.backend or "")
        gpus = list(backend.gpus) if backend is not None else []
        self.state.open[event.handle] = OpenRequest(started=event, gpus=gpus)

    def _first(self, event: FirstToken) -> None:
        request = self.state.open.get(event.handle)
        if request is None or request.first_us is not None or request.finished_us is not None:
            return
        request.first_us = max(event.t_us, request.started.t_us)
        backend = self._backend(request)
        work.book_prefill(request, backend, request.first_us, self._settled(request))
        backend.last_first_us = [*backend.last_first_us[-15:], request.first_us]

    def _finished(self, event: RequestFinished) -> list[Output]:
        request = self.state.open.get(event.handle)
        if request is None or request.finished_us is not None:
            return []
        request.finished_us = max(event.t_us, request.started.t_us)
        request.status, request.http_status = event.status, event.http_status
        request.usage, request.times = sound_usage(event.usage), sound_times(event.times)
        request.error = event.error
        backend, settled = self._backend(request), self._settled(request)
        if request.status == "rejected" or not request.gpus:
            return [self._conclude(event.handle)]
        if request.started.streamed or request.seen_tokens:
            self._correct(request, backend, settled)
        elif request.status == "ok":
            work.book_unstreamed(request, backend, settled)
        self._learn(request, backend)
        return []

    def _correct(self, request: OpenRequest, backend: BackendState, settled_us: int) -> None:
        """Stream events are not exactly tokens, nor bytes prompt tokens: bring what is open to the usage."""
        usage, k = request.usage, work.number(settled_us)
        if usage is None:
            return
        if usage.completion_tokens is not None:
            work.rescale(request.decode_bins, k, request.seen_tokens, usage.completion_tokens)
        if usage.prompt_tokens is not None and request.prefill_tokens:
            now = work.uncached_prompt_tokens(request, backend)
            work.rescale(request.prefill_bins, k, request.prefill_tokens, now)
            request.prefill_tokens = now

    def _learn(self, request: OpenRequest, backend: BackendState) -> None:
        usage = request.usage
        if usage is None or request.status != "ok":
            return
        if usage.prompt_tokens:
            seen = request.started.body_bytes / usage.prompt_tokens
            backend.bytes_per_token += 0.1 * (min(max(seen, 0.5), 100.0) - backend.bytes_per_token)
        if request.started.streamed and request.first_us is not None and request.finished_us is not None:
            seconds = (request.finished_us - request.first_us) / 1e6
            if seconds > 0.1 and (usage.completion_tokens or 0) > 1:
                seen = ((usage.completion_tokens or 0) - 1) / seconds
                backend.tokens_per_s += 0.1 * (seen - backend.tokens_per_s)

    def _tick(self, event: Tick) -> list[Output]:
        watermark = self.state.watermarks.get(event.source, 0)
        if event.t_us < watermark:
            return []
        for handle, count in zip(event.handles, event.tokens, strict=False):
            request = self.state.open.get(handle)
            if request is None or request.finished_us is not None or not 0 < count <= MAX_TOKENS:
                continue
            request.seen_tokens += count
            begin = max(watermark, request.first_us or request.started.t_us, self._settled(request))
            work.spread(request.decode_bins, count * 1000, min(begin, event.t_us), event.t_us)
        self.state.watermarks[event.source] = event.t_us
        return self._settle(min(self.state.watermarks.values()))

    # -- settling --------------------------------------------------------------------------------------------

    def _settle(self, watermark_us: int) -> list[Output]:
        """Settle every interval that is over, and conclude the requests that end with it."""
        out: list[Output] = []
        for gpu in self.state.gpus.values():
            while (end := self._next_end(gpu, watermark_us)) is not None:
                out.append(self._settle_one(gpu, end))
        if out:
            done = [
                h for h, r in self.state.open.items() if r.finished_us is not None and self._is_settled(r)
            ]
            out += [self._conclude(handle) for handle in done]
        return out

    def _next_end(self, gpu: GpuState, watermark_us: int) -> int | None:
        """The end of this GPU's next interval if it can be settled now."""
        end = gpu.settled_us + INTERVAL_US
        if watermark_us < end + HOLD_US:
            return None
        known = gpu.curve.known_until_us
        if known is not None and known >= end:
            sure = min(known, watermark_us - HOLD_US)
        elif watermark_us < end + MAX_WAIT_US:
            return None
        else:
            sure = watermark_us - MAX_WAIT_US  # the meter is away
        # One entry, however long, for time without energy to share: else days of downtime would be settled
        # half a second at a time.
        blind = gpu.curve.blind_until(gpu.settled_us)
        return max(end, work.number(sure if blind is None else min(sure, blind)) * INTERVAL_US)

    def _settle_one(self, gpu: GpuState, end_us: int) -> BookEntry:
        requests = [(h, r) for h, r in self.state.open.items() if gpu.gpu in r.gpus]
        entry = settle_interval(gpu, end_us, requests, self.state.backends, self.rule)
        gpu.settled_us = end_us
        gpu.curve.forget_before(end_us)
        slowest = work.number(min(g.settled_us for g in self.state.gpus.values()))
        for _, request in requests:
            for bins in (request.decode_bins, request.prefill_bins):
                for k in [k for k in bins if k < slowest]:
                    del bins[k]
        return entry

    def _backend(self, request: OpenRequest) -> BackendState:
        return self.state.backends.get(request.started.backend or "") or BackendState(gpus=[])

    def _settled(self, request: OpenRequest) -> int:
        """Up to here the books of this request's GPUs are closed."""
        return max((self.state.gpus[g].settled_us for g in request.gpus if g in self.state.gpus), default=0)

    def _is_settled(self, request: OpenRequest) -> bool:
        end = request.finished_us or 0
        return all(self.state.gpus[g].settled_us > end for g in request.gpus if g in self.state.gpus)

    def _conclude(self, handle: int) -> RequestRecord:
        request = self.state.open.pop(handle)
        return self.record(request, final=True)

    def record(self, request: OpenRequest, *, final: bool) -> RequestRecord:
        """What is known of a request: its record when it is settled, a provisional view before."""
        started, usage = request.started, request.usage
        prefill = sum(s.prefill_uj for s in request.shares.values())
        decode = sum(s.decode_uj for s in request.shares.values())
        told = usage.completion_tokens if usage else None
        tokens = told if told is not None else request.seen_tokens or None
        rejected = request.status == "rejected"
        measured = rejected or any(request.covered_us.values())
        gpus = [self.state.gpus[g] for g in request.gpus if g in self.state.gpus]
        rule_uj = request.shared_uj * RULE_ERROR_PERCENT // 100
        return RequestRecord(
            uid=started.uid,
            request_id=started.request_id,
            backend=started.backend,
            model=started.model,
            route=started.route,
            tenant=started.tenant,
            streamed=started.streamed,
            status=request.status or "ok",
            http_status=request.http_status,
            error=request.error,
            started_us=started.t_us,
            first_token_us=request.first_us,
            finished_us=request.finished_us or started.t_us,
            prompt_tokens=usage.prompt_tokens if usage else None,
            cached_tokens=usage.cached_tokens if usage else None,
            completion_tokens=tokens,
            tokens_from="engine" if told is not None else "stream" if tokens is not None else None,
            energy_uj=prefill + decode if measured else None,
            prefill_uj=prefill if measured else None,
            decode_uj=decode if measured else None,
            uncertainty_uj=isqrt(request.edge_uj**2 + rule_uj**2) if measured else None,
            unmeasured_us=max(request.uncovered_us.values(), default=0),
            method="not-dispatched" if rejected else self.rule.name if measured else "none",
            meter=gpus[0].method if gpus and measured else "none",
            simulated=any(g.simulated for g in gpus),
            state="final" if final else "provisional",
            shares=[
                GpuShare(gpu=gpu, prefill_uj=s.prefill_uj, decode_uj=s.decode_uj)
                for gpu, s in request.shares.items()
            ],
        )

    def provisional(self, handle: int) -> RequestRecord | None:
        """The record as it stands, with an estimate for the time not yet settled. None if nobody holds it."""
        request = self.state.open.get(handle)
        if request is None:
            return None
        record = self.record(request, final=False)
        add_estimate(record, request, self.state, self.rule, self._now(request))
        return record

    def _now(self, request: OpenRequest) -> int:
        return request.finished_us or max(self.state.watermarks.values(), default=request.started.t_us)
