"""The report of a sweep: one HTML file that needs nothing else, in the light or the dark of who looks
at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from joulegate.sweep import plots, tables
from joulegate.sweep.level import Level, Ran
from joulegate.sweep.plan import Plan
from joulegate.sweep.plots import Band, Line, Spot, short
from simulator.profiles import Point

STYLE = Path(__file__).with_name("page.css").read_text()

PARTS = {
    "prefill": "prefill",
    "decode": "decode",
    "requests": "ours",
    "idle": "idle",
    "unobserved": "unobserved",
    "unmeasured": "unmeasured",
}
POWERS = {"requests": "ours", "idle": "idle", "unobserved": "unobserved", "unmeasured": "unmeasured"}


def page(plan: Plan, ran: Sequence[Ran], paper: Sequence[Point], about: dict[str, str]) -> str:
    """`paper` are the published points of the model on these GPUs; empty where there are none."""
    ran = sorted(ran, key=lambda one: one.level.level)
    levels = [one.level for one in ran]
    load = (
        "closed loop"
        if plan.closed
        else f"open loop, {plan.arrivals} arrivals, times from the intended moment"
    )
    told = ", ".join(f"{name} {value}" for name, value in about.items())
    notes = "".join(f"<p class='bad'>{escape(note)}</p>" for note in warnings(levels))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(plan.model)}: {escape(plan.task)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(plan.model)}: {escape(plan.task)}</h1>"
        f"<p class='soft'>{escape(load)}; up to {plan.seconds:g} s a level; {escape(told)}</p>"
        f"{notes}{_facts(levels)}<div class='plots'>{_plots(plan, ran, paper)}</div>"
        f"<h2>Levels</h2>{tables.of_levels(plan, levels, paper)}"
        f"<h2>Do the energies add up?</h2>{tables.of_proofs(levels)}"
        f"<h2>How the figures are got</h2>{METHODS}</main></body></html>\n"
    )


METHODS = """
<p class='soft'>Energy of the steady state is what the books charged to requests in it, tokens those of the
records, spread evenly from the first token of each answer to its end. Joules per response are a mean over the
final records of answers that ended in it, corrections included. Times are the client's.</p>
<p class='soft'>The steady state begins when as many requests as are to be in flight have their first token,
and later where the marginal standard error rule says so; it ends when no more are sent.</p>
<p class='soft'>Bars are 95 % intervals: moving block bootstrap over seconds, and over requests for means of
them. They say how much a figure scatters, not what the meter or the attribution get wrong.</p>"""


def warnings(levels: Sequence[Level]) -> list[str]:
    """What a reader must know before the figures."""

    def where(chosen: Sequence[Level]) -> str:
        return ", ".join(f"{level.level:g}" for level in chosen)

    found = []
    if any(level.simulated for level in levels):
        found.append("Simulated GPU: these joules were never drawn.")
    checks = (
        (
            "The load generator, not the server, was the bottleneck: take more --workers. Levels",
            [x for x in levels if x.slow],
        ),
        (
            "Not steady: the halves differ by more than 5 %. Sweep for longer. Levels",
            [x for x in levels if not x.steady],
        ),
        ("THE ENERGIES DO NOT ADD UP. Levels", [x for x in levels if not x.proof.met]),
        ("Requests failed. Levels", [x for x in levels if x.failures]),
    )
    return found + [f"{words} {where(chosen)}" for words, chosen in checks if chosen]


def _facts(levels: Sequence[Level]) -> str:
    cheap = min(
        (x for x in levels if x.joules_per_token), key=lambda x: x.joules_per_token or 0, default=None
    )
    fast = max(levels, key=lambda x: x.tokens_per_s or 0.0, default=None)
    total = sum(x.proof.books_joules or 0 for x in levels)
    facts = [("levels", str(len(levels))), ("requests", f"{sum(x.proof.requests for x in levels):,}")]
    if total:
        facts.append(("GPU energy in all", f"{total / 1000:,.1f} kJ"))
    if cheap is not None:
        facts.append(("least J/token", f"{cheap.joules_per_token:.3g} at {cheap.level:g}"))
    if fast is not None and fast.tokens_per_s:
        facts.append(("most tokens/s", f"{short(fast.tokens_per_s)} at {fast.level:g}"))
    responses = [x.joules_per_response for x in levels if x.joules_per_response is not None]
    if responses:
        facts.append(("least J/response", short(min(responses))))
    return "<dl class='facts'>" + "".join(f"<div><dt>{n}</dt><dd>{v}</dd></div>" for n, v in facts) + "</dl>"


def _plots(plan: Plan, ran: Sequence[Ran], paper: Sequence[Point]) -> str:
    levels = [one.level for one in ran]
    ticks = [level.level for level in levels]
    axis = (
        "requests in flight"
        if plan.closed
        else "times as fast"
        if "." in plan.arrivals
        else "requests/s sent"
    )
    points = paper if plan.closed else ()
    both = [*ticks, *(float(point.max_num_seqs) for point in points)]

    def spots(name: str, x: str = "level") -> list[Spot]:
        found = []
        for level in levels:
            value, bounds = getattr(level, name), getattr(level, f"{name}_interval", None)
            if value:
                low, high = bounds or (None, None)
                found.append(Spot(getattr(level, x), value, low or None, high or None, f"{level.level:g}"))
        return found

    def paper_line(x: str, y: str) -> Line:
        found = [Spot(getattr(p, x), getattr(p, y), name=f"{p.max_num_seqs}") for p in points]
        return Line("arXiv 2601.22076", "paper", found, dashed=True)

    def times(name: str) -> list[Line]:
        return [
            Line(
                part,
                colour,
                [Spot(x.level, q[part]) for x in levels if (q := getattr(x, name)) and part in q],
            )
            for part, colour in (("p50", "ours"), ("p90", "paper"), ("p99", "unmeasured"))
        ]

    shares = [(f"{x.level:g}", parts) for x in levels if (parts := _parts(x))]
    good = [Spot(x.level, x.goodput_per_s) for x in levels if x.goodput_per_s is not None]
    slo = f"TTFT up to {plan.slo_ttft_ms:g} ms and {plan.slo_tpot_ms:g} ms per further token"
    return "".join(
        (
            plots.lines(
                f"J/token against {axis}",
                (axis, "J/token"),
                [
                    Line("here", "ours", spots("joules_per_token")),
                    paper_line("max_num_seqs", "joules_per_token"),
                ],
                x_ticks=both,
            ),
            plots.lines(
                f"J/response against {axis}",
                (axis, "J/response"),
                [Line("here", "ours", spots("joules_per_response"))],
                x_ticks=ticks,
            ),
            plots.lines(
                f"Tokens/s against {axis}",
                (axis, "tokens/s"),
                [Line("here", "ours", spots("tokens_per_s")), paper_line("max_num_seqs", "tokens_per_s")],
                x_ticks=both,
            ),
            _frontier(levels, points),
            plots.area(
                "Power over time",
                ("seconds of load, one level after the other", "W"),
                *_power(ran),
                "Shaded: the steady state of each level.",
            ),
            plots.bars(
                "Where the GPUs' energy went in the steady state",
                (axis, "% of the energy"),
                shares,
                {
                    name: colour
                    for name, colour in PARTS.items()
                    if any(parts.get(name) for _, parts in shares)
                },
                lambda value: f"{value:.1f} %",
            ),
            plots.lines(
                "Throughput per watt (all energy of the GPUs)",
                (axis, "tokens/s per W"),
                [Line("here", "ours", spots("tokens_per_joule"))],
                log=(True, False),
                x_ticks=ticks,
            ),
            plots.lines(
                "Goodput under the SLO",
                (axis, "responses/s"),
                [
                    Line("within the SLO", "good", good),
                    Line("all", "idle", [Spot(x.level, x.responses_per_s) for x in levels], dashed=True),
                ],
                log=(True, False),
                x_ticks=ticks,
                note=slo,
            )
            if good
            else "",
            plots.lines("Time to first token", (axis, "ms"), times("ttft_ms"), x_ticks=ticks),
            plots.lines("Time per output token", (axis, "ms"), times("tpot_ms"), x_ticks=ticks),
        )
    )


def _frontier(levels: Sequence[Level], paper: Sequence[Point]) -> str:
    """Time against energy, per token where there are tokens: who is beaten in both by another is hollow."""
    axes = ("median time per output token (ms)", "J/token")
    both = [
        (x.tpot_ms["p50"], x.joules_per_token, x.level)
        for x in levels
        if x.tpot_ms is not None and x.joules_per_token is not None
    ]
    if not both:
        axes = ("median response time (ms)", "J/response")
        both = [
            (x.e2e_ms["p50"], x.joules_per_response, x.level)
            for x in levels
            if x.e2e_ms is not None and x.joules_per_response is not None
        ]
    best = [p for p in both if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in both)]
    lost = [p for p in both if p not in best]
    known = [
        Spot(1000 * p.batch / p.tokens_per_s, p.joules_per_token, name=f"{p.max_num_seqs}") for p in paper
    ]
    return plots.lines(
        "Time-energy frontier",
        axes,
        [
            Line("on the frontier", "ours", [Spot(a, b, name=f"{c:g}") for a, b, c in best]),
            Line(
                "beaten", "idle", [Spot(a, b, name=f"{c:g}", hollow=True) for a, b, c in lost], joined=False
            ),
            Line("arXiv 2601.22076", "paper", known, dashed=True),
        ],
    )


def _parts(level: Level) -> dict[str, float] | None:
    """Of all energy in the steady state, in percent."""
    total = (level.power_w or 0.0) * level.seconds
    if not total or level.requests_joules is None:
        return None
    # Images and videos have no such phases.
    prefill = (level.prefill_part or 0.0) * level.requests_joules
    parts = {
        "prefill": prefill,
        "decode" if level.tokens else "requests": level.requests_joules - prefill,
        "idle": level.idle_joules or 0.0,
        "unobserved": level.unobserved_joules or 0.0,
        "unmeasured": level.unmeasured_joules or 0.0,
    }
    return {name: 100 * value / total for name, value in parts.items()}


def _power(
    ran: Sequence[Ran],
) -> tuple[list[tuple[float, float]], dict[str, list[float]], dict[str, str], list[Band]]:
    """Levels one after the other, each from the beginning of its load."""
    spans: list[tuple[float, float]] = []
    layers: dict[str, list[float]] = {name: [] for name in POWERS}
    bands, offset = [], 0.0
    for one in ran:
        if not one.seconds:
            continue
        zero = one.seconds[0].begin_at
        for second in one.seconds:
            spans.append((offset + second.begin_at - zero, offset + second.end_at - zero))
            for name, layer in layers.items():
                layer.append(getattr(second, f"{name}_w"))
        begin = offset + one.level.begin_at - zero
        end = spans[-1][1]
        steady_end = max(offset + s.end_at - zero for s in one.seconds if s.in_steady)
        bands.append(Band(f"{one.level.level:g}", offset, end, begin, steady_end))
        offset = end
    return spans, layers, POWERS, bands
