"""vLLM started in other ways: embeddings, forced usage, keep-alive comments; and its death."""

from __future__ import annotations

import json
from contextlib import ExitStack
from uuid import uuid4

import pytest

from tests.engines.vllm_server import VllmServer
from tests.parity import stock_client
from tests.parity.bodies import chat_body
from tests.parity.cases import all_cases
from tests.parity.exchange import Case
from tests.parity.lifecycle import LONG, fill_the_engine, open_stream
from tests.parity.pair import Pair

pytestmark = pytest.mark.engine
STREAMS = [
    case
    for case in all_cases(VllmServer.model)
    if "stream: usage" in case.name or "three choices, streamed" in case.name
]
TEXTS = ["the energy of each request", "and the last one"]


def embedding(name: str, expect_status: int = 200, **more: object) -> Case:
    body = {"model": VllmServer.model, "input": TEXTS, **more}
    return Case(name=name, path="/v1/embeddings", body=body, expect_status=expect_status)


EMBEDDINGS = [
    embedding("as numbers"),
    embedding("as base64", encoding_format="base64"),
    embedding("of one text", input=TEXTS[0]),
    embedding("of token ids", input=[[20, 30], [40]]),
    embedding("stream asked for", stream=True),
    embedding("of nothing", 400, input=[]),
    embedding("of an unknown model", 404, model="none"),
    Case(name="pooling", path="/pooling", body={"model": VllmServer.model, "input": TEXTS}),
    Case(name="chat", body=chat_body(VllmServer.model), expect_status=404),
]


@pytest.mark.parametrize("case", EMBEDDINGS, ids=lambda case: case.name)
def test_embeddings_look_the_same_through_the_proxy(pooling: Pair, case: Case) -> None:
    direct, differences = pooling.play(case)
    assert not differences, "\n".join(differences)
    assert direct.status == case.expect_status, direct.body[:500]


def test_the_stock_client_sees_the_energy_of_embeddings(pooling: Pair) -> None:
    stock_client.embeddings(pooling)


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.name)
def test_streams_with_forced_usage_look_the_same_through_the_proxy(
    forced: tuple[VllmServer, Pair], case: Case
) -> None:
    _, pair = forced
    direct, differences = pair.play(case)
    assert b'"usage":{' in direct.body  # the engine is indeed forced
    assert not differences, "\n".join(differences)


def test_keep_alive_comments_pass_while_a_request_is_queued(forced: tuple[VllmServer, Pair]) -> None:
    _, pair = forced
    long = chat_body(pair.model, stream=True, max_tokens=LONG)
    with ExitStack() as others:
        fill_the_engine(pair, others)  # whoever comes now has to wait
        queued = others.enter_context(open_stream(pair, uuid4().hex, long))
        assert next(queued) == ": keep-alive"


def test_a_request_whose_engine_dies_is_recorded_as_an_engine_error(forced: tuple[VllmServer, Pair]) -> None:
    """The last test of this module: it leaves no engine."""
    vllm, pair = forced
    request_id = f"orphan-{uuid4().hex}"
    with open_stream(pair, request_id, chat_body(pair.model, stream=True, max_tokens=LONG)) as lines:
        next(lines)
        vllm.kill()
        rest = [line for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "backend_failed"
    record = pair.record(request_id)
    assert record["status"] == "engine_error"
    assert record["error"]
    assert record["energy_uj"] > 0
