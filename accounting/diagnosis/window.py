"""What is known of a stretch of time: sums over requests, the books, and facts by backend and minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from accounting.ledger.model import FEATURES
from accounting.records import BackendFacts

STEPS, LG, PRE, PREQ, DEC, KV = range(len(FEATURES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What requests of one backend, model and status used. Energies in microjoules, where known."""

    backend: str | None
    model: str | None
    status: str
    requests: int
    energy_uj: int = 0
    prefill_uj: int = 0
    decode_uj: int = 0
    dynamic_uj: int | None = None
    """Without the idle power of its time; None: of none of them known."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """The books of all GPUs that the backends run on, in microjoules."""

    measured_uj: int | None = None
    requests_uj: int = 0
    idle_uj: int = 0
    unobserved_uj: int = 0
    unmeasured_uj: int = 0


@dataclass(frozen=True)
class Backend:
    """One backend's minutes in the window, summed. `facts` is not empty."""

    name: str
    facts: Sequence[BackendFacts]

    @cached_property
    def worked(self) -> list[BackendFacts]:
        """Minutes of which the work is known."""
        return [one for one in self.facts if one.learnt_us > 0 and one.work[STEPS] > 0]

    @cached_property
    def newest(self) -> BackendFacts:
        """Its prices hold the most of what was learnt."""
        return (self.worked or self.facts)[-1]

    @property
    def gpus(self) -> int:
        return len(self.newest.gpus)

    @property
    def static_w(self) -> float:
        """Idle power as last known; 0 where it never was: then no saving counts on it."""
        known = [one.static_w for one in self.facts if one.static_w is not None]
        return known[-1] if known else 0.0

    @property
    def static_known(self) -> bool:
        return any(one.static_w is not None for one in self.facts)

    @property
    def settled_s(self) -> float:
        return sum(one.settled_us for one in self.facts) / 1e6

    @property
    def busy_s(self) -> float:
        return sum(one.busy_us for one in self.facts) / 1e6

    @property
    def drawn_uj(self) -> int:
        """Energy of its GPUs, the idle part of those it shares being divided."""
        return sum(one.requests_uj + one.idle_uj + one.unobserved_uj for one in self.facts)

    @property
    def requests_uj(self) -> int:
        return sum(one.requests_uj for one in self.facts)

    @property
    def idle_uj(self) -> int:
        return sum(one.idle_uj for one in self.facts)


@dataclass(frozen=True, kw_only=True)
class Window:
    """[t0_us, t1_us). `spent` is of all requests of the backends, `asked` of those that are asked about
    (None: all), and `shares` by backend their part of its requests' energy (1 where it is not named).
    `booked` is None where the question is not about whole GPUs. `earlier` are facts from before."""

    t0_us: int
    t1_us: int
    facts: Sequence[BackendFacts]
    spent: Sequence[Spent]
    booked: Booked | None
    asked: Sequence[Spent] | None = None
    earlier: Sequence[BackendFacts] = ()
    shares: dict[str, float] = field(default_factory=dict)

    @cached_property
    def backends(self) -> list[Backend]:
        by_name: dict[str, list[BackendFacts]] = {}
        for one in sorted(self.facts, key=lambda one: one.t0_us):
            by_name.setdefault(one.backend, []).append(one)
        return [Backend(name, facts) for name, facts in sorted(by_name.items())]

    @cached_property
    def drawn_uj(self) -> int:
        """Energy of all backends' GPUs in the minutes of which there are facts."""
        return sum(backend.drawn_uj for backend in self.backends)

    def spent_by(self, backend: str, *statuses: str) -> list[Spent]:
        return [s for s in self.spent if s.backend == backend and (not statuses or s.status in statuses)]
