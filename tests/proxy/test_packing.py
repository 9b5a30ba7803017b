"""Packing saves energy: the same requests at low load on two simulated GPUs, by two policies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from simulator.gpu.board import H100
from tests.proxy.load import storm
from tests.proxy.replicas import all_up, engines, named, reload
from tests.proxy.stack import Stack, running, until

REQUESTS, TOKENS = 6, 80


def served(stack: Stack, already: int) -> tuple[float, set[str]]:
    """Send the requests; their joules, and the backends that had them. `already` were sent before."""
    seen = asyncio.run(storm(stack.proxy.url, [TOKENS] * REQUESTS))
    assert all(one.complete for one in seen)
    records = until(lambda: settled(stack, already + REQUESTS), "all joules are final")
    ours = [record for record in records if record["request_id"] in {one.request_id for one in seen}]
    assert len(ours) == REQUESTS
    return sum(record["energy_joules"] for record in ours), {str(record["backend"]) for record in ours}


def settled(stack: Stack, count: int) -> list[dict[str, Any]] | None:
    records = stack.stored(count)
    return records if all(record["state"] == "final" for record in records) else None


def test_packing_serves_the_same_requests_with_fewer_joules_than_taking_turns(tmp_path: Path) -> None:
    with engines(tmp_path / "engines", 2) as pair:
        backends = [{**one, "gpus": [H100.numbered(n).uuid]} for n, one in enumerate(named(pair))]
        settings = {"backends": backends, "meter": {"library": str(pair[0].library)}}
        routing = {"policy": "round_robin", "affinity": []}
        with running(tmp_path / "proxy", {**settings, "routing": routing}) as stack:
            all_up(stack, 2)
            turns_j, turns_on = served(stack, 0)
            reload(stack, "settings reloaded: routing.policy", routing={**routing, "policy": "pack"})
            packed_j, packed_on = served(stack, REQUESTS)
    assert turns_on == {"a", "b"}
    assert packed_on == {"a"}
    # Each GPU that works draws its busy power: one does for as long as two would. (Measured: 0.5 to 0.6.)
    assert packed_j < 0.8 * turns_j
