"""All rules over a window, ranked; and where its joules went."""

from __future__ import annotations

from dataclasses import dataclass, replace

from accounting.diagnosis.causes import batch, bound, idle, power, prefill, replicas, unwanted
from accounting.diagnosis.causes.unwanted import UNWANTED
from accounting.diagnosis.findings import Finding, RuledOut
from accounting.diagnosis.window import Window

RULES = (idle, unwanted, replicas, batch, power, prefill, bound)
"""Modules with a function `look`."""

WORTH = 0.02
"""Part of the energy that a saving has to be, to rank among wastes and limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where the joules went, in microjoules.

    The first five are of requests that ended in the window, `static_uj` being part of `requests_uj`: their
    share of idle power while they ran. `retried_uj` is of tries that failed, and lies in the requests that
    tried again. The others are of the GPUs' books in the window. None: not known, or not of whoever is asked
    about.
    """

    requests_uj: int
    prefill_uj: int
    decode_uj: int
    static_uj: int | None
    aborted_uj: int
    retried_uj: int | None
    measured_uj: int | None
    idle_uj: int | None
    unobserved_uj: int | None
    unmeasured_uj: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    t0_us: int
    t1_us: int
    where: Where
    findings: list[Finding]
    """The most worth doing first."""
    ruled_out: list[RuledOut]
    backends: list[str]
    known_s: float
    """Time of which there are facts, summed over the backends."""
    simulated: bool


def diagnose(window: Window) -> Diagnosis:
    verdicts = [verdict for rule in RULES for verdict in rule.look(window)]
    findings = [_of_share(v, window) for v in verdicts if isinstance(v, Finding)]
    findings.sort(key=lambda finding: _rank(finding, window))
    return Diagnosis(
        t0_us=window.t0_us,
        t1_us=window.t1_us,
        where=_where(window),
        findings=findings,
        ruled_out=[v for v in verdicts if isinstance(v, RuledOut)],
        backends=[backend.name for backend in window.backends],
        known_s=sum(backend.settled_s for backend in window.backends),
        simulated=any(one.simulated for one in window.facts),
    )


def _rank(finding: Finding, window: Window) -> tuple[int, float]:
    """What is wasted or held down comes before what the work is like; each by its saving."""
    saving_uj = finding.saving_uj
    if saving_uj is None:
        return (2 if finding.kind == "work" else 1), -(finding.joules_uj or 0) * 1e-12
    worth = saving_uj >= WORTH * window.drawn_uj
    return (0 if finding.kind != "work" and worth else 1), -float(saving_uj)


def _of_share(finding: Finding, window: Window) -> Finding:
    """What of a finding is due to whom the window asks about."""
    names = (finding.backend or "").split(", ")
    shares = [window.shares.get(name, 1.0) for name in names]
    share = sum(shares) / len(shares)
    if share == 1.0:
        return finding

    def part(uj: int | None) -> int | None:
        return None if uj is None else round(uj * share)

    return replace(
        finding,
        joules_uj=part(finding.joules_uj),
        saving_uj=part(finding.saving_uj),
        uncertainty_uj=part(finding.uncertainty_uj),
        evidence={**finding.evidence, "share_asked_about": round(share, 4)},
    )


def _where(window: Window) -> Where:
    spent, booked = window.spent if window.asked is None else window.asked, window.booked
    statics = [s.energy_uj - s.dynamic_uj for s in spent if s.dynamic_uj is not None]
    return Where(
        requests_uj=sum(s.energy_uj for s in spent),
        prefill_uj=sum(s.prefill_uj for s in spent),
        decode_uj=sum(s.decode_uj for s in spent),
        static_uj=sum(statics) if statics else None,
        aborted_uj=sum(s.energy_uj for s in spent if s.status in UNWANTED),
        retried_uj=None if booked is None else sum(one.retried_uj for one in window.facts),
        measured_uj=None if booked is None else booked.measured_uj,
        idle_uj=None if booked is None else booked.idle_uj,
        unobserved_uj=None if booked is None else booked.unobserved_uj,
        unmeasured_uj=None if booked is None else booked.unmeasured_uj,
    )
