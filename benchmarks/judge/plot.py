"""The picture: error by scenario and method, as SVG. A dot is the median, a line goes up to p90.

The background is transparent; text and lines follow the reader's light or dark scheme.
"""

from __future__ import annotations

from math import log10

from benchmarks.judge.score import OURS, Score

LEFT, TOP, ROW, WIDTH, RIGHT = 235, 62, 34, 560, 30
LOW, HIGH = 0.003, 10.0
"""Ends of the axis: 0.3 % and 1,000 %."""

MARKS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

COLOURS = {
    OURS: ("#0072b2", "#56b4e9"),
    "tokens in+out": ("#b37700", "#e69f00"),
    "equal split": ("#6e7781", "#9aa4ae"),
    "output tokens": ("#b0578d", "#dd8fbb"),
    "regression": ("#00795a", "#2fbf95"),
}
"""For light and for dark; told apart by colour-blind readers too (after Okabe and Ito)."""

STYLE_LIGHT = "text{fill:#24292f;font:12px system-ui,sans-serif}.grid{stroke:#d0d7de}.aim{stroke:#cf222e}"
STYLE_DARK = "text{fill:#e6edf3}.grid{stroke:#3d444d}.aim{stroke:#ff7b72}"


def picture(scores: list[Score]) -> str:
    height = TOP + ROW * len(scores) + 34
    bottom = TOP + ROW * len(scores)
    parts = [_style(), *_legend()]
    for mark in MARKS:
        x = _x(mark)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        label = f"{100 * mark:g} %"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    for k, score in enumerate(scores):
        parts += _row(score, TOP + k * ROW)
    size = f"0 0 {LEFT + WIDTH + RIGHT} {height}"
    title = "Error of a request's joules by scenario and method: dot = median, line up to nine in ten"
    body = "\n".join(parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" role="img">'
    return f"{head}\n<title>{title}</title>\n{body}\n</svg>\n"


def _style() -> str:
    light = "".join(f".m{k}{{stroke:{c};fill:{c}}}" for k, (c, _) in enumerate(COLOURS.values()))
    dark = "".join(f".m{k}{{stroke:{c};fill:{c}}}" for k, (_, c) in enumerate(COLOURS.values()))
    return f"<style>{STYLE_LIGHT}{light}@media(prefers-color-scheme:dark){{{STYLE_DARK}{dark}}}</style>"


def _legend() -> list[str]:
    parts = []
    for k, name in enumerate(COLOURS):
        x = LEFT + k * 115
        parts.append(f'<circle class="m{k}" cx="{x}" cy="16" r="4.5"/><text x="{x + 9}" y="20">{name}</text>')
    aim = f'<line class="aim" x1="{LEFT}" y1="32" x2="{LEFT}" y2="44" stroke-width="2"/>'
    note = "aim for joulegate's median; dot = median error, line up to nine in ten (logarithmic)"
    return [*parts, aim, f'<text x="{LEFT + 9}" y="42">{note}</text>']


def _row(score: Score, top: float) -> list[str]:
    parts = [
        f'<text x="{LEFT - 10}" y="{top + ROW / 2 + 4:.1f}" text-anchor="end">{score.scenario.title}</text>',
        f'<line class="grid" x1="{LEFT}" y1="{top}" x2="{LEFT + WIDTH}" y2="{top}" stroke-width="0.5"/>',
    ]
    if score.scenario.aim is not None:
        x = _x(score.scenario.aim.median)
        y0, y1 = top + 2, top + ROW - 2
        parts.append(f'<line class="aim" x1="{x:.1f}" y1="{y0}" x2="{x:.1f}" y2="{y1}" stroke-width="2"/>')
    for k, name in enumerate(COLOURS):
        errors = score.methods[name]
        y, x0, x1 = top + 6 + k * 5.5, _x(errors.median), _x(errors.p90)
        radius, width = (4.5, 2.5) if name == OURS else (2.8, 1.2)
        parts.append(
            f'<line class="m{k}" x1="{x0:.1f}" y1="{y}" x2="{x1:.1f}" y2="{y}" stroke-width="{width}"/>'
            f'<circle class="m{k}" cx="{x0:.1f}" cy="{y}" r="{radius}"/>'
        )
    return parts


def _x(share: float) -> float:
    inside = min(max(share, LOW), HIGH)
    return LEFT + WIDTH * (log10(inside) - log10(LOW)) / (log10(HIGH) - log10(LOW))
