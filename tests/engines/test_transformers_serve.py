"""Through the proxy `transformers serve` looks as it does directly, and its tokens are counted right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from uuid import uuid4

import pytest

from simulator.gpu.board import H100, Board
from simulator.gpu.library import build
from tests.engines.transformers_server import TransformersServer
from tests.engines.vllm_server import tiny_model
from tests.parity.cases import all_cases
from tests.parity.exchange import Case, send
from tests.parity.pair import Pair
from tests.parity.proxy_process import ProxyProcess

pytestmark = pytest.mark.engine

MODEL = str(tiny_model())
USAGE = {"stream_options": {"include_usage": True}}
UUID = "9d1c2c1e-7a5b-4f7e-9a51-3d2b5c6f7a80"
# It refuses every field that it does not know, vLLM's own among them, so vLLM's cases are nearly all about
# its 422. What it computes is greedy here, as what it samples differs from run to run.
LENGTHS = (1, 2, 7, 40)
TEXTS = ("energy", "the time of each request and every token", "größe ∑ 🎉 é")


def _computed() -> list[Case]:
    cases = []
    for length in LENGTHS:
        for text in TEXTS:
            chat = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": length}
            plain = {"model": MODEL, "prompt": text, "max_tokens": length}
            for path, body in (("/v1/chat/completions", chat), ("/v1/completions", plain)):
                name = f"{path}: {length} of {text}"
                cases += [
                    Case(name=name, path=path, body=body),
                    Case(name=f"{name}, streamed", path=path, body={**body, "stream": True}),
                    Case(name=f"{name}, usage", path=path, body={**body, "stream": True, **USAGE}),
                ]
    body = {"model": MODEL, "messages": [{"role": "user", "content": "energy"}], "max_tokens": 4}
    named = (("x-request-id", UUID),)
    return [
        *cases,
        Case(name="named", body=body, headers=named, own_id=True),
        Case(name="named, streamed", body={**body, "stream": True}, headers=named, own_id=True),
        Case(name="another model", body={**body, "model": "none"}, expect_status=400),
    ]


# A completion without a prompt kills its worker for good (5.23).
REFUSED = [case for case in all_cases(MODEL) if "prompt missing" not in case.name]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("transformers")
    Board.create(directory / "board", [H100]).close()
    with (
        TransformersServer(directory / "server.log") as server,
        ProxyProcess(directory / "proxy", server.url, build(directory), [H100.uuid]) as proxy,
    ):
        yield Pair(server.url, proxy.url, server.served)


@pytest.mark.parametrize("case", _computed(), ids=lambda case: case.name)
def test_the_proxy_is_invisible(pair: Pair, case: Case) -> None:
    direct, differences = pair.play(case)
    assert direct.status == case.expect_status, direct.body[:500]
    assert not differences, "\n".join([case.name, *differences])


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_it_refuses_is_refused_in_its_own_words(pair: Pair, case: Case) -> None:
    direct, differences = pair.play(case)
    assert not differences, "\n".join([f"{case.name} ({direct.status})", *differences])


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_tokens_are_those_it_counted_and_have_energy(pair: Pair, streamed: bool) -> None:
    """A stream has fewer events than tokens, no [DONE], and its usage on the last event."""
    request_id = str(uuid4())
    messages = [{"role": "user", "content": "the time of each request"}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 30, "stream": streamed}
    case = Case(name="tokens", body=body, headers=(("x-request-id", request_id),))
    answer = send(pair.proxied_url, case)
    usage = re.search(rb'"completion_tokens":(\d+),"prompt_tokens":(\d+)', answer.body)
    assert usage is not None
    assert b"[DONE]" not in answer.body
    record = pair.record(request_id)
    assert record["status"] == "ok"
    assert [record["completion_tokens"], record["prompt_tokens"]] == [int(count) for count in usage.groups()]
    assert record["energy_uj"] > 0
