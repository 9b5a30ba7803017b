"""The odd cases: strange headers, wrong values, and bodies that change when a proxy writes JSON anew."""

from __future__ import annotations

import gzip
import json
from typing import Any, Final

from tests.parity.bodies import chat_body, completion_body
from tests.parity.exchange import Case

PIXEL: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)


def odd_cases(model: str) -> list[Case]:
    """All of them, for the model served as `model`."""
    return [*_headers(model), *_wrong_values(model), *_raw_bodies(model)]


def _headers(model: str) -> list[Case]:
    body = chat_body(model, max_tokens=4)
    streamed = chat_body(model, max_tokens=4, stream=True)

    def case(name: str, *headers: tuple[str, str | bytes], body: object = body, **more: Any) -> Case:
        return Case(name=f"headers: {name}", body=body, headers=headers, **more)

    named = {"own_id": True}
    return [
        case("gzip accepted", ("accept-encoding", "gzip, br")),
        case("gzip accepted, streamed", ("accept-encoding", "gzip"), body=streamed),
        case("gzip accepted, long", ("accept-encoding", "gzip"), body=chat_body(model, max_tokens=100)),
        case("identity only", ("accept-encoding", "identity")),
        case("request id", ("x-request-id", "id-1"), **named),
        case("request id, streamed", ("x-request-id", "id-2"), body=streamed, **named),
        case("request id, odd", ("X-Request-ID", 'a b/"c" d,e;%41'), **named),
        case("request id, long", ("x-request-id", "i" * 2000), **named),
        case("request id, twice", ("x-request-id", "one"), ("x-request-id", "two"), **named),
        case(
            "request id with an error",
            ("x-request-id", "id-3"),
            body={**body, "model": "none"},
            expect_status=404,
        ),
        case("request id in the body", body={**body, "request_id": "body-1"}, only_real=True),
        case(
            "request id in body and header", ("x-request-id", "h"), body={**body, "request_id": "b"}, **named
        ),
        case("authorization", ("authorization", "Bearer sk-none"), ("openai-organization", "org-1")),
        case("latin-1 value", ("x-note", b"caf\xe9")),
        case("UTF-8 value", ("x-note", "größe 🎉".encode())),
        case("empty value", ("x-note", "")),
        case("4 KB value", ("x-note", "v" * 4096)),
        case("trace context", ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
        case("connection: close", ("connection", "close")),
        case("connection names a header", ("connection", "x-note"), ("x-note", "hop")),
        case("expect: 100-continue", ("expect", "100-continue")),
        case("origin", ("origin", "http://127.0.0.1")),
        case("wrong content type", ("content-type", "text/plain"), expect_status=400),
        case("empty content type", ("content-type", ""), expect_status=400),
        case("content type with charset", ("content-type", "application/json; charset=utf-8")),
        Case(
            name="headers: CORS preflight",
            method="OPTIONS",
            headers=(("origin", "http://127.0.0.1"), ("access-control-request-method", "POST")),
            expect_status=None,
        ),
    ]


def _wrong_values(model: str) -> list[Case]:
    def chat(name: str, expect_status: int = 400, **more: object) -> list[Case]:
        return [
            Case(name=f"wrong: {name}", body=chat_body(model, **more), expect_status=expect_status),
            Case(
                name=f"wrong: {name}, streamed",
                body=chat_body(model, stream=True, **more),
                expect_status=expect_status,
            ),
        ]

    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}]
    return [
        *chat("unknown model", 404, model="none"),
        *chat("model null", 200, model=None),
        *chat("model not a string", model=7),
        *chat("messages not a list", messages="hello"),
        *chat("messages empty", messages=[]),
        *chat("role unknown", messages=[{"role": "nobody", "content": "x"}], expect_status=200),
        *chat("image for a text model", messages=image),
        *chat("max_tokens a string", max_tokens="many"),
        *chat("max_tokens negative", max_tokens=-1),
        *chat("max_tokens beyond the context", max_tokens=100_000),
        *chat("temperature negative", temperature=-1),
        *chat("n of 0", n=0),
        *chat("greedy with several choices", n=2),
        *chat("tool_choice without tools", tool_choice="required"),
        *chat("prompt too long", messages=[{"role": "user", "content": "energy " * 17_000}]),
        *(
            Case(
                name=f"wrong: {name}",
                path="/v1/completions",
                body=completion_body(model, **more),
                expect_status=400,
            )
            for name, more in (
                ("prompt missing", {"prompt": None}),
                ("prompt empty", {"prompt": ""}),
                ("no prompts", {"prompt": []}),
                ("too many prompt tokens", {"prompt": [20] * 17_000}),
                ("too many prompt tokens, streamed", {"prompt": [20] * 17_000, "stream": True}),
                ("token id unknown", {"prompt": [999_999]}),
            )
        ),
        Case(name="wrong: messages missing", body={"model": model}, expect_status=400),
        Case(
            name="wrong: messages missing, streamed", body={"model": model, "stream": True}, expect_status=400
        ),
        Case(
            name="wrong: prompt missing, streamed",
            path="/v1/completions",
            body={"model": model, "stream": True, "stream_options": None},
            expect_status=400,
        ),
        Case(
            name="wrong: messages missing, usage refused",
            body={"model": model, "stream": True, "stream_options": {"include_usage": False}},
            expect_status=400,
        ),
    ]


def _raw_bodies(model: str) -> list[Case]:
    """Bodies that a proxy that parses and writes JSON again would change."""
    plain = json.dumps(chat_body(model, max_tokens=4))
    streamed = json.dumps(chat_body(model, max_tokens=4, stream=True))

    def case(name: str, raw: bytes, expect_status: int | None = 200, **more: Any) -> Case:
        return Case(name=f"body: {name}", raw=raw, expect_status=expect_status, **more)

    return [
        case("none", b"", 400),
        case("no JSON", b"{nope", 400),
        case("cut short", streamed[:-5].encode(), 400),
        case("something after the end", streamed.encode() + b"}", 400),
        case("in HTTP chunks", plain.encode(), chunked=True),
        case("in HTTP chunks, streamed", streamed.encode(), chunked=True),
        case("empty, in HTTP chunks", b"", 400, chunked=True),
        case("of a megabyte", plain.replace("what", "energy " * 150_000).encode(), 400),
        case("an array", b"[]", 400),
        case("null", b"null", 400),
        case("a string", b'"hello"', 400),
        case("an empty object", b"{}", 400),
        case("spread over lines", json.dumps(json.loads(streamed), indent=3).encode() + b"\r\n \n"),
        case("escaped", json.dumps(chat_body(model, messages=[{"role": "user", "content": "é🎉"}])).encode()),
        case("byte order mark", b"\xef\xbb\xbf" + plain.encode(), only_real=True),
        case("byte order mark, streamed", b"\xef\xbb\xbf" + streamed.encode(), only_real=True),
        case("UTF-16", plain.encode("utf-16"), only_real=True),
        case("UTF-16, streamed", streamed.encode("utf-16"), only_real=True),
        case("not UTF-8", plain.replace("what", "\xff").encode("latin-1"), 400),
        case("lone surrogate", plain.replace("what", r"\ud800").encode(), 400),
        case("NaN", plain.replace('"temperature": 0', '"temperature": NaN').encode(), 400),
        case("a huge number", plain.replace('"seed": 7', '"seed": 1e400').encode(), 400),
        case("key twice", plain.replace("{", '{"stream": true, "stream": false, ', 1).encode()),
        case("key twice, streamed", plain.replace("{", '{"stream": false, "stream": true, ', 1).encode()),
        case(
            "stream_options twice",
            streamed.replace(
                "{", '{"stream_options": {"include_usage": true}, "stream_options": null, ', 1
            ).encode(),
        ),
        case("key written with escapes", plain.replace("{", r'{"str\u0065am": true, ', 1).encode()),
        case("stream inside a message", plain.replace("what is", r"\"stream\": true, ").encode()),
        case(
            "stream inside an object",
            plain.replace("{", '{"metadata": {"stream": "true", "stream_options": "x"}, ', 1).encode(),
        ),
        case("gzip", gzip.compress(plain.encode(), mtime=0), 400, headers=(("content-encoding", "gzip"),)),
    ]
