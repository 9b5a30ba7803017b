"""What a client asked for, read once from its request, and the body that goes upstream.

A body is never copied here: a forced one is the client's own bytes up to its last brace, and a few more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import getrandbits
from time import time_ns
from typing import Any

import msgspec

from accounting.events import Media
from proxy import lenient
from proxy.media import ask as media_ask
from proxy.media.form import FormFields, form_of

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

_ADD_USAGE = b',"stream_options":{"include_usage":true}}'

_SPACE = b" \t\r\n\x0b\x0c"


class _Body(msgspec.Struct):
    """The fields of a body that matter here; all others are skipped unread."""

    model: Any = None
    stream: Any = False
    stream_options: Any = None
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    request_id: Any = None
    n: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    user: Any = None
    safety_identifier: Any = None


_decoder = msgspec.json.Decoder(_Body)
_list: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list)


@dataclass(slots=True)
class Ask:
    """One request as the proxy understands it."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes | bytearray
    """All of it, or its beginning where it is sent on as it comes."""
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
    max_tokens: int | None = None
    """Of one sequence of the answer, at most; None where the body does not say."""
    body_user: str | None = None
    """Whom the body names."""
    project: str | None = None
    user_id: str | None = None
    api_key: str | None = None
    """Who the virtual key belongs to, and its id."""
    media: Media | None = None
    """Images or videos that it asks for, as far as that is known by now."""
    form: FormFields | None = None
    """Reads the form that says it."""
    naming: FormFields | None = None
    """Reads the form that names the model."""
    forced_at: int | None = None
    """Where the body's last brace is, if usage has to be asked for: the client did not, but the proxy needs
    to know."""

    @property
    def target(self) -> bytes:
        """Path and query as they came."""
        path = self.path.encode("latin-1")
        return path + b"?" + self.query if self.query else path

    @property
    def forced_body(self) -> bytes | None:
        """The body with usage asked for."""
        return None if self.forced_at is None else bytes(self.body[: self.forced_at]) + _ADD_USAGE

    def forced_parts(self) -> list[bytes | memoryview]:
        """The same without a copy of the body."""
        assert self.forced_at is not None
        return [memoryview(self.body)[: self.forced_at], _ADD_USAGE]


def header(headers: Headers, name: bytes) -> str | None:
    """The value of the first header of that (lower case) name."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return None


def new_id() -> str:
    """A UUID that says it is of version 4, which llama-cpp-python insists on. It begins with the time, in
    milliseconds, so that new ones lie together in the store's index; the rest is random. `uuid4` asks the
    kernel for its bits, which takes ten times as long as all of this."""
    digits, bits = f"{time_ns() // 1_000_000:012x}", f"{getrandbits(72):018x}"
    return f"{digits[:8]}-{digits[8:]}-4{bits[:3]}-a{bits[3:6]}-{bits[6:]}"


def understand(method: str, path: str, query: bytes, headers: Headers, body: bytes | bytearray) -> Ask:
    """Never fails: what cannot be understood is passed on for the engine to judge."""
    given = dict(reversed(headers))  # the first of a name counts
    header_id = given.get(b"x-request-id")
    given_id = None if header_id is None else header_id.decode("latin-1")
    ask = Ask(
        method=method,
        path=path,
        query=query,
        headers=headers,
        body=body,
        request_id=given_id or new_id(),
        send_request_id=given_id is None,
        tenant=_tenant(given),
        model=None,
        streamed=False,
        accounted=method == "POST" and not path.endswith(FREE_ROUTES),
    )
    if media_ask.is_media(method, path):
        ask.form = form_of(given, media_ask.FIELDS)
        if ask.form is not None:
            ask.form.feed(body)
        ask.media = (
            media_ask.of_json(path, body) if ask.form is None else media_ask.of_fields(path, ask.form.fields)
        )
    if method != "POST" or not body:
        return ask
    kind = given.get(b"content-type", b"")
    kind = kind.lower()  # RFC 9110, 8.3.1
    if b"json" not in kind:
        ask.naming = form_of(given, ("model",))
        if ask.naming is not None:
            ask.naming.feed(body)
            # A form that names several leaves open which one the engine takes.
            ask.model = None if ask.naming.doubtful else ask.naming.fields.get("model")
        return ask
    parsed = lenient.decode(_decoder, body)
    if parsed is None:
        return ask
    ask.model = parsed.model if isinstance(parsed.model, str) else None
    ask.streamed = parsed.stream is True or (parsed.stream is not False and _true(parsed.stream))
    ask.sequences = _sequences(parsed)
    ask.max_tokens = _most_tokens(parsed)
    user = parsed.safety_identifier or parsed.user
    ask.body_user = user if isinstance(user, str) else None
    if given_id is None and isinstance(parsed.request_id, str) and parsed.request_id:
        ask.send_request_id = False  # the engine takes a header before the body
        if _HEADER_SAFE(parsed.request_id):
            ask.request_id = parsed.request_id
    if ask.streamed and path in USAGE_ROUTES:
        _look_at_usage(ask, parsed)
    return ask


def is_json(headers: Headers) -> bool:
    """Whether the body is read here: it says that it is JSON, and is not compressed."""
    kind = encoding = None
    for name, value in headers:
        if name == b"content-type" and kind is None:
            kind = value
        elif name == b"content-encoding" and encoding is None:
            encoding = value
    return kind is not None and b"json" in kind.lower() and encoding in (None, b"identity")


def utf8_or_latin1(value: bytes) -> str:
    """Text of a header's value. Clients mean UTF-8; every byte is something in Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _tenant(given: dict[bytes, bytes]) -> str | None:
    for name in TENANT_HEADERS:
        if value := given.get(name):
            return utf8_or_latin1(value)
    return None


def _true(value: Any) -> bool:
    return any(value == true and type(value) is type(true) for true in _TRUE)


MOST_SEQUENCES = 10_000


def _sequences(parsed: _Body) -> int:
    n = parsed.n if isinstance(parsed.n, int) and 1 <= parsed.n <= MOST_SEQUENCES else 1
    prompts = 1
    if parsed.prompt and bytes(memoryview(parsed.prompt)[:1]) == b"[":
        prompt = _prompts(parsed.prompt)
        if prompt and not isinstance(prompt[0], int):  # a list of numbers is one prompt of token ids
            prompts = len(prompt)
    return min(n * prompts, MOST_SEQUENCES)


def _prompts(raw: msgspec.Raw) -> list[Any]:
    """Empty where they cannot be read, such as bytes that are no UTF-8: so far they were skipped."""
    return lenient.decode(_list, bytes(raw)) or []


def _most_tokens(parsed: _Body) -> int | None:
    given = (parsed.max_tokens, parsed.max_completion_tokens, parsed.max_output_tokens)
    found = [n for n in given if type(n) is int and n >= 0]
    return max(found) if found else None


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
    body, end = ask.body, len(ask.body)
    while body[end - 1] in _SPACE:
        end -= 1
    ask.forced_at = end - 1
