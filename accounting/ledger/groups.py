"""GPUs, backends, and which of them belong together: those that share backends are settled in step."""

from __future__ import annotations

import numpy as np

from accounting.events import LASTING_COUNTERS, BackendDeclared, CounterReads, MeterUp
from accounting.ledger import intervals, jobs
from accounting.ledger.curve import Curve
from accounting.ledger.flights import Flights
from accounting.ledger.group import Group
from accounting.ledger.history import History
from accounting.ledger.jobs_state import JobsState
from accounting.ledger.model import ModelState, WorkModel, widened
from accounting.ledger.priors import prior_joules
from accounting.ledger.settle import idle_power_uw, settle_group
from accounting.ledger.state import BackendState, GpuState, LedgerState
from accounting.records import BookEntry, boundary_of

JOBS = "|jobs"
"""Behind the name of a backend: what stands for its images and videos."""


class Groups:
    def __init__(self, state: LedgerState) -> None:
        self.gpus = {name: gpu for name, gpu in state.gpus.items() if boundary_of(name) == "gpu"}
        self.backends: dict[str, BackendState] = dict(state.backends)
        self.all: list[Group] = []
        self._models = dict(state.models)
        self._scales, self._scale_weights = dict(state.scales), dict(state.scale_weights)
        self._histories = {key: History.of(history) for key, history in state.histories.items()}
        self._form()

    def state(self) -> LedgerState:
        for group in self.all:
            self._keep(group)
        return LedgerState(
            gpus=self.gpus,
            backends=self.backends,
            models=dict(self._models),
            scales=dict(self._scales),
            scale_weights=dict(self._scale_weights),
            histories={key: history.state() for key, history in self._histories.items() if history.kept},
        )

    def place(self, backend: str | None, gpus: list[str]) -> tuple[int, int]:
        """Number of the group and of the backend in it; (-1, 0) where it has no GPU."""
        for group in self.all:
            if gpus and backend in group.names:
                return group.number, group.names.index(backend)
        return -1, 0

    def of(self, flights: Flights, row: int) -> Group | None:
        """The group of the request in this row."""
        place = int(flights.group[row])
        return self.all[place] if place >= 0 else None

    def jobs_of(self, backend: str) -> str:
        """The name of the backend that stands for this one's images and videos. It is made for the first."""
        name = backend + JOBS
        owner = self.backends.get(backend)
        if owner is not None and owner.gpus and name not in self.backends:
            self.backends[name] = BackendState(
                gpus=list(owner.gpus), jobs=JobsState(at_once=owner.at_once), model=owner.model
            )
            self._form()
        return name

    def idle_power_uw(self, gpu: str) -> int | None:
        """As learnt; None until it is."""
        state = self.gpus.get(gpu)
        return None if state is None else idle_power_uw(state)

    def users(self, gpu: str) -> list[str]:
        """Backends that make tokens on this GPU now."""
        return [n for n, b in self.backends.items() if gpu in b.gpus and b.jobs is None and "#" not in n]

    def read(self, event: CounterReads) -> None:
        gpu = self.gpus.get(event.gpu)
        if gpu is not None:
            for lo, hi, mj in zip(event.t_lo_us, event.t_hi_us, event.energy_mj, strict=False):
                gpu.curve.read(lo, hi, mj, gpu.settled_us)

    def meter_up(self, event: MeterUp) -> None:
        gpu = self._gpu(event.gpu, event.t_us)
        if event.new_epoch or event.method != gpu.method or event.method not in LASTING_COUNTERS:
            gpu.curve.break_epoch()  # integrated power starts at 0 whenever its meter starts
        gpu.method, gpu.simulated, gpu.node = event.method, event.simulated, event.node
        gpu.curve.lag_us = event.lag_us
        gpu.curve.period_us = min(max(event.period_us, 0), intervals.MOST_PERIOD_US)
        moved = gpu.device != event.device or gpu.power_limit_mw not in (None, event.power_limit_mw)
        gpu.device, gpu.power_limit_mw = event.device, event.power_limit_mw
        if moved:
            self._forget_model(event.gpu)  # another GPU, or another power cap: other prices
        self._form()

    def declare(self, event: BackendDeclared, flights: Flights) -> list[BookEntry]:
        """A backend, new or changed. GPUs that come together are settled to the same time first.

        Requests that began on other GPUs end with those: the old backend stays for them under another name.
        """
        gpus = [gpu for gpu in unique(event.gpus) if boundary_of(gpu) == "gpu"]
        for gpu in gpus:
            self._gpu(gpu, event.t_us)
        known = self.backends.get(event.backend)
        if known is not None and (known.gpus != gpus or known.model != event.model):
            for gpu in (*known.gpus, *gpus):
                self._forget_model(gpu)
            self._retire(event.backend, event.t_us, flights)
            self._retire(event.backend + JOBS, event.t_us, flights)
            known = None
        if known is None:
            self.backends[event.backend] = BackendState(gpus=gpus, model=event.model)
        backend = self.backends[event.backend]
        backend.tells_late, backend.at_once = event.tells_late, event.at_once
        of_jobs = self.backends.get(event.backend + JOBS)
        if of_jobs is not None and of_jobs.jobs is not None:
            of_jobs.jobs.at_once = event.at_once
        in_use = {flights.teller(row).backend for row in flights.row.values()}
        self.backends = {n: b for n, b in self.backends.items() if "#" not in n or n in in_use}
        return self._form()

    def _retire(self, backend: str, t_us: int, flights: Flights) -> None:
        known = self.backends.pop(backend, None)
        if known is None:
            return
        retired = f"{backend}#{t_us}"
        self.backends[retired] = known
        for row in flights.row.values():
            told = flights.teller(row)
            told.backend = retired if told.backend == backend else told.backend

    def _gpu(self, gpu: str, t_us: int) -> GpuState:
        found = self.gpus.get(gpu)
        if found is None:
            found = self.gpus[gpu] = GpuState(gpu=gpu, settled_us=intervals.start(t_us), curve=Curve())
        return found

    def _keep(self, group: Group) -> None:
        key = "\n".join(group.names)
        self._models[key], self._scales[key] = group.model.state(), group.scale
        self._scale_weights[key] = group.scale_weight_j
        self._histories[key] = group.history

    def _forget_model(self, gpu: str) -> None:
        """What was learnt with this GPU holds no more."""
        for group in self.all:
            if any(g.gpu == gpu for g in group.gpus):
                group.model, group.history = WorkModel(len(group.backends)), History()
                group.scale, group.scale_weight_j = None, 0.0

    def _form(self) -> list[BookEntry]:
        """Find the groups anew: GPUs are together when a backend uses both."""
        for group in self.all:
            self._keep(group)
        sets: list[set[str]] = [{gpu} for gpu in self.gpus]
        for backend in self.backends.values():
            touched = [s for s in sets if s & set(backend.gpus)]
            if touched:
                sets = [s for s in sets if s not in touched] + [set().union(*touched)]
        entries: list[BookEntry] = []
        self.all = []
        for members in sets:
            gpus = [gpu for name, gpu in self.gpus.items() if name in members]
            names = [name for name, b in self.backends.items() if members & set(b.gpus)]
            entries += _bring_level(gpus)
            key = "\n".join(names)
            self.all.append(
                Group(
                    number=len(self.all),
                    gpus=gpus,
                    backends=[self.backends[name] for name in names],
                    names=names,
                    model=WorkModel(len(names), self._model(names)),
                    priors=[self._prior(name) for name in names],
                    scale=self._scales.get(key),
                    scale_weight_j=self._scale_weights.get(key, 0.0),
                    history=self._histories.get(key) or History(),
                )
            )
        self._histories.clear()
        return entries

    def _prior(self, backend: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        state = self.backends[backend]
        if state.jobs is not None:
            return np.array(jobs.prior_joules(self._device(state)), dtype=np.float64)
        return np.array(prior_joules(state.model, self._device(state)), dtype=np.float64)

    def _device(self, state: BackendState) -> str | None:
        return next((self.gpus[g].device for g in state.gpus if g in self.gpus), None)

    def _model(self, names: list[str]) -> ModelState | None:
        """What is learnt with these backends; where one has just begun to make images or videos, what was
        learnt without."""
        known = self._models.get("\n".join(names))
        if known is None and names and names[-1].endswith(JOBS):
            before = self._models.get("\n".join(names[:-1]))
            return None if before is None else widened(before)
        return known


def unique(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _bring_level(gpus: list[GpuState]) -> list[BookEntry]:
    """Settle GPUs that join a group without requests up to the latest of them."""
    latest = max(gpu.settled_us for gpu in gpus)
    entries: list[BookEntry] = []
    for gpu in gpus:
        if gpu.settled_us < latest:
            alone = Group(0, [gpu], [], [], WorkModel(0), [])
            entries += settle_group(alone, Flights(), latest)
    return entries
