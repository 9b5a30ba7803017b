"""Every dialect reads the same through the proxy, wherever it is cut, and its tokens are counted right."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from joulegate.process import ProxyProcess
from simulator.gpu.board import H100, Board
from simulator.gpu.library import build
from tests.dialects.dialects import DIALECTS, TEXT, Dialect
from tests.dialects.replay import Replay
from tests.parity.compare import differences, energy_objects, without_energy
from tests.parity.exchange import Answer, Case, send
from tests.parity.pair import Pair, until

WISHES: dict[str, dict[str, Any]] = {
    "whole": {},
    "streamed": {"stream": True},
    "with usage": {"stream": True, "stream_options": {"include_usage": True}},
}
CHATS = [dialect for dialect in DIALECTS if dialect.path == "/v1/chat/completions"]
ROUNDS = [(dialect, wish, "at once") for dialect in CHATS for wish in WISHES]
if sys.platform == "linux":  # what else tells when a byte was read?
    FORMS = ("vllm", "vllm-forced", "transformers", "llama-cpp", "sglang")
    ROUNDS += [(d, wish, "bytes") for d in CHATS if d.name in FORMS for wish in ("streamed", "with usage")]


@pytest.fixture(scope="module")
def replay() -> Iterator[Replay]:
    with Replay() as server:
        yield server


@pytest.fixture(scope="module")
def pair(replay: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("dialects")
    Board.create(directory / "board", [H100]).close()
    # A backend for each: what the proxy learns of one engine is not for the others.
    backends = [{"id": one.name, "url": replay.url, "models": [one.name]} for one in DIALECTS]
    settings = {"backends": backends, "meter": {"library": str(build(directory))}}
    with ProxyProcess(directory / "proxy", settings) as proxy:
        yield Pair(replay.url, proxy.url, "vllm")


def asking(dialect: Dialect, wish: str, cut: str, request_id: str) -> Case:
    body = {"messages": [{"role": "user", "content": "a joule"}], **dialect.body, "model": dialect.name}
    headers = (("x-request-id", request_id), ("x-cut", cut))
    return Case(name=dialect.name, path=dialect.path, body={**body, **WISHES[wish]}, headers=headers)


def both(pair: Pair, case: Case) -> tuple[Answer, Answer]:
    """The engine's own answer in one piece, and the proxied one cut as the case says."""
    direct = Case(name=case.name, path=case.path, body=case.body, headers=case.headers[:1])
    return send(pair.direct_url, direct), send(pair.proxied_url, case)


Played = dict[tuple[str, str, str], tuple[Case, Answer, Answer, dict[str, Any]]]


@pytest.fixture(scope="module")
def played(pair: Pair) -> Played:
    """All rounds, four at a time: what was asked, both answers, and the final record."""
    cases = [asking(dialect, wish, cut, str(uuid4())) for dialect, wish, cut in ROUNDS]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda case: both(pair, case), cases))
    ids = [str(case.headers[0][1]) for case in cases]

    def all_final() -> dict[str, dict[str, Any]] | None:
        found = {record["request_id"]: record for record in pair.records()}
        return found if all(found.get(one, {}).get("state") == "final" for one in ids) else None

    records = until(all_final, "final records of all rounds")
    return {
        (dialect.name, wish, cut): (case, *answer, records[one])
        for (dialect, wish, cut), case, answer, one in zip(ROUNDS, cases, answers, ids, strict=True)
    }


def round_id(value: object) -> str:
    return value.name if isinstance(value, Dialect) else str(value)


@pytest.mark.parametrize(("dialect", "wish", "cut"), ROUNDS, ids=round_id)
def test_an_answer_is_the_same_but_for_the_energy(
    played: Played, dialect: Dialect, wish: str, cut: str
) -> None:
    case, direct, proxied, record = played[dialect.name, wish, cut]
    assert direct.status == 200
    assert differences(direct, proxied, case) == []
    assert without_energy(proxied.body) == direct.body
    told = energy_objects(proxied.body)
    assert len(told) == (b'"completion_tokens"' in direct.body)
    assert {energy["request_id"] for energy in told} <= {record["request_id"]}


@pytest.mark.parametrize(("dialect", "wish", "cut"), ROUNDS, ids=round_id)
def test_a_record_has_the_tokens_that_the_engine_counted(
    played: Played, dialect: Dialect, wish: str, cut: str
) -> None:
    *_, record = played[dialect.name, wish, cut]
    assert (record["status"], record["streamed"]) == ("ok", wish != "whole")
    assert record["energy_uj"] > 0
    counts = (record["prompt_tokens"], record["completion_tokens"])
    expected = (dialect.prompt_tokens, dialect.completion_tokens, "engine")
    if dialect.name.startswith("llama-cpp") and wish != "whole":
        expected = (None, len(TEXT), "stream")  # it tells none in a stream: its events are counted
    assert (*counts, record["tokens_from"]) == expected


def test_an_image_passes_and_has_energy_but_no_tokens(pair: Pair) -> None:
    (dialect,) = (dialect for dialect in DIALECTS if dialect.name == "sglang-image")
    request_id = str(uuid4())
    case = asking(dialect, "whole", "bytes" if sys.platform == "linux" else "at once", request_id)
    direct, proxied = both(pair, case)
    assert without_energy(proxied.body) == direct.body
    record = pair.record(request_id)
    assert (record["prompt_tokens"], record["completion_tokens"], record["status"]) == (None, None, "ok")
    assert record["energy_uj"] > 0


def test_an_empty_refusal_passes_and_who_names_no_id_does_not_get_it(pair: Pair) -> None:
    """llama-cpp-python answers an empty 400 to an id that is no UUID."""
    (dialect,) = (dialect for dialect in DIALECTS if dialect.name == "llama-cpp")
    odd = asking(dialect, "streamed", "at once", f"no-uuid-{uuid4().hex}")
    direct, proxied = both(pair, odd)
    assert (direct.status, direct.body) == (proxied.status, proxied.body) == (400, b"")
    assert pair.record(odd.headers[0][1])["status"] == "client_error"  # type: ignore[arg-type]
    nameless = Case(name="nameless", body=odd.body)
    assert send(pair.proxied_url, nameless).status == 200


def test_an_engine_is_asked_for_usage_but_nothing_else_of_the_request_changes(
    pair: Pair, replay: Replay
) -> None:
    (dialect,) = (dialect for dialect in DIALECTS if dialect.name == "vllm")
    case = asking(dialect, "streamed", "at once", str(uuid4()))
    send(pair.proxied_url, case)
    assert isinstance(case.body, dict)
    assert replay.requests[-1].wants_usage
    assert {key: replay.requests[-1].body[key] for key in case.body} == json.loads(json.dumps(case.body))
