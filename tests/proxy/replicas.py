"""Several engines behind one proxy, for tests of how they are chosen and replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from simulator.process import SimulatedEngine
from tests.proxy.stack import Stack, until


@contextmanager
def engines(
    directory: Path, count: int, *, model: str = "tiny", options: Sequence[str] = ()
) -> Iterator[list[SimulatedEngine]]:
    """Engines of one model on one simulated machine, each on a GPU of its own."""
    with ExitStack() as stack:
        made = [
            SimulatedEngine(
                directory,
                model=model,
                first_gpu=number,
                board=directory / "board",
                allow_faults=True,
                options=options,
            )
            for number in range(count)
        ]
        for engine in reversed(made):  # the last makes the board, with GPUs for all of them
            stack.enter_context(engine)
        yield made


def named(engines: Sequence[SimulatedEngine]) -> list[dict[str, Any]]:
    """The backends of the settings: `a`, `b`, ..."""
    return [{"id": chr(ord("a") + n), "url": engine.url} for n, engine in enumerate(engines)]


def gauges(stack: Stack, name: str) -> dict[str, float]:
    """A metric by its backend (or by all its labels, joined)."""
    text = stack.client.get("/metrics").text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return {",".join(s.labels.values()): s.value for s in samples if s.name == f"joulegate_{name}"}


def all_up(stack: Stack, count: int) -> None:
    """Wait until all backends answer."""
    until(lambda: sum(gauges(stack, "backend_up").values()) == count, f"{count} backends are up")


def reload(stack: Stack, said: str, **changed: Any) -> None:
    """Write these settings over the proxy's file, tell it, and wait until its log says `said`."""
    before = stack.proxy.log.read_text().count(said)
    file = stack.proxy.directory / "joulegate.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changed}))
    os.kill(stack.proxy.pid, signal.SIGHUP)
    until(lambda: stack.proxy.log.read_text().count(said) > before, f"the log says {said!r}")


def backends_of(stack: Stack, request_ids: Sequence[str]) -> list[str]:
    """Which backend had each request, from the records."""
    return [str(stack.record(request_id)["backend"]) for request_id in request_ids]
