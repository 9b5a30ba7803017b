"""The report of a sweep: one HTML file that needs nothing else, its plots drawn in it as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from joulegate.sweep.level import Level, Plan
from simulator.profiles import Point

WIDTH, HEIGHT, EDGE = 440, 280, 56
Line = tuple[str, str, list[tuple[float, float]]]
"""Name, colour, points."""

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}
figure{display:inline-block;margin:0 1rem 1rem 0}figcaption{font-weight:600}"""


def page(plan: Plan, levels: Sequence[Level], paper: Sequence[Point], versions: dict[str, str]) -> str:
    """`paper` are the published points of the model on these GPUs; empty where there are none."""
    ours = sorted(levels, key=lambda level: level.in_flight)
    dear = [(float(x.in_flight), x.joules_per_token) for x in ours if x.joules_per_token is not None]
    response = [
        (float(x.in_flight), x.joules_per_response) for x in ours if x.joules_per_response is not None
    ]
    fast = [(x.tokens_per_s, x.joules_per_token) for x in ours if x.joules_per_token is not None]
    watts = [(float(x.in_flight), x.power_w) for x in ours if x.power_w is not None]
    plots = [
        _plot(
            "J/token against requests in flight",
            [_ours(dear), _paper([(p.batch, p.joules_per_token) for p in paper])],
        ),
        _plot("J/response against requests in flight", [_ours(response)]),
        _plot(
            "J/token against tokens/s",
            [_ours(fast), _paper([(p.tokens_per_s, p.joules_per_token) for p in paper])],
        ),
        _plot("GPU power (W) against requests in flight", [_ours(watts)]),
    ]
    note = "<p><b>Simulated GPU.</b></p>" if any(level.simulated for level in ours) else ""
    about = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>joulegate sweep: {escape(plan.model)}</title>"
        f"<style>{STYLE}</style><h1>{escape(plan.model)}: {escape(plan.task)}</h1>{note}"
        f"<p>Closed loop; {plan.seconds:g} s per level, {plan.warm_up_s:g} s of it warm-up.</p>"
        f"<p>{escape(about)}</p>"
        f"{_table(ours, paper)}<div>{''.join(plots)}</div></html>\n"
    )


def _ours(points: list[tuple[float, float]]) -> Line:
    return "here", "#0b6e4f", points


def _paper(points: list[tuple[float, float]]) -> Line:
    return "arXiv 2601.22076", "#c8553d", points


HEAD = (
    "in flight",
    "requests",
    "failed",
    "tokens/s",
    "J/token",
    "the paper's",
    "J/response",
    "prefill",
    "power W",
    "TTFT ms (p50, p90)",
    "books",
)


def _table(levels: Sequence[Level], paper: Sequence[Point]) -> str:
    known = {point.max_num_seqs: point for point in paper}
    rows = []
    for x in levels:
        point = known.get(x.in_flight)
        cells = (
            x.in_flight,
            x.requests,
            x.failures,
            f"{x.tokens_per_s:.1f}",
            _figure(x.joules_per_token),
            _figure(point.joules_per_token if point else None),
            _figure(x.joules_per_response),
            "-" if x.prefill_part is None else f"{x.prefill_part:.0%}",
            _figure(x.power_w),
            "-" if x.ttft_ms is None else ", ".join(f"{ms:.0f}" for ms in x.ttft_ms),
            "balance" if x.balanced else "DO NOT BALANCE",
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in HEAD)}</tr>{''.join(rows)}</table>"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _plot(title: str, lines: list[Line]) -> str:
    """Both axes logarithmic; nothing is drawn without two points."""
    lines = [(name, colour, [p for p in points if min(p) > 0]) for name, colour, points in lines]
    every = [point for _, _, points in lines for point in points]
    if len(every) < 2:
        return ""
    (left, right), (low, high) = (_span([p[axis] for p in every]) for axis in (0, 1))

    def place(point: tuple[float, float]) -> str:
        x = EDGE + (WIDTH - 2 * EDGE) * (math.log(point[0]) - left) / (right - left)
        y = HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (math.log(point[1]) - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = []
    for number, (name, colour, points) in enumerate(line for line in lines if line[2]):
        path = " ".join(place(point) for point in sorted(points))
        parts.append(f"<polyline points='{path}' fill=none stroke='{colour}' stroke-width=2 />")
        for point in points:
            x, y = place(point).split(",")
            told = f"{name}: {point[0]:.4g}, {point[1]:.4g}"
            parts.append(f"<circle cx={x} cy={y} r=3 fill='{colour}'><title>{told}</title></circle>")
        parts.append(f"<text x={EDGE} y={14 + 15 * number} fill='{colour}' font-size=12>{name}</text>")
    for at, anchor, value in ((EDGE, "start", left), (WIDTH - EDGE, "end", right)):
        text = f"{math.exp(value):.3g}"
        parts.append(f"<text x={at} y={HEIGHT - EDGE + 18} font-size=12 text-anchor={anchor}>{text}</text>")
    for at, value in ((HEIGHT - EDGE, low), (EDGE, high)):
        text = f"{math.exp(value):.3g}"
        parts.append(f"<text x={EDGE - 6} y={at} font-size=12 text-anchor=end>{text}</text>")
    axes = f"M{EDGE},{EDGE}V{HEIGHT - EDGE}H{WIDTH - EDGE}"
    parts.append(f"<path d='{axes}' fill=none stroke='#888' />")
    drawn = f"<svg width={WIDTH} height={HEIGHT}>{''.join(parts)}</svg>"
    return f"<figure><figcaption>{title}</figcaption>{drawn}</figure>"


def _span(values: list[float]) -> tuple[float, float]:
    low, high = math.log(min(values)), math.log(max(values))
    return (low, high) if high > low else (low - 0.1, high + 0.1)
