"""The HTTP surface: vLLM's shapes, field by field, its errors, and what the fields of a request do."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx
import openai
import pytest

from simulator.process import SimulatedEngine
from tests.simulator.conftest import the_account

MESSAGES = [{"role": "user", "content": "the time of the world and people"}]
USAGE = [
    "prompt_tokens",
    "total_tokens",
    "completion_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
]
METRICS = [
    "time_to_first_token_ms",
    "generation_time_ms",
    "queue_time_ms",
    "mean_itl_ms",
    "tokens_per_second",
]


def events(text: str) -> list[dict[str, Any]]:
    """The JSON events of a stream; checks that it ends as a stream should."""
    parts = text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def stream(client: httpx.Client, path: str, **fields: Any) -> list[dict[str, Any]]:
    answer = client.post(path, json={"stream": True, "temperature": 0, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    return events(answer.text)


def test_a_chat_answer_has_vllms_fields_in_vllms_order(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/chat/completions",
        json={"model": "tiny", "messages": MESSAGES, "max_tokens": 8, "ignore_eos": True},
        headers={"X-Request-Id": "req-abc"},
    )
    body = answer.json()
    assert answer.headers["x-request-id"] == "req-abc"
    assert body["id"] == "chatcmpl-req-abc"
    assert list(body) == [
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"),
        *("prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params", "ec_transfer_params"),
        "metrics",
    ]
    choice = body["choices"][0]
    assert list(choice) == [
        *("index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids", "routed_experts")
    ]
    assert list(choice["message"]) == [
        *("role", "content", "refusal", "annotations", "audio", "function_call", "reasoning")
    ]
    assert choice["finish_reason"] == "length"
    assert list(body["usage"]) == USAGE
    assert body["usage"]["completion_tokens"] == 8
    assert body["usage"]["prompt_tokens_details"].keys() == {
        *("cached_tokens", "created_cache_tokens", "multimodal_tokens")
    }
    assert list(body["metrics"]) == [*METRICS, "speculative_decoding"]


def test_a_text_completion_has_vllms_fields_in_vllms_order(client: httpx.Client) -> None:
    body = client.post("/v1/completions", json={"prompt": "the time", "return_token_ids": True}).json()
    assert list(body) == [
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"),
        *("kv_transfer_params", "ec_transfer_params", "metrics"),
    ]
    assert list(body["choices"][0]) == [
        *("index", "text", "logprobs", "finish_reason", "stop_reason", "token_ids", "prompt_logprobs"),
        *("prompt_token_ids", "routed_experts"),
    ]
    assert len(body["choices"][0]["token_ids"]) == body["usage"]["completion_tokens"] <= 16
    assert body["id"].startswith("cmpl-")


def test_a_plain_chat_stream_has_the_fingerprint_on_its_last_chunk_and_no_usage(client: httpx.Client) -> None:
    chunks = stream(client, "/v1/chat/completions", messages=MESSAGES, max_tokens=4, ignore_eos=True)
    assert len(chunks) == 5
    head = ["id", "object", "created", "model", "choices"]
    assert list(chunks[0]) == [*head, "prompt_token_ids", "prompt_text"]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(list(chunk) == head for chunk in chunks[1:4])
    assert list(chunks[1]["choices"][0]) == ["index", "delta", "logprobs", "finish_reason", "token_ids"]
    assert list(chunks[4]) == [*head, "system_fingerprint"]
    last = chunks[4]["choices"][0]
    assert list(last) == ["index", "delta", "logprobs", "finish_reason", "stop_reason", "token_ids"]
    assert last["finish_reason"] == "length"


def test_a_chat_stream_with_usage_ends_with_a_usage_chunk(client: httpx.Client) -> None:
    chunks = stream(
        client,
        "/v1/chat/completions",
        messages=MESSAGES,
        max_tokens=4,
        ignore_eos=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3, 4, 4]
    assert list(chunks[1]["usage"]) == [
        *("prompt_tokens", "total_tokens", "completion_tokens", "completion_tokens_details")
    ]
    assert "system_fingerprint" not in chunks[-2]
    final = chunks[-1]
    assert list(final) == [
        *("id", "object", "created", "model", "choices", "usage", "system_fingerprint", "metrics")
    ]
    assert final["choices"] == []
    assert list(final["metrics"]) == METRICS
    assert final["usage"]["prompt_tokens_details"].keys() == {"cached_tokens", "created_cache_tokens"}


def test_continuous_usage_needs_include_usage(client: httpx.Client) -> None:
    chunks = stream(
        client,
        "/v1/chat/completions",
        messages=MESSAGES,
        max_tokens=3,
        stream_options={"continuous_usage_stats": True},
    )
    assert all("usage" not in chunk for chunk in chunks)


def test_a_text_stream_has_no_role_chunk(client: httpx.Client) -> None:
    chunks = stream(
        client,
        "/v1/completions",
        prompt="the time",
        max_tokens=3,
        ignore_eos=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 3]
    assert list(chunks[0]["choices"][0]) == [
        *("index", "text", "logprobs", "finish_reason", "stop_reason", "prompt_token_ids", "token_ids")
    ]
    assert list(chunks[0]["usage"]) == ["prompt_tokens", "total_tokens", "completion_tokens"]
    assert chunks[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_several_answers_count_the_prompt_once_and_have_no_metrics(client: httpx.Client) -> None:
    fields = {"messages": MESSAGES, "max_tokens": 4, "n": 3, "ignore_eos": True, "temperature": 0}
    body = client.post("/v1/chat/completions", json=fields).json()
    one = client.post("/v1/chat/completions", json={**fields, "n": 1}).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] == 12
    assert body["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert body["metrics"] is None
    chunks = stream(client, "/v1/chat/completions", **fields, stream_options={"include_usage": True})
    said = dict.fromkeys(range(3), "")
    for chunk in chunks:
        for choice in chunk["choices"]:
            said[choice["index"]] += choice["delta"].get("content", "")
    assert [said[k] for k in range(3)] == [choice["message"]["content"] for choice in body["choices"]]
    assert "metrics" not in chunks[-1]


def test_prompts_may_be_texts_or_token_ids_and_several(client: httpx.Client) -> None:
    tokens = client.post("/tokenize", json={"prompt": "of the world"}).json()["tokens"]
    assert client.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": "of the world"}
    fields = {"max_tokens": 3, "temperature": 0, "ignore_eos": True}
    texts = client.post("/v1/completions", json={"prompt": ["of the world", "by"], **fields}).json()
    ids = client.post("/v1/completions", json={"prompt": tokens, **fields}).json()
    assert texts["choices"][0]["text"] == ids["choices"][0]["text"]
    assert texts["usage"]["prompt_tokens"] == len(tokens) + 1
    assert [choice["index"] for choice in texts["choices"]] == [0, 1]


def test_an_image_counts_256_prompt_tokens(client: httpx.Client) -> None:
    def usage(*parts: dict[str, Any]) -> dict[str, Any]:
        content = [{"type": "text", "text": "what is this"}, *parts]
        fields = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
        found: dict[str, Any] = client.post("/v1/chat/completions", json=fields).json()["usage"]
        return found

    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with_image, without = usage(image), usage()
    assert with_image["prompt_tokens"] - without["prompt_tokens"] == 256
    assert with_image["prompt_tokens_details"]["multimodal_tokens"] == 256


def test_a_repeated_prompt_reports_cached_tokens(client: httpx.Client) -> None:
    fields = {"prompt": "a prompt that nobody else has sent " * 10, "max_tokens": 1}
    first, second = (client.post("/v1/completions", json=fields).json()["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    cached = second["prompt_tokens_details"]["cached_tokens"]
    assert second["prompt_tokens"] - 16 <= cached < second["prompt_tokens"]


def test_a_stop_string_ends_the_answer(client: httpx.Client) -> None:
    fields = {"prompt": "again", "max_tokens": 20, "temperature": 0, "ignore_eos": True}
    whole = client.post("/v1/completions", json=fields).json()["choices"][0]["text"]
    words = whole.split(" ")
    stopped = client.post("/v1/completions", json={**fields, "stop": [words[5]]}).json()["choices"][0]
    assert stopped["text"] == whole[: whole.index(words[5])]
    assert (stopped["finish_reason"], stopped["stop_reason"]) == ("stop", words[5])
    chunks = stream(client, "/v1/completions", **fields, stop=words[5])
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == stopped["text"]


def test_a_required_tool_is_called(client: httpx.Client) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    fields = {"messages": MESSAGES, "tools": [tool], "tool_choice": "required"}
    choice = client.post("/v1/chat/completions", json=fields).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": "{}"}
    chunks = stream(client, "/v1/chat/completions", **fields)
    calls = [c["choices"][0]["delta"]["tool_calls"][0]["function"] for c in chunks[1:]]
    assert calls == [{"name": "look", "arguments": ""}, {"arguments": "{}"}]


def test_logprobs_come_one_per_token(client: httpx.Client) -> None:
    fields = {"messages": MESSAGES, "max_tokens": 3, "logprobs": True, "top_logprobs": 2, "ignore_eos": True}
    content = client.post("/v1/chat/completions", json=fields).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 3
    assert list(content[0]) == ["token", "logprob", "bytes", "top_logprobs"]
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 for entry in content)
    text = client.post("/v1/completions", json={"prompt": "x", "logprobs": 1, "max_tokens": 3}).json()
    assert list(text["choices"][0]["logprobs"]) == [
        *("text_offset", "token_logprobs", "tokens", "top_logprobs")
    ]


def test_embeddings_are_unit_vectors_in_both_codings(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/embeddings", json={"input": ["the time of", "the world"]}, headers={"X-Request-Id": "emb"}
    )
    body = answer.json()
    assert list(body) == ["id", "object", "created", "model", "data", "usage"]
    assert body["id"] == "embd-emb"
    vector = body["data"][0]["embedding"]
    assert sum(value * value for value in vector) == pytest.approx(1.0)
    coded = client.post("/v1/embeddings", json={"input": "the time of", "encoding_format": "base64"}).json()
    raw = base64.b64decode(coded["data"][0]["embedding"])
    assert struct.unpack(f"<{len(vector)}f", raw) == pytest.approx(vector, rel=1e-6)
    account = the_account(client, "emb")
    assert account["prefill_uj"] > 0
    assert account["decode_uj"] == account["completion_tokens"] == 0


def test_the_small_routes_answer_as_vllm_does(client: httpx.Client) -> None:
    assert client.get("/health").content == client.get("/ping").content == b""
    assert client.get("/version").json() == {"version": "0.32.0"}
    assert client.get("/load").json().keys() == {"server_load"}
    card = client.get("/v1/models").json()["data"][0]
    assert (card["id"], card["max_model_len"], card["owned_by"]) == ("tiny", 2048, "vllm")
    assert client.get("/v1/models/tiny").json() == card


LONG = "word " * 2100


@pytest.mark.parametrize(
    ("path", "sent", "status", "kind", "param"),
    [
        ("/v1/chat/completions", b"{bad", 400, "Bad Request", "body.1"),
        ("/v1/chat/completions", {"model": "nope", "messages": MESSAGES}, 404, "NotFoundError", "model"),
        ("/v1/chat/completions", {"max_tokens": 3}, 400, "Bad Request", "body.messages"),
        ("/v1/chat/completions", {"messages": [{}]}, 400, "Bad Request", "body.messages[0].role"),
        ("/v1/chat/completions", {"messages": []}, 400, "BadRequestError", "messages"),
        ("/v1/completions", {"prompt": "x", "max_tokens": "y"}, 400, "Bad Request", "body.max_tokens"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 0}, 400, "Bad Request", "body.max_tokens"),
        ("/v1/completions", {"prompt": ""}, 400, "BadRequestError", "prompt"),
        ("/v1/completions", {"prompt": ["a", 1]}, 400, "BadRequestError", "prompt"),
        ("/v1/completions", {"prompt": LONG, "max_tokens": 4}, 400, "BadRequestError", "input_tokens"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 4000}, 400, "BadRequestError", "max_tokens"),
        ("/v1/completions", {"prompt": "x", "min_tokens": 99}, 400, "BadRequestError", "min_tokens"),
        ("/detokenize", {"tokens": [10**12]}, 400, "BadRequestError", "tokens"),
    ],
)
def test_errors_have_vllms_shape(
    client: httpx.Client, path: str, sent: object, status: int, kind: str, param: str
) -> None:
    answer = client.post(path, content=sent if isinstance(sent, bytes) else json.dumps(sent))
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (answer.status_code, error["code"], error["type"], error["param"]) == (status, status, kind, param)


def test_the_openai_client_reads_streams_and_answers(engine: SimulatedEngine) -> None:
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none") as sdk:
        whole = sdk.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=5, seed=1
        )
        text = ""
        for chunk in sdk.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=5, seed=1, stream=True
        ):
            text += chunk.choices[0].delta.content or ""
    assert text == whole.choices[0].message.content
