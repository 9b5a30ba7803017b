"""Packing saves energy: the same requests at low load on two simulated GPUs, by two policies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from simulator.gpu.board import H100
from simulator.process import SimulatedEngine
from tests.proxy.load import storm
from tests.proxy.replicas import all_up, engines, named
from tests.proxy.stack import Stack, running, until

REQUESTS, TOKENS = 6, 80


def served(pair: list[SimulatedEngine], directory: Path, policy: str) -> tuple[float, set[str]]:
    """Joules of all requests under a policy, and the backends that had them."""
    backends = [{**one, "gpus": [H100.numbered(n).uuid]} for n, one in enumerate(named(pair))]
    routing = {"policy": policy, "affinity": []}
    meter = {"library": str(pair[0].library)}
    with running(directory, {"backends": backends, "routing": routing, "meter": meter}) as stack:
        all_up(stack, 2)
        seen = asyncio.run(storm(stack.proxy.url, [TOKENS] * REQUESTS))
        assert all(one.complete for one in seen)
        records = until(lambda: settled(stack), "all joules are final")
        return sum(record["energy_joules"] for record in records), {r["backend"] for r in records}


def settled(stack: Stack) -> list[dict[str, Any]] | None:
    records = stack.stored(REQUESTS)
    return records if all(record["state"] == "final" for record in records) else None


def test_packing_serves_the_same_requests_with_fewer_joules_than_taking_turns(tmp_path: Path) -> None:
    with engines(tmp_path / "engines", 2) as pair:
        turns_j, turns_on = served(pair, tmp_path / "turns", "round_robin")
        packed_j, packed_on = served(pair, tmp_path / "packed", "pack")
    assert turns_on == {"a", "b"}
    assert packed_on == {"a"}
    # Each GPU that works draws its busy power: one does for as long as two would. (Measured: 0.5 to 0.6.)
    assert packed_j < 0.8 * turns_j
