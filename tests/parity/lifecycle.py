"""What becomes of a request's record when the client stays to the end, and when it does not.

Every scenario takes a Pair whose engine runs at most `SLOTS` sequences at once, and leaves the engine idle.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from tests.parity.bodies import SAMPLED, chat_body, completion_body
from tests.parity.exchange import NO_TLS
from tests.parity.pair import Pair, until

SLOTS: Final = 4
LONG: Final = 12_000  # tokens, half a minute of the fastest engine here: nobody waits for them
USAGE: Final = {"stream_options": {"include_usage": True}}


def streamed_to_the_end(pair: Pair) -> None:
    request_id = _new_id("stream")
    with open_stream(pair, request_id, chat_body(pair.model, stream=True, **USAGE)) as lines:
        seen = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    record = pair.record(request_id)
    assert record["status"] == "ok"
    assert record["streamed"] is True
    _same_tokens(record, seen[-1]["usage"])
    _has_energy(record)
    assert seen[-1]["energy"]["request_id"] == request_id


def streamed_without_asking_for_usage(pair: Pair) -> None:
    request_id = _new_id("silent")
    with open_stream(pair, request_id, chat_body(pair.model, stream=True)) as lines:
        assert not [line for line in lines if '"usage"' in line or '"energy"' in line]
    record = pair.record(request_id)
    assert (record["status"], record["completion_tokens"]) == ("ok", 16)
    assert record["prompt_tokens"] > 0
    _has_energy(record)


def a_single_token_in_a_stream(pair: Pair) -> None:
    """Its first token is also the end: all of it may reach the proxy in one piece."""
    request_id = _new_id("single")
    body = completion_body(pair.model, stream=True, max_tokens=1)
    with open_stream(pair, request_id, body, "/v1/completions") as lines:
        assert len([line for line in lines if line]) == 2
    record = pair.record(request_id)
    assert (record["status"], record["completion_tokens"]) == ("ok", 1)
    assert record["first_token_at"] is not None, record
    _has_energy(record)


def answered_whole(pair: Pair) -> None:
    request_id = _new_id("whole")
    answer = _post(pair, request_id, chat_body(pair.model))
    record = pair.record(request_id)
    assert (record["status"], record["streamed"], record["http_status"]) == ("ok", False, 200)
    _same_tokens(record, answer["usage"])
    _has_energy(record)
    assert answer["energy"]["request_id"] == request_id


def three_choices_are_one_request(pair: Pair) -> None:
    request_id = _new_id("three")
    _post(pair, request_id, chat_body(pair.model, **{**SAMPLED, "n": 3}))
    record = pair.record(request_id)
    assert (record["status"], record["completion_tokens"]) == ("ok", 48)
    _has_energy(record)


def several_prompts_are_one_request(pair: Pair) -> None:
    request_id = _new_id("prompts")
    body = completion_body(pair.model, prompt=["the first", "last"], stream=True)
    with open_stream(pair, request_id, body, "/v1/completions") as lines:
        assert [line for line in lines if line][-1] == "data: [DONE]"
    record = pair.record(request_id)
    assert (record["status"], record["completion_tokens"]) == ("ok", 32)
    _has_energy(record)


def refused_by_the_engine(pair: Pair) -> None:
    request_id = _new_id("refused")
    body = chat_body(pair.model, max_tokens=-1)
    url = f"{pair.proxied_url}/v1/chat/completions"
    answer = httpx.post(url, json=body, headers={"x-request-id": request_id}, verify=NO_TLS)
    assert answer.status_code == 400
    record = pair.record(request_id)
    assert (record["status"], record["http_status"]) == ("client_error", 400)
    assert record["completion_tokens"] is None


def left_while_streaming(pair: Pair) -> None:
    request_id = _new_id("left")
    with open_stream(pair, request_id, chat_body(pair.model, stream=True, max_tokens=LONG)) as lines:
        for _ in range(6):  # three events and their blank lines
            next(lines)
    pair.until_engine_has(running=0)
    record = pair.record(request_id)
    assert record["status"] == "aborted"
    assert record["completion_tokens"] is None or 0 < record["completion_tokens"] < LONG
    _has_energy(record)


def left_while_waiting_for_a_whole_answer(pair: Pair) -> None:
    request_id = _new_id("hung-up")
    with _bare_request(pair, request_id, chat_body(pair.model, max_tokens=LONG)):
        pair.until_engine_has(running=1)
    pair.until_engine_has(running=0)
    record = pair.record(request_id)
    assert record["status"] == "aborted"
    _has_energy(record)


def left_while_queued(pair: Pair) -> None:
    request_id = _new_id("queued")
    long = chat_body(pair.model, stream=True, max_tokens=LONG)
    with ExitStack() as others:
        fill_the_engine(pair, others)
        with open_stream(pair, request_id, long):
            pair.until_engine_has(waiting=1)
        pair.until_engine_has(waiting=0)
    pair.until_engine_has(running=0)
    record = pair.record(request_id)
    assert record["status"] == "aborted"
    assert record["first_token_at"] is None
    assert record["energy_joules"] is not None


def left_after_the_last_token(pair: Pair) -> None:
    request_id = _new_id("last")
    with open_stream(pair, request_id, chat_body(pair.model, stream=True)) as lines:
        for line in lines:
            if line == "data: [DONE]":
                break
    record = pair.record(request_id)
    assert (record["status"], record["completion_tokens"]) == ("ok", 16)
    _has_energy(record)


def left_with_three_choices(pair: Pair) -> None:
    request_id = _new_id("left-three")
    body = chat_body(pair.model, **{**SAMPLED, "n": 3, "max_tokens": LONG, "stream": True})
    with open_stream(pair, request_id, body) as lines:
        for _ in range(12):
            next(lines)
    pair.until_engine_has(running=0)
    record = pair.record(request_id)
    assert record["status"] == "aborted"
    _has_energy(record)


def one_request_id_twice_is_two_requests(pair: Pair) -> None:
    request_id = _new_id("twice")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: _post(pair, request_id, chat_body(pair.model)), range(2)))

    def both() -> list[dict[str, Any]] | None:
        found = [record for record in pair.records() if record["request_id"] == request_id]
        return found if len(found) == 2 and all(record["state"] == "final" for record in found) else None

    one, two = until(both, "two final records")
    assert one["id"] != two["id"]
    assert [one["status"], two["status"]] == ["ok", "ok"]


def tokens_are_those_the_engine_counted(pair: Pair) -> None:
    """More requests than the engine runs at once, streamed and not; compared with the engine's counters."""
    counters = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
    before = [pair.gauge(name) for name in counters]
    ids = [_new_id(f"mixed-{index}") for index in range(3 * SLOTS)]

    def ask(index: int) -> None:
        body = chat_body(pair.model, max_tokens=4 + 7 * index)
        if index % 2:
            _post(pair, ids[index], body)
        else:
            with open_stream(pair, ids[index], {**body, "stream": True}) as lines:
                assert len(list(lines)) > 4

    with ThreadPoolExecutor(len(ids)) as pool:
        list(pool.map(ask, range(len(ids))))
    records = [pair.record(request_id) for request_id in ids]
    counted = [round(pair.gauge(name) - old) for name, old in zip(counters, before, strict=True)]
    assert [
        sum(record[key] for record in records) for key in ("prompt_tokens", "completion_tokens")
    ] == counted
    for record in records:
        _has_energy(record)


def the_books_hold_every_request(pair: Pair) -> None:
    """What all requests were charged, whatever became of them, is what the books charge to requests."""
    pair.until_engine_has(running=0, waiting=0)

    def settled() -> tuple[int, int] | None:
        records, books = pair.records(), pair.books()
        charged = sum(record["energy_uj"] or 0 for record in records)
        done = all(record["state"] == "final" for record in records)
        return (charged, books["requests_uj"]) if done and charged == books["requests_uj"] else None

    charged, _ = until(settled, "books that agree with the records")
    assert charged > 0
    assert pair.books()["balanced"] is True


SCENARIOS: Final[tuple[Callable[[Pair], None], ...]] = (
    streamed_to_the_end,
    streamed_without_asking_for_usage,
    a_single_token_in_a_stream,
    answered_whole,
    three_choices_are_one_request,
    several_prompts_are_one_request,
    refused_by_the_engine,
    left_while_streaming,
    left_while_waiting_for_a_whole_answer,
    left_while_queued,
    left_after_the_last_token,
    left_with_three_choices,
    one_request_id_twice_is_two_requests,
    tokens_are_those_the_engine_counted,
    the_books_hold_every_request,
)


def fill_the_engine(pair: Pair, stack: ExitStack) -> None:
    """One request with a choice for each slot, running until `stack` is left.

    It is not streamed: the HTTP process of a real vLLM is kept so busy by four fast streams that it answers
    nobody else (5 s without an answer to /metrics were seen with a model of 2.4 ms a step).
    """
    body = chat_body(pair.model, **{**SAMPLED, "n": SLOTS, "max_tokens": LONG})
    stack.enter_context(_bare_request(pair, _new_id("slots"), body))
    pair.until_engine_has(running=SLOTS)


def _new_id(what: str) -> str:
    return f"{what}-{uuid4().hex}"


def _post(pair: Pair, request_id: str, body: dict[str, Any]) -> dict[str, Any]:
    url = f"{pair.proxied_url}/v1/chat/completions"
    answer = httpx.post(url, json=body, headers={"x-request-id": request_id}, timeout=60, verify=NO_TLS)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


@contextmanager
def open_stream(
    pair: Pair, request_id: str, body: dict[str, Any], path: str = "/v1/chat/completions"
) -> Iterator[Iterator[str]]:
    """The lines of a streamed answer. Leaving the block closes the connection, wherever the stream is."""
    headers = {"x-request-id": request_id}
    with (
        httpx.Client(timeout=60, verify=NO_TLS) as client,
        client.stream("POST", pair.proxied_url + path, json=body, headers=headers) as response,
    ):
        response.raise_for_status()
        yield response.iter_lines()


@contextmanager
def _bare_request(pair: Pair, request_id: str, body: dict[str, Any]) -> Iterator[None]:
    """A request on a bare socket, which is closed at the end of the block without reading anything."""
    address = urlsplit(pair.proxied_url)
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-type: application/json\r\n"
        f"x-request-id: {request_id}\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname or "", address.port or 80), timeout=10) as connection:
        connection.sendall(head.encode() + content)
        yield


def _same_tokens(record: dict[str, Any], usage: dict[str, Any]) -> None:
    assert record["prompt_tokens"] == usage["prompt_tokens"]
    assert record["completion_tokens"] == usage["completion_tokens"]


def _has_energy(record: dict[str, Any]) -> None:
    assert record["energy_uj"] is not None, record
    assert record["energy_uj"] > 0, record
    assert record["energy_uj"] == sum(gpu["energy_uj"] for gpu in record["gpus"]), record
