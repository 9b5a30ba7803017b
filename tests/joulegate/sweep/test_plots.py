"""Plots are well-formed, show every point, and survive what is odd."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from joulegate.sweep import plots
from joulegate.sweep.plots import Band, Line, Spot


def svg(figure: str) -> ElementTree.Element:
    """The figure, read as XML."""
    return ElementTree.fromstring(figure)


def test_every_point_is_there_with_its_value_and_interval() -> None:
    line = Line("a < b", "ours", [Spot(8, 0.5, 0.4, 0.6, "8"), Spot(16, 0.3)])
    drawn = svg(plots.lines("J/token", ("in flight", "J/token"), [line], x_ticks=[8, 16]))
    titles = [title.text for title in drawn.iter("title")]
    assert titles == ["a < b 8: in flight 8, J/token 0.5 (0.4 to 0.6)", "a < b: in flight 16, J/token 0.3"]
    places = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in drawn.iter("circle")]
    assert places[0][0] < places[1][0]
    assert places[0][1] < places[1][1]


@pytest.mark.parametrize("log", [(True, True), (False, False)])
@pytest.mark.parametrize("spots", [[Spot(1, 1)], [Spot(1, 5), Spot(2, 5)], [Spot(1, 1e-6), Spot(4096, 1e6)]])
def test_one_point_level_lines_and_wide_ranges_can_be_drawn(
    spots: list[Spot], log: tuple[bool, bool]
) -> None:
    drawn = svg(plots.lines("t", ("x", "y"), [Line("a", "ours", spots)], log=log))
    for circle in drawn.iter("circle"):
        assert plots.LEFT <= float(circle.get("cx", 0)) <= plots.WIDTH - plots.RIGHT
        assert plots.TOP - 1 <= float(circle.get("cy", 0)) <= plots.HEIGHT - plots.BOTTOM + 1


def test_without_points_nothing_is_drawn() -> None:
    assert plots.lines("t", ("x", "y"), [Line("a", "ours", [])]) == ""
    assert plots.bars("t", ("x", "y"), [], {}, str) == ""
    assert plots.area("t", ("x", "y"), [], {}, {}, []) == ""


def test_bars_stack_to_their_sum() -> None:
    stacks = [("8", {"a": 30.0, "b": 70.0}), ("16", {"a": 50.0, "b": 50.0})]
    drawn = svg(plots.bars("t", ("x", "%"), stacks, {"a": "ours", "b": "idle"}, str))
    heights = [float(box.get("height", 0)) for box in drawn.iter("rect")]
    assert heights[0] + heights[1] == pytest.approx(heights[2] + heights[3], abs=0.3)
    assert heights[0] < heights[2]


def test_layers_lie_upon_one_another_and_empty_ones_are_left_out() -> None:
    spans = [(0.0, 1.0), (1.0, 2.0)]
    layers = {"a": [100.0, 100.0], "b": [0.0, 50.0], "c": [0.0, 0.0]}
    colours = {"a": "ours", "b": "idle", "c": "paper"}
    drawn = svg(plots.area("t", ("s", "W"), spans, layers, colours, [Band("8", 0, 2, 0.5, 1.5)]))
    assert len(list(drawn.iter("path"))) == 2
    assert len(list(drawn.iter("span"))) == 2
