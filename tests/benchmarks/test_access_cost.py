"""The benchmark of keys: it lets every request in, and tells each step and their sum."""

from __future__ import annotations

import pytest

from benchmarks.access import gate_us


def test_the_gate_is_measured_step_by_step() -> None:
    steps = gate_us(200)
    everything = steps.pop("everything")
    assert list(steps) == ["know", "admit", "headers", "end, settle, learn"]
    assert min(steps.values()) > 0
    assert everything == pytest.approx(sum(steps.values()))
