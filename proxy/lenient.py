"""JSON as Python's own reader takes it, for what msgspec, which is strict, refuses.

Clients and engines written in Python send and take lone surrogates, NaN, numbers beyond a double and a byte
order mark. What passes through a proxy unchanged must not be lost on it for that. msgspec comes first, as it
takes a twentieth of the time; only what it refuses is read again.
"""

from __future__ import annotations

import json
import math
from typing import TypeVar

import msgspec

T = TypeVar("T")

MOST_BYTES = 4 << 20
"""No larger document is read again: Python's reader would hold up all other requests for tens of ms."""


def decode(decoder: msgspec.json.Decoder[T], document: bytes | bytearray) -> T | None:
    """None where this is no JSON, or not of the decoder's type."""
    try:
        return decoder.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if len(document) > MOST_BYTES:
            return None
    try:
        plain = _plain(document)
        return None if plain is None else decoder.decode(plain)
    except (msgspec.DecodeError, RecursionError):
        return None


def is_beyond(document: bytes | bytearray) -> bool:
    """Whether it is too large or too deeply nested to be judged here."""
    if len(document) > MOST_BYTES:
        return True
    try:
        _plain(document)
    except RecursionError:
        return True
    return False


def _plain(document: bytes | bytearray) -> bytes | None:
    """The same as strict JSON: what strict JSON cannot say is null, or a question mark in a string."""
    try:
        found = json.loads(document.decode("utf-8-sig"), parse_constant=lambda _: None, parse_float=_finite)
    except ValueError:
        return None
    return json.dumps(found, ensure_ascii=False).encode("utf-8", "replace")


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None
