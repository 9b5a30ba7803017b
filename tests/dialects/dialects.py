"""What several engines answer to a request, in the form in which each was seen to write it (2026-11).

vLLM 0.32, `transformers serve` 5.23, llama-cpp-python (JSON with spaces), SGLang 0.5. All answers are made
up here; ids and times are fixed, so that two answers to one request are equal to the byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TEXT: Final = ["Größe", " ∑ of", " \U0001f389 joules", " عدد", ' ,"usage":{"a":1} [DONE]']
"""Five pieces of text: two to four bytes per character, and what looks like an end but is text."""
TOKENS: Final = 7
"""As counted by the engine: two of the pieces are two tokens."""
PROMPT_TOKENS: Final = 11
TIMES: Final = {"time_to_first_token_ms": 4.8, "generation_time_ms": 13.3, "queue_time_ms": 4373.5}


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def wants_usage(self) -> bool:
        return bool((self.body.get("stream_options") or {}).get("include_usage"))


@dataclass(frozen=True)
class Reply:
    """An answer. A stream is framed with an HTTP chunk for each of `pieces`, other bodies by their length."""

    pieces: list[bytes]
    status: str = "200 OK"
    headers: tuple[str, ...] = ()
    to_the_end: bool = False
    """No length is told: the body ends with the connection."""

    def __bytes__(self) -> bytes:
        streamed = any("event-stream" in line for line in self.headers)
        body = b"".join(self.pieces)
        lines = [f"HTTP/1.1 {self.status}", "date: Thu, 01 Jan 2026 00:00:00 GMT", "server: uvicorn"]
        lines += self.headers
        if self.to_the_end:
            framed = body
        elif streamed:
            lines.append("Transfer-Encoding: chunked")
            framed = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in self.pieces) + b"0\r\n\r\n"
        else:
            lines.append(f"content-length: {len(body)}")
            framed = body
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + framed


@dataclass(frozen=True)
class Dialect:
    """`answer` serves requests for the model `name`. Tokens are what the record has to say: None where the
    engine tells nothing."""

    name: str
    answer: Callable[[Request], Reply]
    body: dict[str, Any] = field(default_factory=dict)
    path: str = "/v1/chat/completions"
    completion_tokens: int | None = TOKENS
    prompt_tokens: int | None = PROMPT_TOKENS
    status: str = "ok"


STREAM: Final = "content-type: text/event-stream; charset=utf-8"
JSON: Final = "content-type: application/json"
DONE: Final = b"data: [DONE]\n\n"


def event(document: object, *, spaced: bool = False) -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    return f"data: {json.dumps(document, ensure_ascii=False, separators=separators)}\n\n".encode()


def usage(**more: object) -> dict[str, object]:
    total = PROMPT_TOKENS + TOKENS
    return {"prompt_tokens": PROMPT_TOKENS, "total_tokens": total, "completion_tokens": TOKENS, **more}


def whole(kind: str, choice: dict[str, Any], counts: dict[str, object], *, spaced: bool = False) -> Reply:
    separators = (", ", ": ") if spaced else (",", ":")
    document = {"id": "chatcmpl-1", "object": kind, "created": 1, "choices": [choice], "usage": counts}
    return Reply([json.dumps(document, ensure_ascii=False, separators=separators).encode()], headers=(JSON,))


def message(finish: str = "length") -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": "".join(TEXT)}, "finish_reason": finish}


# ---- vLLM ----


def vllm(request: Request, *, comments: bool = False, forced: bool = False, times: bool = True) -> Reply:
    """`comments`: --sse-keep-alive-interval; `forced`: --enable-force-include-usage; `times`:
    --enable-per-request-metrics."""
    extra: dict[str, Any] = {"system_fingerprint": "vllm-0.32.0-x"}
    metrics: dict[str, Any] = {"metrics": TIMES} if times else {}
    if not request.streamed:
        reply = whole("chat.completion", message(), usage(prompt_tokens_details={"cached_tokens": 0}))
        ending = json.dumps({**extra, **metrics}, separators=(",", ":")).encode()
        return Reply([reply.pieces[0][:-1] + b"," + ending[1:]], headers=(JSON, "vary: Origin"))
    every = {"usage": usage()} if forced else {}

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "v"}
        return event({**head, "choices": [choice], **every, **more})

    *texts, last = TEXT
    counted = request.wants_usage or forced
    pieces = [b": keep-alive\n\n", b": keep-alive\n\n"] if comments else []
    pieces += [chunk({"role": "assistant", "content": ""})]
    for text in texts:
        pieces += [chunk({"content": text}), *([b": keep-alive\n\n"] if comments else [])]
    pieces.append(chunk({"content": last}, "length", **({} if counted else extra)))
    if counted:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "v"}
        counts = usage(prompt_tokens_details={"cached_tokens": 0})
        pieces.append(event({**head, "choices": [], "usage": counts, **extra, **metrics}))
    return Reply([*pieces, DONE], headers=(STREAM, "vary: Origin"))


def vllm_with_comments(request: Request) -> Reply:
    return vllm(request, comments=True)


def vllm_forced(request: Request) -> Reply:
    return vllm(request, forced=True)


def vllm_bare(request: Request) -> Reply:
    return vllm(request, times=False)


# ---- transformers serve ----


def transformers(request: Request) -> Reply:
    """No [DONE], usage on the last chunk unasked, the id is that of the request."""
    name = request.headers.get("x-request-id", "8c0f6d80-0d8c-4a55-9b7e-1f2a3b4c5d6e")
    headers = f"x-request-id: {name}"
    if not request.streamed:
        told = usage()
        document = {
            "id": name,
            "choices": [message()],
            "created": 1,
            "object": "chat.completion",
            "usage": told,
        }
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        return Reply([body], headers=(JSON, headers))

    def chunk(delta: dict[str, Any], **more: Any) -> bytes:
        choice = {"delta": delta, "index": 0, **({"finish_reason": "length"} if more else {})}
        rest = {"created": 1, "model": "t@main", "object": "chat.completion.chunk", "system_fingerprint": ""}
        return event({"id": name, "choices": [choice], **rest, **more})

    texts = [chunk({"content": text}) for text in TEXT]
    return Reply([chunk({"role": "assistant"}), *texts, chunk({}, usage=usage())], headers=(STREAM, headers))


# ---- llama-cpp-python ----


def llama(request: Request, *, cut: bool = False) -> Reply:
    """JSON with spaces, all events at once, never usage in a stream, an empty 400 for an id that is no UUID.
    `cut`: another request took its turn; the stream just ends with [DONE]."""
    name = request.headers.get("x-request-id")
    if name is not None and not UUID.fullmatch(name):
        return Reply([], status="400 Bad Request", headers=("vary: Origin",))
    if not request.streamed:
        return whole("chat.completion", message(), usage(), spaced=True)

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        head = {"id": "chatcmpl-2", "model": "l", "created": 1, "object": "chat.completion.chunk"}
        return event({**head, "choices": [choice]}, spaced=True)

    pieces = [chunk({"role": "assistant"}), *(chunk({"content": text}) for text in TEXT)]
    return Reply([*pieces, *([] if cut else [chunk({}, "length")]), DONE], headers=(STREAM,))


def llama_cut(request: Request) -> Reply:
    return llama(request, cut=True)


# ---- SGLang ----


def sglang(request: Request) -> Reply:
    """`usage: null` on every chunk where usage was asked for; the ends carry `matched_stop`."""
    if not request.streamed:
        return whole("chat.completion", {**message(), "matched_stop": None}, usage(reasoning_tokens=0))

    def chunk(choices: list[dict[str, Any]], counts: dict[str, object] | None = None) -> bytes:
        head = {"id": "5f2c", "object": "chat.completion.chunk", "created": 1, "model": "s"}
        return event({**head, "choices": choices, "usage": counts})

    def part(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        whole_delta = {"role": None, "content": None, "reasoning_content": None, "tool_calls": None, **delta}
        return {"index": 0, "delta": whole_delta, "finish_reason": finish, "matched_stop": None}

    pieces = [chunk([part({"role": "assistant", "content": ""})])]
    pieces += [chunk([part({"content": text})]) for text in TEXT]
    pieces.append(chunk([part({}, "length")]))
    if request.wants_usage:
        pieces.append(chunk([], usage(prompt_tokens_details=None, reasoning_tokens=0)))
    return Reply([*pieces, DONE], headers=(STREAM,))


def sglang_image(request: Request) -> Reply:
    """Its diffusion server: no usage, the time of the work in the body."""
    picture = {"b64_json": "iVBORw0KGgo=", "url": None, "revised_prompt": None}
    document = {"id": "img-1", "created": 1, "data": [picture], "inference_time_s": 0.41, "usage": None}
    return Reply([json.dumps(document, separators=(",", ":")).encode()], headers=(JSON,))


# ---- servers that frame otherwise ----


def to_the_end(request: Request) -> Reply:
    """vLLM's words over a connection whose end is the end of the answer (HTTP/1.0's way)."""
    reply = vllm(request)
    return Reply(reply.pieces, headers=reply.headers, to_the_end=True)


def one_piece(request: Request) -> Reply:
    """All events in one HTTP chunk, as after a stall."""
    reply = vllm(request)
    return Reply([b"".join(reply.pieces)], headers=reply.headers)


DIALECTS: Final = (
    Dialect("vllm", vllm),
    Dialect("vllm-bare", vllm_bare),
    Dialect("vllm-comments", vllm_with_comments),
    Dialect("vllm-forced", vllm_forced),
    Dialect("transformers", transformers),
    Dialect("llama-cpp", llama),
    Dialect("llama-cpp-cut", llama_cut),
    Dialect("sglang", sglang),
    Dialect("to-the-end", to_the_end),
    Dialect("one-piece", one_piece),
    Dialect(
        "sglang-image",
        sglang_image,
        body={"prompt": "a joule", "n": 1},
        path="/v1/images/generations",
        completion_tokens=None,
        prompt_tokens=None,
    ),
)
