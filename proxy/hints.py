"""What the choice of a backend takes from a request's bytes: its session, its prefix, the work it will be.

The body is searched, not parsed: these are hints, a wrong one costs a cache hit and nothing else, and large
bodies may not be here as a whole. A key's bytes with both quotes cannot stand inside a JSON string, as quotes
are escaped there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from proxy.settings_routing import Routing

BYTES_PER_TOKEN = 4
"""Bytes of English text per token, a common rule of thumb; only the order of backends depends on it."""

SEARCHED_BYTES = 65_536
"""So much of a body's beginning is searched, and of its end the same: between lie images and the like."""

MAX_OUTPUT_TOKENS = 100_000

_PROMPT = re.compile(rb'"(?:messages|prompt|input)"\s*:')
_LIMIT = re.compile(rb'"max_(?:completion_|output_)?tokens"\s*:\s*([0-9]{1,9})')


class Hints(NamedTuple):
    """`work` is in tokens: those of the prompt and those expected of the answer, as far as can be guessed."""

    session: str | None = None
    prefix: bytes | None = None
    work: int = 1


class Reader:
    """Finds the hints that some settings ask for."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        header = routing.session_header
        self._header = None if header is None else header.lower().encode("latin-1")
        names = b"|".join(re.escape(name.encode()) for name in routing.session_fields)
        self._field = re.compile(rb'"(?:' + names + rb')"\s*:\s*"((?:[^"\\]|\\.){1,256})"') if names else None
        self._wants_session = "session" in routing.affinity
        self._wants_prefix = "prefix" in routing.affinity

    def read(
        self, headers: Sequence[tuple[bytes, bytes]], body: bytes | bytearray, *, length: int | None = None
    ) -> Hints:
        """`body` may be only the beginning of it; `length` is then the bytes of the whole."""
        size = len(body) if length is None else length
        text = body if len(body) <= 2 * SEARCHED_BYTES else body[:SEARCHED_BYTES] + body[-SEARCHED_BYTES:]
        limit = _LIMIT.search(text)
        output = self._routing.output_tokens if limit is None else min(int(limit[1]), MAX_OUTPUT_TOKENS)
        work = size // BYTES_PER_TOKEN + output
        session = self._session(headers, text) if self._wants_session else None
        return Hints(session, self._prefix(text) if self._wants_prefix else None, work)

    def _session(self, headers: Sequence[tuple[bytes, bytes]], text: bytes | bytearray) -> str | None:
        for name, value in headers:
            if name == self._header and value:
                return value.decode("latin-1")
        found = None if self._field is None else self._field.search(text)
        return None if found is None else found[1].decode("utf-8", "replace")

    def _prefix(self, text: bytes | bytearray) -> bytes | None:
        found = _PROMPT.search(text)
        return None if found is None else bytes(text[found.end() : found.end() + self._routing.prefix_bytes])
