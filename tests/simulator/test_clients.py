"""What clients do to the engine: crowds, leaving early, waiting in the queue; and what the metrics say."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import httpx
import pytest

from tests.simulator.conftest import eventually, the_account


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_aborts_its_running_request(client: httpx.Client, streamed: bool) -> None:
    name = f"leaves-{streamed}"
    sent = json.dumps({"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": streamed}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: {name}\r\n"
    url = client.base_url
    with socket.create_connection((url.host, url.port or 0)) as connection:
        connection.sendall(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
        eventually(lambda: the_account(client, name).get("completion_tokens"))
    account = eventually(lambda: (a := the_account(client, name))["state"] == "aborted" and a)
    assert 0 < account["completion_tokens"] < 2000
    assert account["energy_uj"] > 0
    eventually(lambda: client.get("/load").json() == {"server_load": 0})


def test_headers_come_while_queued_and_leaving_the_queue_costs_nothing(client: httpx.Client) -> None:
    fields = {"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": True}
    with httpx.Client(base_url=str(client.base_url)) as other:
        holding = [other.build_request("POST", "/v1/completions", json=fields) for _ in range(4)]
        held = [other.send(request, stream=True) for request in holding]
        eventually(
            lambda: (
                'vllm:num_requests_running{engine="0",model_name="tiny"} 4.0' in client.get("/metrics").text
            )
        )
        with other.stream(
            "POST", "/v1/completions", json=fields, headers={"X-Request-Id": "queued"}
        ) as answer:
            assert answer.status_code == 200
            assert the_account(client, "queued")["scheduled_us"] is None
        account = eventually(lambda: (a := the_account(client, "queued"))["state"] == "aborted" and a)
        assert account["energy_uj"] == account["completion_tokens"] == 0
        for answer in held:
            answer.close()
    eventually(lambda: client.get("/load").json() == {"server_load": 0})


def test_metrics_count_what_was_done(client: httpx.Client) -> None:
    def figures() -> dict[str, float]:
        lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("vllm:")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def grown(name: str, more: str = "") -> float:
        key = f'vllm:{name}{{engine="0",{more}model_name="tiny"}}'
        return after[key] - before[key]

    before = figures()
    usage = client.post(
        "/v1/completions", json={"prompt": "count me please", "max_tokens": 5, "ignore_eos": True}
    ).json()["usage"]
    after = figures()
    assert grown("prompt_tokens_total") == usage["prompt_tokens"]
    assert grown("generation_tokens_total") == 5
    assert grown("request_success_total", 'finished_reason="length",') == 1
    assert grown("iteration_tokens_total_count") == 5
    assert grown("iteration_tokens_total_sum") == usage["prompt_tokens"] + 4
    assert grown("inter_token_latency_seconds_count") == 4
    for phase in ("queue", "prefill", "decode", "inference"):
        assert grown(f"request_{phase}_time_seconds_count") == 1


def test_crowds_share_the_energy_exactly_and_get_all_their_tokens(client: httpx.Client) -> None:
    usages: list[dict[str, Any]] = []

    def ask(k: int) -> None:
        fields = {"prompt": f"crowd {k} " * (1 + 5 * k), "max_tokens": 10 + k, "ignore_eos": True}
        answer = httpx.post(
            f"{client.base_url}/v1/completions",
            json=fields,
            headers={"X-Request-Id": f"crowd-{k}"},
            timeout=60,
        )
        usages.append(answer.json()["usage"])

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(usage["completion_tokens"] for usage in usages) == list(range(10, 22))
    accounts = [the_account(client, f"crowd-{k}") for k in range(12)]
    assert all(account["prefill_uj"] > 0 and account["decode_uj"] > 0 for account in accounts)
    truth = client.get("/simulator/truth").json()
    assert truth["requests_uj"] + truth["idle_uj"] == truth["curve_uj"]
    assert truth["requests_uj"] == sum(account["energy_uj"] for account in truth["data"])
