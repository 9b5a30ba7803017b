"""Idle power: GPUs that waited for requests.

Energy of a minute without any request could have been saved with the GPU lent out or switched off; that of
shorter gaps could not, as nothing starts that fast.
"""

from __future__ import annotations

from accounting.diagnosis.findings import Finding, RuledOut, Verdict, rounded
from accounting.diagnosis.window import Backend, Window

LEAST = 0.05
"""Part of the energy below which idle power is not worth a finding. Chosen, as all these are."""


def look(window: Window) -> list[Verdict]:
    return [_of(backend) for backend in window.backends]


def _of(backend: Backend) -> Verdict:
    empty_uj = sum(one.idle_uj for one in backend.facts if not one.request_us and not one.arrived)
    part = backend.idle_uj / backend.drawn_uj if backend.drawn_uj else 0.0
    evidence = {
        "idle_part_of_energy": rounded(part),
        "idle_part_of_time": rounded(1 - backend.busy_s / backend.settled_s if backend.settled_s else None),
        "idle_power_w": rounded(backend.static_w) if backend.static_known else None,
        "in_empty_minutes": rounded(empty_uj / backend.idle_uj if backend.idle_uj else None),
    }
    if part < LEAST:
        return RuledOut(
            cause="idle-power", backend=backend.name, why=f"{part:.1%} of the energy", evidence=evidence
        )
    return Finding(
        cause="idle-power",
        kind="waste",
        backend=backend.name,
        what=f"{part:.0%} of the energy was drawn with no request in flight",
        change="switch the GPUs off or lend them out in minutes without requests",
        joules_uj=backend.idle_uj,
        saving_uj=empty_uj,
        uncertainty_uj=round(0.02 * empty_uj),
        evidence=evidence,
    )
