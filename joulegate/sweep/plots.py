"""Plots as SVG text: lines, stacked bars, a stacked area. Pure. Colours are CSS variables of the page
(page.py).

Every plot scales with its frame. What a point is stands in its `<title>`, which browsers show on hovering.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 42
FEW_TICKS = 6


@dataclass(frozen=True, slots=True)
class Spot:
    """A point; `low` and `high` bound its interval on the y axis, where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    name: str = ""
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """`colour` is the name of a CSS variable without its dashes."""

    name: str
    colour: str
    spots: Sequence[Spot]
    dashed: bool = False
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Scale:
    """Places values of an axis between two pixels."""

    low: float
    high: float
    begin: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.begin + (self.end - self.begin) * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        return _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high)


@dataclass(slots=True)
class Canvas:
    """Collects what is drawn."""

    wide: bool = False
    parts: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        return 2 * WIDTH if self.wide else WIDTH

    def add(self, part: str) -> None:
        self.parts.append(part)

    def text(self, x: float, y: float, words: str, anchor: str = "middle", turn: bool = False) -> None:
        turned = f" transform='rotate(-90 {x:.1f} {y:.1f})'" if turn else ""
        self.add(f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'{turned}>{escape(words)}</text>")

    def axes(
        self, x: Scale, y: Scale, x_name: str, y_name: str, x_ticks: Sequence[float] | None = None
    ) -> None:
        for value in y.ticks():
            at = y.at(value)
            self.add(
                f"<line class='grid' x1='{LEFT}' x2='{self.width - RIGHT}' y1='{at:.1f}' y2='{at:.1f}'/>"
            )
            self.text(LEFT - 6, at + 4, short(value), "end")
        for value in x.ticks() if x_ticks is None else x_ticks:
            at = x.at(value)
            ends = f"y1='{HEIGHT - BOTTOM}' y2='{HEIGHT - BOTTOM + 4}'"
            self.add(f"<line class='tick' x1='{at:.1f}' x2='{at:.1f}' {ends}/>")
            self.text(at, HEIGHT - BOTTOM + 17, short(value))
        self.text((LEFT + self.width - RIGHT) / 2, HEIGHT - 6, x_name)
        self.text(13, (TOP + HEIGHT - BOTTOM) / 2, y_name, turn=True)

    def figure(self, title: str, legend: Sequence[tuple[str, str]], note: str = "") -> str:
        keys = "".join(
            f"<span><i style='background:var(--{colour})'></i>{escape(name)}</span>"
            for name, colour in legend
        )
        told = f"<p>{escape(note)}</p>" if note else ""
        size = f"viewBox='0 0 {self.width} {HEIGHT}' role='img' aria-label='{escape(title, True)}'"
        kind = " class='wide'" if self.wide else ""
        return (
            f"<figure{kind}><figcaption>{escape(title)}</figcaption><div class='keys'>{keys}</div>"
            f"<svg {size}>{''.join(self.parts)}</svg>{told}</figure>"
        )


def lines(
    title: str,
    names: tuple[str, str],
    drawn: Sequence[Line],
    *,
    log: tuple[bool, bool] = (True, True),
    x_ticks: Sequence[float] | None = None,
    note: str = "",
) -> str:
    """Lines with markers and intervals; empty without a point. `names` are those of the axes, units
    included.
    """
    drawn = [line for line in drawn if line.spots]
    spots = [spot for line in drawn for spot in line.spots]
    if not spots:
        return ""
    canvas = Canvas()
    right, bottom = canvas.width - RIGHT, HEIGHT - BOTTOM
    heights = [v for spot in spots for v in (spot.y, spot.low, spot.high) if v is not None]
    x = _scale([spot.x for spot in spots], LEFT + 12, right - 12, log[0])
    y = _scale(heights if log[1] else [0.0, *heights], bottom, TOP, log[1])
    canvas.axes(x, y, *names, _thinned(x_ticks, x) if x_ticks else None)
    for line in drawn:
        ordered = sorted(line.spots, key=lambda spot: spot.x)
        colour = f"var(--{line.colour})"
        if line.joined and len(ordered) > 1:
            path = " ".join(f"{x.at(spot.x):.1f},{y.at(spot.y):.1f}" for spot in ordered)
            dashes = " stroke-dasharray='5 4'" if line.dashed else ""
            canvas.add(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'{dashes}/>")
        for spot in ordered:
            canvas.add(_marker(spot, line.name, colour, x, y, names))
    return canvas.figure(title, [(line.name, line.colour) for line in drawn], note)


def _marker(spot: Spot, name: str, colour: str, x: Scale, y: Scale, names: tuple[str, str]) -> str:
    at, height = x.at(spot.x), y.at(spot.y)
    told = (
        f"{name}{' ' + spot.name if spot.name else ''}: {names[0]} {short(spot.x)}, {names[1]} {spot.y:.4g}"
    )
    bar = ""
    if spot.low is not None and spot.high is not None:
        told += f" ({spot.low:.4g} to {spot.high:.4g})"
        ends = f"y1='{y.at(spot.low):.1f}' y2='{y.at(spot.high):.1f}'"
        bar = f"<line x1='{at:.1f}' x2='{at:.1f}' {ends} stroke='{colour}' stroke-width='1.5'/>"
    fill = "var(--card)" if spot.hollow else colour
    circle = (
        f"<circle cx='{at:.1f}' cy='{height:.1f}' r='4' fill='{fill}' stroke='{colour}' stroke-width='1.5'>"
    )
    return f"{bar}{circle}<title>{escape(told)}</title></circle>"


def bars(
    title: str,
    names: tuple[str, str],
    stacks: Sequence[tuple[str, Mapping[str, float]]],
    colours: Mapping[str, str],
    show: Callable[[float], str],
) -> str:
    """A stack of parts per label, in the order of `colours`; empty without one."""
    if not stacks:
        return ""
    canvas = Canvas()
    right, bottom = canvas.width - RIGHT, HEIGHT - BOTTOM
    y = _scale([0.0, *(sum(parts.values()) for _, parts in stacks)], bottom, TOP, False)
    x = Scale(0.0, float(len(stacks)), LEFT, right, False)
    canvas.axes(x, y, *names, ())
    width = min(48.0, 0.7 * (right - LEFT) / len(stacks))
    for place, (label, parts) in enumerate(stacks):
        middle, floor = x.at(place + 0.5), 0.0
        canvas.text(middle, bottom + 17, label)
        for name, colour in colours.items():
            value = parts.get(name, 0.0)
            if value <= 0:
                continue
            top, base = y.at(floor + value), y.at(floor)
            box = f"x='{middle - width / 2:.1f}' y='{top:.1f}' width='{width:.1f}' height='{base - top:.1f}'"
            told = escape(f"{label}, {name}: {show(value)}")
            canvas.add(f"<rect {box} fill='var(--{colour})'><title>{told}</title></rect>")
            floor += value
    return canvas.figure(title, list(colours.items()))


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of a time axis, in seconds, and the steady part of it."""

    name: str
    begin: float
    end: float
    steady_begin: float
    steady_end: float


def area(
    title: str,
    names: tuple[str, str],
    spans: Sequence[tuple[float, float]],
    layers: Mapping[str, Sequence[float]],
    colours: Mapping[str, str],
    bands: Sequence[Band],
    note: str = "",
) -> str:
    """Layers upon one another over time, each value held through its span; empty without a span."""
    if not spans:
        return ""
    canvas = Canvas(wide=True)
    right, bottom = canvas.width - RIGHT, HEIGHT - BOTTOM
    totals = [sum(layer[k] for layer in layers.values()) for k in range(len(spans))]
    x = Scale(spans[0][0], spans[-1][1], LEFT, right, False)
    y = _scale([0.0, *totals], bottom, TOP + 14, False)
    for band in bands:
        begin, end = x.at(band.steady_begin), x.at(band.steady_end)
        box = f"x='{begin:.1f}' y='{TOP}' width='{max(end - begin, 0):.1f}' height='{bottom - TOP}'"
        canvas.add(f"<rect class='band' {box}/>")
        canvas.text((x.at(band.begin) + x.at(band.end)) / 2, TOP + 8, band.name)
    canvas.axes(x, y, *names)
    floor = [0.0] * len(spans)
    for name, colour in colours.items():
        layer = layers[name]
        if not any(layer):
            continue
        steps = []
        for (begin, end), low, value in zip(spans, floor, layer, strict=True):
            left, width = x.at(begin), x.at(end) - x.at(begin)
            top, base = y.at(low + value), y.at(low)
            steps.append(f"M{left:.1f},{base:.1f}V{top:.1f}h{width:.1f}V{base:.1f}z")
        canvas.add(f"<path d='{''.join(steps)}' fill='var(--{colour})'/>")
        floor = [low + value for low, value in zip(floor, layer, strict=True)]
    return canvas.figure(title, [(n, c) for n, c in colours.items() if any(layers[n])], note)


def short(value: float) -> str:
    """Three digits, without an exponent where that is as short."""
    if value == 0:
        return "0"
    return (
        f"{value:.3g}"
        if 1e-4 <= abs(value) < 1000
        else f"{value:,.0f}"
        if abs(value) >= 1000
        else f"{value:.1e}"
    )


def _scale(values: Sequence[float], begin: float, end: float, log: bool) -> Scale:
    low, high = min(values), max(values)
    if log:
        low, high = max(low, 1e-12), max(high, 1e-12)
        if high < 1.05 * low:
            low, high = low / 1.5, high * 1.5
        edge = (high / low) ** 0.04
        return Scale(low / edge, high * edge, begin, end, True)
    if high <= low:
        high = low + 1.0
    return Scale(low, high + 0.05 * (high - low), begin, end, False)


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / FEW_TICKS))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (factor * step) <= FEW_TICKS)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 of each decade, fewer where they would be many; two at least."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [d * 10.0**power for power in range(first, last + 1) for d in digits]
        found = [value for value in found if low <= value <= high]
        if len(found) <= FEW_TICKS + 1:
            break
    return found if len(found) >= 2 else [low, (low * high) ** 0.5, high]


def _thinned(values: Sequence[float], scale: Scale, apart: float = 34.0) -> list[float]:
    """So few that their labels do not touch."""
    kept: list[float] = []
    for value in sorted(set(values)):
        if not kept or scale.at(value) - scale.at(kept[-1]) >= apart:
            kept.append(value)
    return kept
