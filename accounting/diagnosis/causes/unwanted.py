"""Work that nobody got: requests that were aborted, lost or failed, and tries that another backend repeated.

Without them the others run in smaller batches, so less is saved than they were charged: the work that is left
is served anew (`project.py`), as it came.
"""

from __future__ import annotations

from collections.abc import Sequence

from accounting.diagnosis.findings import Finding, RuledOut, Verdict, rounded, uncertainty_uj
from accounting.diagnosis.project import Prices, as_it_came, served
from accounting.diagnosis.window import Backend, Spent, Window

LEAST = 0.02
UNWANTED = ("aborted", "lost", "engine_error")


def look(window: Window) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for backend in window.backends:
        verdicts.append(_aborted(backend, window))
        verdicts.append(_retries(backend))
    return verdicts


def _aborted(backend: Backend, window: Window) -> Verdict:
    spent, unwanted = window.spent_by(backend.name), window.spent_by(backend.name, *UNWANTED)
    energy_uj, all_uj = _sum(unwanted, "energy_uj"), _sum(spent, "energy_uj")
    part = energy_uj / all_uj if all_uj else 0.0
    evidence = {
        "part_of_requests": rounded(
            sum(s.requests for s in unwanted) / max(sum(s.requests for s in spent), 1)
        ),
        "part_of_their_energy": rounded(part),
    }
    if part < LEAST:
        why = f"{part:.1%} of the requests' energy"
        return RuledOut(cause="aborted", backend=backend.name, why=why, evidence=evidence)
    prefill = 1 - _ratio(_sum(unwanted, "prefill_uj"), _sum(spent, "prefill_uj"))
    decode = 1 - _ratio(_sum(unwanted, "decode_uj"), _sum(spent, "decode_uj"))
    saving_uj, before, after = _without(backend, prefill, decode)
    return Finding(
        cause="aborted",
        kind="waste",
        backend=backend.name,
        what=f"{part:.0%} of the requests' energy went to answers that nobody took to their end",
        change="find out why clients leave or requests fail: timeouts, too long answers, double clicks",
        joules_uj=energy_uj,
        saving_uj=saving_uj,
        uncertainty_uj=uncertainty_uj(saving_uj, backend.newest.price_error, before, after),
        evidence=evidence | {"batch_now": rounded(before), "batch_without": rounded(after)},
    )


def _retries(backend: Backend) -> Verdict:
    retries, energy_uj = (
        sum(one.retries for one in backend.facts),
        sum(one.retried_uj for one in backend.facts),
    )
    part = _ratio(energy_uj, backend.requests_uj)
    evidence = {"failed_tries": retries, "part_of_energy": rounded(part)}
    if part < LEAST:
        return RuledOut(
            cause="retries",
            backend=backend.name,
            why=f"{retries} failed tries, {part:.1%} of the energy",
            evidence=evidence,
        )
    saving_uj, before, after = _without(backend, 1 - part, 1 - part)
    return Finding(
        cause="retries",
        kind="waste",
        backend=backend.name,
        what=f"{part:.0%} of its energy went into tries that failed and were repeated elsewhere",
        change="mend this backend, or take it out until it is well",
        joules_uj=energy_uj,
        saving_uj=saving_uj,
        uncertainty_uj=uncertainty_uj(saving_uj, backend.newest.price_error, before, after),
        evidence=evidence,
    )


def _without(backend: Backend, prefill: float, decode: float) -> tuple[int, float, float]:
    """What is saved where only these parts of prompts and answers are left, and the batch before and after.

    Both ways of serving are computed alike, so that only what differs counts.
    """
    prices, times = Prices(backend.newest.prices), Prices(backend.newest.times)
    loads = as_it_came(backend.worked)
    left = [load.parts(prefill, decode) for load in loads]
    limit = max((one.seats or 0) for one in backend.facts) or float("inf")
    now = served(loads, prices, times, limit)
    then = served(left, prices, times, limit)
    wall_s = max(backend.settled_s, now.busy_s, then.busy_s)
    saved_j = now.drawn_j(wall_s, backend.static_w) - then.drawn_j(wall_s, backend.static_w)
    return round(saved_j * 1e6), now.batch, then.batch


def _sum(spent: Sequence[Spent], name: str) -> int:
    return sum(getattr(s, name) for s in spent)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
