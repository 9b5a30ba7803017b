"""Quantiles of what was measured."""

from __future__ import annotations

from collections.abc import Sequence


def quantile(values: Sequence[float], part: float) -> float | None:
    """The value that `part` of the values do not exceed; None of nothing."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)] if values else None
