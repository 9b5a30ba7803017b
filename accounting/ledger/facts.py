"""Facts by backend and minute (`BackendFacts`): how it worked, beside what it cost.

They are taken when an interval is settled (time, energy, who was in flight) and once more when the work model
learns from it, as by then its prompts have been laid where they belong. A minute is told when all of it is
settled and learnt, at most two minutes after its end. No book and no share depends on any of this.

Beside the joules of a unit of work its seconds are learnt here, by the same regression: while a backend has
requests in flight its time is explained by its work. So the facts say what another batch would take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from accounting.events import EngineCounters, GpuTelemetry, MeterUp
from accounting.ledger.features import Work
from accounting.ledger.group import Group
from accounting.ledger.history import Kept, KeptGpu
from accounting.ledger.intervals import INTERVAL_US
from accounting.ledger.jobs import JobWork
from accounting.ledger.model import WorkModel
from accounting.ledger.priors import prior_seconds
from accounting.ledger.state import BackendState, FactsState, OpenMinute
from accounting.records import MINUTE_US, BackendFacts, BookEntry

LEARN_WITHIN_US = 70_000_000
"""The work model learns from an interval within a minute of its end (`settle.LESSON_US`), or never."""

CAPPED = {"sw_power_cap"}
THROTTLED = {"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"}
"""Clock event reasons (NVML API reference, nvmlClocksEventReasons): a power limit; heat or a power brake."""

Floats = NDArray[np.float64]


class _Backend:
    """What becomes the facts of one backend."""

    def __init__(self, state: FactsState | None = None) -> None:
        self.state = state or FactsState()
        self.times: WorkModel | None = None
        if self.state.time_model is not None:
            self.times = WorkModel(1, self.state.time_model)

    def written(self) -> FactsState:
        self.state.time_model = None if self.times is None else self.times.state()
        return self.state

    def minute(self, t_us: int) -> OpenMinute:
        t0_us = t_us // MINUTE_US * MINUTE_US
        found = self.state.open.get(t0_us)
        if found is None:
            found = self.state.open[t0_us] = OpenMinute()
        return found


class Facts:
    """All open minutes. Names of backends that were declared anew are those they had before."""

    def __init__(self, state: dict[str, FactsState]) -> None:
        self._backends = {name: _Backend(facts) for name, facts in state.items()}

    def state(self) -> dict[str, FactsState]:
        return {name: backend.written() for name, backend in self._backends.items()}

    def _of(self, name: str) -> _Backend:
        name = name.partition("#")[0]
        found = self._backends.get(name)
        if found is None:
            found = self._backends[name] = _Backend()
        return found

    # -- what is heard ---------------------------------------------------------------------------------------

    def arrived(self, backend: str, t_us: int) -> None:
        minute = self._of(backend).minute(t_us)
        minute.first_us = t_us if not minute.arrived else min(t_us, minute.first_us)
        minute.last_us = max(t_us, minute.last_us)
        minute.arrived += 1

    def retried(self, backend: str, t_us: int, energy_uj: int) -> None:
        """A try that this backend failed has ended; its energy went into another's record."""
        minute = self._of(backend).minute(t_us)
        minute.retries += 1
        minute.retried_uj += energy_uj

    def counted(self, event: EngineCounters) -> None:
        facts = self._of(event.backend).state
        minute = self._of(event.backend).minute(event.t_us)
        minute.looks += 1
        minute.running_sum += event.running or 0
        minute.waiting_sum += event.waiting or 0
        minute.most_running = max(event.running or 0, minute.most_running or 0)
        if event.waiting:
            minute.looks_waiting += 1
            minute.seats = max(event.running or 0, minute.seats or 0)
        if event.kv_used is not None:
            minute.kv_looks += 1
            minute.kv_sum += event.kv_used
            minute.kv_most = max(event.kv_used, minute.kv_most or 0.0)
        if event.preemptions is not None:
            before = facts.preemptions
            more = event.preemptions - before if before is not None else 0
            minute.preemptions = (minute.preemptions or 0) + max(more, 0)
            facts.preemptions = event.preemptions

    def metered(self, event: MeterUp, backends: Iterable[str]) -> None:
        """A GPU that these backends use can be measured."""
        for name in backends:
            self._limit(name, event.gpu, event.power_limit_mw, None)

    def said(self, event: GpuTelemetry, backends: Iterable[str]) -> None:
        """What a GPU that these backends use says of itself."""
        for name in backends:
            self._limit(name, event.gpu, event.power_limit_mw, event.default_power_limit_mw)
            minute = self._of(name).minute(event.t_us)
            minute.gpu_looks += 1
            if event.sm_clock_mhz is not None:
                minute.clock_looks += 1
                minute.clock_sum_mhz += event.sm_clock_mhz
            if event.clock_reasons is not None:
                reasons = set(event.clock_reasons)
                minute.reason_looks += 1
                minute.capped_looks += bool(reasons & CAPPED)
                minute.throttled_looks += bool(reasons & THROTTLED)

    def _limit(self, name: str, gpu: str, limit_mw: int | None, default_mw: int | None) -> None:
        limits = self._of(name).state.limits_mw
        limit, default = limits.get(gpu, (None, None))
        limits[gpu] = limit_mw or limit, default_mw or default

    # -- what is settled -------------------------------------------------------------------------------------

    def settled(
        self,
        group: Group,
        t0_us: int,
        works: Sequence[Work | JobWork],
        busy_us: Sequence[int],
        entries: Sequence[BookEntry],
        charges: Sequence[KeptGpu | None],
    ) -> None:
        """A whole interval in which all GPUs of the group were measured. `busy_us` by backend."""
        users = {e.gpu: sum(_uses(backend, e.gpu) for backend in group.backends) for e in entries}
        for column, (work, name, backend) in enumerate(zip(works, group.names, group.backends, strict=True)):
            if isinstance(work, JobWork):
                continue
            minute = self._of(name).minute(t0_us)
            minute.settled_us += INTERVAL_US
            minute.busy_us += busy_us[column]
            minute.request_us += int(work.in_flight_us.sum())
            drawn_uj = 0
            for entry, charge in zip(entries, charges, strict=True):
                if entry.gpu not in backend.gpus:
                    continue
                drawn_uj += entry.measured_uj or 0
                minute.idle_uj += entry.idle_uj // max(users[entry.gpu], 1)
                minute.unobserved_uj += entry.unobserved_uj // max(users[entry.gpu], 1)
                minute.requests_uj += 0 if charge is None else int(charge.parts[column].sum())
            minute.peak_uw = max(minute.peak_uw, drawn_uj * 1_000_000 // INTERVAL_US)

    def learnt(self, group: Group, kept: Kept) -> None:
        """The work model has just learnt from this interval: nothing more will become known of it."""
        charged_uj = sum(gpu.energy_uj for gpu in kept.gpus)
        if not kept.busy_us or not charged_uj:
            return  # kept by an older joulegate, or nobody was charged
        for column, work in enumerate(kept.works):
            if isinstance(work, JobWork):
                continue
            backend = self._of(group.names[column])
            minute, sums = backend.minute(kept.t0_us), work.sums()
            mine_uj = sum(int(gpu.parts[column].sum()) for gpu in kept.gpus)
            minute.learnt_us += kept.busy_us[column]
            minute.learnt_j += kept.energy_j * mine_uj / charged_uj
            minute.tokens += work.all_tokens
            minute.work = [have + more for have, more in zip(minute.work, sums, strict=True)]
            if backend.times is None or group.model.windows < backend.state.windows:
                backend.times = WorkModel(1)
            backend.state.windows = group.model.windows
            row = np.array(sums) * _time_priors(group, column)
            backend.times.learn(row, kept.busy_us[column] / 1e6, INTERVAL_US / 1e6)

    # -- what comes out --------------------------------------------------------------------------------------

    def due(self, group: Group, static_uw: Callable[[str], int | None]) -> list[BackendFacts]:
        """Minutes of the group's backends of which all is known. `static_uw` gives a GPU's idle power."""
        out: list[BackendFacts] = []
        for column, name in enumerate(group.names):
            if name not in self._backends or group.backends[column].jobs is not None:
                continue
            minutes = self._backends[name].state.open
            for t0_us in sorted(t for t in minutes if t + MINUTE_US <= group.settled_us):
                open_lessons = any(k.t0_us < t0_us + MINUTE_US and not k.learnt for k in group.history.kept)
                if open_lessons and group.settled_us < t0_us + MINUTE_US + LEARN_WITHIN_US:
                    break
                out.append(self._told(group, column, t0_us, minutes.pop(t0_us), static_uw))
        return out

    def so_far(self, groups: Sequence[Group], static_uw: Callable[[str], int | None]) -> list[BackendFacts]:
        """The minutes that are still open, as far as they are known."""
        return [
            self._told(group, column, t0_us, minute, static_uw)
            for group in groups
            for column, name in enumerate(group.names)
            if name in self._backends and group.backends[column].jobs is None
            for t0_us, minute in sorted(self._backends[name].state.open.items())
        ]

    def _told(
        self,
        group: Group,
        column: int,
        t0_us: int,
        minute: OpenMinute,
        static_uw: Callable[[str], int | None],
    ) -> BackendFacts:
        name, gpus = group.names[column], group.backends[column].gpus
        backend = self._backends[name]
        statics = [static_uw(gpu) for gpu in gpus]
        limits = [backend.state.limits_mw.get(gpu, (None, None)) for gpu in gpus]
        times, priors = backend.times, _time_priors(group, column)
        learnt_times = times is not None and not times.distrusted
        return BackendFacts(
            backend=name,
            t0_us=t0_us,
            gpus=list(gpus),
            simulated=any(gpu.simulated for gpu in group.gpus_of(column)),
            settled_us=minute.settled_us,
            busy_us=minute.busy_us,
            request_us=minute.request_us,
            arrived=minute.arrived,
            arriving_us=minute.last_us - minute.first_us,
            requests_uj=minute.requests_uj,
            idle_uj=minute.idle_uj,
            unobserved_uj=minute.unobserved_uj,
            peak_w=minute.peak_uw / 1e6,
            static_w=_total([None if uw is None else uw / 1e6 for uw in statics]),
            retries=minute.retries,
            retried_uj=minute.retried_uj,
            learnt_us=minute.learnt_us,
            learnt_uj=round(minute.learnt_j * 1e6),
            tokens=minute.tokens,
            work=minute.work,
            prices=group.prices(column).tolist(),
            times=(priors * times.coefficients if times is not None and learnt_times else priors).tolist(),
            price_error=group.model.quality,
            time_error=None if times is None else times.quality,
            looks=minute.looks,
            running=_mean(minute.running_sum, minute.looks),
            waiting=_mean(minute.waiting_sum, minute.looks),
            most_running=minute.most_running,
            looks_waiting=minute.looks_waiting,
            seats=minute.seats,
            kv_used=_mean(minute.kv_sum, minute.kv_looks),
            kv_most=minute.kv_most,
            preemptions=minute.preemptions,
            gpu_looks=minute.gpu_looks,
            limit_w=_total([None if mw is None else mw / 1e3 for mw, _ in limits]),
            default_limit_w=_total([None if mw is None else mw / 1e3 for _, mw in limits]),
            sm_clock_mhz=_mean(minute.clock_sum_mhz, minute.clock_looks),
            capped=_mean(minute.capped_looks, minute.reason_looks),
            throttled=_mean(minute.throttled_looks, minute.reason_looks),
        )


def _uses(backend: BackendState, gpu: str) -> bool:
    return backend.jobs is None and gpu in backend.gpus


def _time_priors(group: Group, column: int) -> Floats:
    backend, gpus = group.backends[column], group.gpus_of(column)
    device = gpus[0].device if gpus else None
    return np.array(prior_seconds(backend.model, device, len(gpus)))


def _mean(total: float, looks: int) -> float | None:
    return total / looks if looks else None


def _total(parts: Sequence[float | None]) -> float | None:
    """The sum; None where a part is not known."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) and parts else None
