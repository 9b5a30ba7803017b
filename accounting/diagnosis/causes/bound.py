"""What the GPU's time goes into: memory bandwidth or arithmetic, by the times that were learnt.

Per step: reading all weights, and whatever else a step costs (`steps`, `lg`). Per token of context: reading
the KV cache (`kv`). Per token: arithmetic (`pre`, `preq`, `dec`). More than half of it is a bound.
"""

from __future__ import annotations

from accounting.diagnosis.findings import Finding, RuledOut, Verdict, rounded
from accounting.diagnosis.window import DEC, KV, LG, PRE, PREQ, STEPS, Backend, Window

MOST = 0.5
PARTS = {"weights": (STEPS, LG), "kv-reads": (KV,), "arithmetic": (PRE, PREQ, DEC)}
SAYS = {
    "weights": ("bandwidth-bound", "reading weights, the same for any batch", "larger batches"),
    "kv-reads": ("bandwidth-bound", "reading the KV cache", "shorter contexts, or a smaller KV cache (FP8)"),
    "arithmetic": ("compute-bound", "arithmetic of tokens", "a lower precision or a faster GPU"),
}


def look(window: Window) -> list[Verdict]:
    return [_of(backend) for backend in window.backends if backend.worked]


def _of(backend: Backend) -> Verdict:
    work = [sum(one.work[k] for one in backend.worked) for k in range(len(backend.newest.work))]
    seconds = [amount * time for amount, time in zip(work, backend.newest.times, strict=True)]
    joules = [amount * price for amount, price in zip(work, backend.newest.prices, strict=True)]
    whole_s = sum(seconds) or 1.0
    parts = {name: sum(seconds[k] for k in of) / whole_s for name, of in PARTS.items()}
    evidence = {f"time_for_{name.replace('-', '_')}": rounded(part) for name, part in parts.items()}
    first = max(parts, key=lambda name: parts[name])
    if parts[first] < MOST:
        return RuledOut(cause="bound", backend=backend.name, why="nothing takes half", evidence=evidence)
    cause, what, change = SAYS[first]
    return Finding(
        cause=cause,
        kind="work",
        backend=backend.name,
        what=f"{parts[first]:.0%} of the busy time went into {what}",
        change=change,
        joules_uj=round(1e6 * sum(joules[k] for k in PARTS[first])),
        saving_uj=None,
        uncertainty_uj=None,
        evidence=evidence,
    )
