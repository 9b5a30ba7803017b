"""What a client asked for, read once from its request, and the body that goes upstream."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec

Headers = Sequence[tuple[bytes, bytes]]

USAGE_ROUTES = ("/v1/chat/completions", "/v1/completions")
"""Routes whose streams give usage only when asked for it with `stream_options`."""

TENANT_HEADERS = (b"x-joulegate-tenant", b"openai-project")
FREE_ROUTES = ("/tokenize", "/detokenize", "/cancel", "/load_lora_adapter", "/unload_lora_adapter")
"""Endings of POST routes that do no work on a GPU."""

_TRUE = (True, 1, "true", "True", "TRUE", "1", "yes", "on", "t", "y", "Yes", "On")
"""What vLLM's pydantic models take for true."""

_HEADER_SAFE = re.compile(r"[ -~]{1,512}").fullmatch
"""Whether a text of a body can stand in a header of the answer: one short line of ASCII."""

_ADD_USAGE = b'"stream_options":{"include_usage":true}}'


class _Body(msgspec.Struct):
    """The fields of a body that matter here; all others are skipped unread."""

    model: Any = None
    stream: Any = False
    stream_options: Any = None
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    request_id: Any = None
    n: Any = None


_decoder = msgspec.json.Decoder(_Body)


@dataclass(slots=True)
class Ask:
    """One request as the proxy understands it."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    request_id: str
    send_request_id: bool
    """Whether the engine is to be told the id: the client gave none, and none is in the body."""
    tenant: str | None
    model: str | None
    streamed: bool
    accounted: bool
    sequences: int = 1
    """Sequences that the engine decodes side by side: `n` times the number of prompts."""
    wants_usage: bool = False
    forced_body: bytes | None = None
    """The body with usage asked for, where the client did not ask but the proxy needs to know."""


def header(headers: Headers, name: bytes) -> str | None:
    """The value of the first header of that (lower case) name."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return None


def understand(method: str, path: str, query: bytes, headers: Headers, body: bytes) -> Ask:
    """Never fails: what cannot be understood is passed on for the engine to judge."""
    given_id = header(headers, b"x-request-id")
    ask = Ask(
        method=method,
        path=path,
        query=query,
        headers=headers,
        body=body,
        request_id=given_id or str(uuid4()),
        send_request_id=given_id is None,
        tenant=_tenant(headers),
        model=None,
        streamed=False,
        accounted=method == "POST" and not path.endswith(FREE_ROUTES),
    )
    if method != "POST" or not body or "json" not in (header(headers, b"content-type") or ""):
        return ask
    try:
        parsed = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ask
    ask.model = parsed.model if isinstance(parsed.model, str) else None
    ask.streamed = _true(parsed.stream)
    ask.sequences = _sequences(parsed)
    if given_id is None and isinstance(parsed.request_id, str) and parsed.request_id:
        ask.send_request_id = False  # the engine takes a header before the body
        if _HEADER_SAFE(parsed.request_id):
            ask.request_id = parsed.request_id
    if ask.streamed and path in USAGE_ROUTES:
        _look_at_usage(ask, parsed)
    return ask


def utf8_or_latin1(value: bytes) -> str:
    """Text of a header's value. Clients mean UTF-8; every byte is something in Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _tenant(headers: Headers) -> str | None:
    given = dict(reversed(headers))
    return next((utf8_or_latin1(given[name]) for name in TENANT_HEADERS if given.get(name)), None)


def _true(value: Any) -> bool:
    return any(value == true and type(value) is type(true) for true in _TRUE)


MOST_SEQUENCES = 10_000


def _sequences(parsed: _Body) -> int:
    n = parsed.n if isinstance(parsed.n, int) and 1 <= parsed.n <= MOST_SEQUENCES else 1
    prompts = 1
    if bytes(memoryview(parsed.prompt)[:1]) == b"[":
        prompt = msgspec.json.decode(parsed.prompt)
        if prompt and not isinstance(prompt[0], int):  # a list of numbers is one prompt of token ids
            prompts = len(prompt)
    return min(n * prompts, MOST_SEQUENCES)


def _look_at_usage(ask: Ask, parsed: _Body) -> None:
    options = parsed.stream_options
    if isinstance(options, dict) and _true(options.get("include_usage")):
        ask.wants_usage = True
        return
    needed = parsed.messages if ask.path == "/v1/chat/completions" else parsed.prompt
    sound = options is None or (
        isinstance(options, dict) and options.get("include_usage") in (None, False) and len(options) <= 8
    )
    if not sound or not needed or parsed.model is None:
        return  # the engine will refuse it: let it see the very body
    # Of two keys of one name JSON readers take the last, so appending overrides what the client sent and
    # leaves every other byte as it was.
    ask.forced_body = ask.body.rstrip()[:-1] + b"," + _ADD_USAGE
