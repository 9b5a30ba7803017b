"""One HTTP exchange, kept as raw bytes: what a client sends, and exactly what it gets back."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import httpx

TIMEOUT_S: Final = 60.0
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For `httpx.Client(verify=...)`: saves reading all certificates for every client, which takes 20 ms."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request and what is special about it.

    `body` is sent as JSON, `raw` as it is, in HTTP chunks where `chunked`. `own_id` says that the request
    names its id, so that ids in the answer are compared, too. `repeated` asks for one unrecorded round
    before, so that both compared rounds find the prompt in the prefix cache and may be compared in that.
    `only_real` keeps the case from the simulated engine.
    """

    name: str
    method: str = "POST"
    path: str = "/v1/chat/completions"
    body: object = None
    raw: bytes | None = None
    headers: tuple[tuple[str, str | bytes], ...] = ()
    chunked: bool = False
    own_id: bool = False
    repeated: bool = False
    only_real: bool = False
    expect_status: int | None = 200
    """What vLLM 0.32 answers; None where it does not matter."""

    def content(self) -> bytes | Iterator[bytes] | None:
        raw = self.raw
        if raw is None and self.body is not None:
            raw = json.dumps(self.body, ensure_ascii=False).encode()
        if raw is None or not self.chunked:
            return raw
        return (raw[at : at + 50] for at in range(0, len(raw), 50))


@dataclass(frozen=True)
class Answer:
    """What came back. `body` is free of HTTP framing but not decompressed."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    base_url: str = field(default="http://server", compare=False)

    def header(self, name: str) -> str | None:
        """The first header of that (lower-case) name."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def is_stream(self) -> bool:
        return (self.header("content-type") or "").startswith("text/event-stream")

    def json(self) -> object:
        return json.loads(self.body)


def send(base_url: str, case: Case) -> Answer:
    """Send `case` to the server at `base_url` over a connection of its own. Raises httpx.TransportError."""
    headers: list[tuple[bytes, bytes]] = [(key.encode(), _bytes(value)) for key, value in case.headers]
    content = case.content()
    if content is not None and "content-type" not in {key.lower() for key, _ in case.headers}:
        headers.append((b"content-type", b"application/json"))
    with (
        httpx.Client(timeout=TIMEOUT_S, trust_env=False, verify=NO_TLS) as client,
        client.stream(case.method, base_url + case.path, content=content, headers=headers) as response,
    ):
        body = b"".join(response.iter_raw())
        found = tuple(
            (key.decode("latin-1").lower(), value.decode("latin-1")) for key, value in response.headers.raw
        )
        return Answer(response.status_code, found, body, base_url)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1")
