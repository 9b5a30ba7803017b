"""The tables of a sweep's report."""

from __future__ import annotations

from collections.abc import Sequence

from joulegate.sweep.figures import Quantiles
from joulegate.sweep.level import Level
from joulegate.sweep.plan import Plan
from joulegate.sweep.plots import short
from joulegate.sweep.spread import Interval
from simulator.profiles import Point

PROOF = """Over all of each level, warm-up and drain included: final records against what the books charged
to requests, in integer microjoules; and all energy in the books against the meter's own counter, the
time of whose readings is known to a fraction of a second."""


def of_levels(plan: Plan, levels: Sequence[Level], paper: Sequence[Point]) -> str:
    known = {float(point.max_num_seqs): point for point in paper} if plan.closed else {}
    head = [
        "in flight" if plan.closed else "rate",
        "requests",
        "failed",
        "responses/s",
        "tokens/s",
        "J/token",
    ]
    if known:
        head += ["paper: tokens/s", "paper: J/token"]
    head += [
        "J/response",
        "prefill",
        "power W",
        "TTFT ms p50 / p90",
        "ITL",
        "TPOT",
        "response s",
        "steady s",
        "drift",
    ]
    rows = []
    for x in levels:
        cells = [
            f"{x.level:g}",
            str(x.requests),
            str(x.failures),
            short(x.responses_per_s),
            _figure(x.tokens_per_s),
        ]
        cells.append(_with(x.joules_per_token, x.joules_per_token_interval))
        if known:
            point = known.get(x.level)
            cells.append(_beside(x.tokens_per_s, point.tokens_per_s if point else None))
            cells.append(_beside(x.joules_per_token, point.joules_per_token if point else None))
        cells.append(_with(x.joules_per_response, x.joules_per_response_interval))
        cells += ["-" if x.prefill_part is None else f"{x.prefill_part:.0%}", _figure(x.power_w)]
        cells += [_times(q) for q in (x.ttft_ms, x.itl_ms, x.tpot_ms)]
        cells += [_times(x.e2e_ms, 1000), f"{x.seconds:.0f}", "-" if x.drift is None else f"{x.drift:+.1%}"]
        rows.append(cells)
    return _table(head, rows)


def of_proofs(levels: Sequence[Level]) -> str:
    head = ["level", "requests", "sum of their records", "books: charged to requests", "", "all in the books"]
    head += ["the meter says", "differ by", "readings allow"]
    rows = []
    for x in levels:
        proof = x.proof
        verdict = {
            True: "<span class='good'>equal to the microjoule</span>",
            None: "other traffic: cannot be told",
        }
        same = verdict.get(proof.exact, "<span class='bad'>NOT EQUAL</span>")
        rows.append(
            [
                f"{x.level:g}",
                f"{proof.requests:,}",
                f"{proof.records_uj / 1e6:,.6f} J",
                f"{proof.booked_uj / 1e6:,.6f} J",
                same if proof.balanced else "<span class='bad'>BOOKS DO NOT BALANCE</span>",
                "-" if proof.books_joules is None else f"{proof.books_joules:,.1f} J",
                "-" if proof.meter_joules is None else f"{proof.meter_joules:,.1f} J",
                "-" if proof.meter_off is None else f"{proof.meter_off:.2%}",
                "-" if proof.meter_tolerance is None else f"{proof.meter_tolerance:.2%}",
            ]
        )
    told = f"<p class='soft'>{PROOF}</p>"
    return told + _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    names = "".join(f"<th>{name}</th>" for name in head)
    return f"<div class='table'><table><tr>{names}</tr>{cells}</table></div>"


def _figure(value: float | None) -> str:
    return "-" if value is None else short(value)


def _with(value: float | None, bounds: Interval | None) -> str:
    """A figure and half its interval."""
    if value is None or bounds is None:
        return _figure(value)
    return f"{value:.4g} ± {(bounds.high - bounds.low) / 2:.2g}"


def _beside(value: float | None, paper: float | None) -> str:
    if paper is None or not value:
        return "-"
    return f"{short(paper)} ({value / paper - 1:+.0%})"


def _times(found: Quantiles | None, by: float = 1.0) -> str:
    return (
        "-" if not found else " / ".join(short(found[part] / by) for part in ("p50", "p90") if part in found)
    )
