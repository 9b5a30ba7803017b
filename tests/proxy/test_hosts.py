"""A real proxy that measures its host by an estimate: answers, records, books, metrics, a kill in between."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from joulegate.cli import main
from simulator.process import SimulatedEngine
from tests.proxy.stack import Stack, chat, events, metered, running, until

HOST = {"source": "estimate", "idle_w": 200, "name": "box"}
PUE = 1.5


def whole(stack: Stack, name: str) -> dict[str, Any] | None:
    """A request, if its answer told all of it at once to be measured: the counter has been read before."""
    energy = stack.post(chat(max_tokens=300), request_id=name).json()["energy"]
    return energy if energy["host_joules"] is not None and energy["facility_joules"] is not None else None


def lasts_s(stack: Stack, name: str, seconds: float) -> bool:
    record = stack.find(name)
    return record is not None and record["finished_at"] - record["started_at"] > seconds


def hosts_balance(stack: Stack) -> bool:
    """Whether the store's records have what its books of the host gave."""
    books = stack.client.get("/v1/energy/books").json()["host_total"]
    charged_uj = sum(record["host_uj"] or 0 for record in stack.records())
    return books is not None and books["balanced"] and 0 < charged_uj == books["requests_uj"]


def test_the_hosts_joules_are_in_answers_records_books_and_metrics_beside_the_gpus(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with running(tmp_path, metered(simulated, host=HOST, pue=PUE)) as stack:
        names = (f"ask-{number}" for number in range(1000))
        energy = until(lambda: whole(stack, next(names)), "an answer with the host's part")
        assert energy["host_method"] == "estimate"
        assert energy["pue"] == PUE
        assert energy["facility_joules"] == pytest.approx(
            (energy["energy_joules"] + energy["host_joules"]) * PUE
        )
        streamed = chat(max_tokens=300, stream=True, stream_options={"include_usage": True})
        last = events(stack.post(streamed, request_id="streamed").text)[-1]
        assert last["energy"]["host_joules"] > 0
        record = stack.record("streamed")
        assert record["host_unmeasured_seconds"] == 0
        assert record["host_method"] == "estimate"
        whole_uj = (record["energy_uj"] + record["host_uj"]) * PUE
        assert record["facility_joules"] == pytest.approx(whole_uj / 1e6)
        assert [share["gpu"].startswith("GPU-") for share in record["gpus"]] == [True]
        until(partial(hosts_balance, stack), "the records have what the host's books gave")
        stack.assert_balanced()
        books = stack.client.get("/v1/energy/books").json()
        assert {row["gpu"]: row["boundary"] for row in books["data"]}["host:box"] == "host"
        assert books["total"]["measured_uj"] == sum(
            row["measured_uj"] for row in books["data"] if row["boundary"] == "gpu"
        )
        metrics = {
            (sample.name, sample.labels.get("part"), sample.labels.get("hw_type")): sample
            for family in text_string_to_metric_families(stack.client.get("/metrics").text)
            for sample in family.samples
            if sample.labels.get("gpu") == "host:box" or "host_joules" in sample.name
        }
        assert metrics["hw_energy_joules_total", None, "host"].value > 0
        assert metrics["joulegate_books_joules_total", "requests", None].labels["boundary"] == "host"
        assert metrics["joulegate_request_host_joules_total", None, None].labels["method"] == "estimate"


def test_killed_in_flight_the_host_goes_on_after_the_restart_and_all_is_proved(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with running(tmp_path, metered(simulated, host=HOST)) as stack, ThreadPoolExecutor(1) as client:
        proxy = stack.proxy
        stack.post(chat(max_tokens=300), request_id="before")
        lost = client.submit(stack.post, chat(max_tokens=3000, stream=True), request_id="lost")
        until(partial(lasts_s, stack, "lost", 2.0), "some of its intervals are settled")
        proxy.kill()
        assert lost.exception() is not None
        proxy.start()
        found = stack.record("lost")
        assert found["status"] == "lost"
        assert found["host_uj"] > 0
        assert stack.record("before")["state"] == "final"
        stack.post(chat(max_tokens=300), request_id="after")
        assert stack.record("after")["host_uj"] > 0
        until(partial(hosts_balance, stack), "the records have what the host's books gave")
        proxy.stop()
        assert CliRunner().invoke(main, ["audit", str(proxy.data_dir)]).exit_code == 0
        told = CliRunner().invoke(main, ["replay", str(proxy.data_dir)])
        books = json.loads(told.output.splitlines()[-1])["host_books"]
        assert books["balanced"]
        assert books["requests_uj"] == books["records_uj"] + books["owed_after_uj"] > 0
