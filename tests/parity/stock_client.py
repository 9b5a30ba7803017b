"""The stock `openai` client works through the proxy as it does without, and sees the energy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import openai

from tests.parity.bodies import PROMPT
from tests.parity.pair import Pair

SAY: Final[list[Any]] = [{"role": "user", "content": PROMPT}]
FIXED: Final[dict[str, Any]] = {
    "temperature": 0,
    "seed": 7,
    "max_tokens": 8,
    "extra_body": {"ignore_eos": True},
}


def chat(pair: Pair) -> None:
    with _client(pair) as client:
        answer = client.chat.completions.create(model=pair.model, messages=SAY, **FIXED)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    _check(_extra(answer))


def chat_streamed(pair: Pair) -> None:
    with _client(pair) as client:
        chunks = list(
            client.chat.completions.create(
                model=pair.model, messages=SAY, stream=True, stream_options={"include_usage": True}, **FIXED
            )
        )
    assert chunks[-1].usage is not None
    _check(_extra(chunks[-1]))
    assert not [chunk for chunk in chunks[:-1] if "energy" in (chunk.model_extra or {})]


def chat_streamed_without_usage(pair: Pair) -> None:
    with _client(pair) as client:
        chunks = list(client.chat.completions.create(model=pair.model, messages=SAY, stream=True, **FIXED))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].system_fingerprint


def completions(pair: Pair) -> None:
    with _client(pair) as client:
        answer = client.completions.create(model=pair.model, prompt=PROMPT, **FIXED)
        chunks = list(
            client.completions.create(
                model=pair.model, prompt=PROMPT, stream=True, stream_options={"include_usage": True}, **FIXED
            )
        )
    _check(_extra(answer))
    _check(_extra(chunks[-1]))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == answer.choices[0].text


def raw_answers_and_request_ids(pair: Pair) -> None:
    with _client(pair) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=pair.model, messages=SAY, extra_headers={"x-request-id": "from-the-client"}, **FIXED
        )
    assert raw.headers["x-request-id"] == "from-the-client"
    assert raw.parse().id == "chatcmpl-from-the-client"


def models(pair: Pair) -> None:
    with _client(pair) as client:
        assert [model.id for model in client.models.list()] == [pair.model]
    with _client(pair) as proxied, _client(pair, pair.direct_url) as direct:
        assert _outcome(lambda: proxied.models.retrieve(pair.model)) == _outcome(
            lambda: direct.models.retrieve(pair.model)
        )


def errors(pair: Pair) -> None:
    def ask(client: openai.OpenAI) -> Callable[[], object]:
        return lambda: client.chat.completions.create(model="none", messages=SAY)

    with _client(pair) as proxied, _client(pair, pair.direct_url) as direct:
        assert _outcome(ask(proxied)) == _outcome(ask(direct)) == "NotFoundError 404"


def responses(pair: Pair) -> None:
    with _client(pair) as client:
        if not pair.serves_responses:
            assert (
                _outcome(lambda: client.responses.create(model=pair.model, input=PROMPT))
                == "NotFoundError 404"
            )
            return
        answer = client.responses.create(model=pair.model, input=PROMPT, max_output_tokens=8, temperature=0)
        events = list(
            client.responses.create(
                model=pair.model, input=PROMPT, max_output_tokens=8, temperature=0, stream=True
            )
        )
    assert answer.usage is not None
    assert answer.usage.output_tokens == 8
    _check(_extra(answer))
    assert events[-1].type == "response.completed"
    _check(_extra(events[-1]))


def embeddings(pair: Pair) -> None:
    with _client(pair) as client:
        if not pair.serves_embeddings:
            assert (
                _outcome(lambda: client.embeddings.create(model=pair.model, input=PROMPT))
                == "NotFoundError 404"
            )
            return
        answer = client.embeddings.create(model=pair.model, input=[PROMPT, "last"])
    assert [len(item.embedding) for item in answer.data] == [len(answer.data[0].embedding)] * 2
    _check(_extra(answer))


def asynchronous(pair: Pair) -> None:
    asyncio.run(_asynchronous(pair))


async def _asynchronous(pair: Pair) -> None:
    async with openai.AsyncOpenAI(base_url=f"{pair.proxied_url}/v1", api_key="none", max_retries=0) as client:
        whole, stream = await asyncio.gather(
            client.chat.completions.create(model=pair.model, messages=SAY, **FIXED),
            client.chat.completions.create(
                model=pair.model, messages=SAY, stream=True, stream_options={"include_usage": True}, **FIXED
            ),
        )
        chunks = [chunk async for chunk in stream]
        assert [model.id async for model in client.models.list()] == [pair.model]
    _check(_extra(whole))
    _check(_extra(chunks[-1]))


CALLS: Final[tuple[Callable[[Pair], None], ...]] = (
    chat,
    chat_streamed,
    chat_streamed_without_usage,
    completions,
    raw_answers_and_request_ids,
    models,
    errors,
    responses,
    embeddings,
    asynchronous,
)


def _client(pair: Pair, url: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url or pair.proxied_url}/v1", api_key="none", max_retries=0)


def _extra(answer: Any) -> Any:
    """What the client did not know, read as a user would."""
    return answer.energy


def _check(energy: dict[str, Any]) -> None:
    assert energy["energy_joules"] is not None
    assert energy["energy_joules"] >= 0
    assert energy["duration_seconds"] > 0
    assert energy["attribution_method"]
    assert energy["state"] in ("provisional", "final")


def _outcome(call: Callable[[], object]) -> str:
    """The result's type, or the error as the client tells it."""
    try:
        return type(call()).__name__
    except openai.APIStatusError as error:
        return f"{type(error).__name__} {error.status_code}"
