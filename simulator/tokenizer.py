"""A tokenizer without a vocabulary file: pieces of up to four characters, numbered by what they spell.

Token 0 ... 255 is one byte of UTF-8. Above, a token is a piece of 1 to 4 printable ASCII characters (or line
feed), read as a number in base 96. So every id spells its own text, nothing is learnt or stored, and the
same text always gives the same tokens. A piece is a space and up to 3 letters, up to 4 letters, or one other
character: about 3 characters of English per token, where real tokenizers reach 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_PIECE = re.compile(r" [A-Za-z0-9]{1,3}|[A-Za-z0-9]{1,4}|[\n -~]|[^\n -~]+")
_ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
_DIGIT = {character: digit for digit, character in enumerate(_ALPHABET)}
_BASE = len(_ALPHABET)
_BYTES = 256
_FIRST = [_BYTES + sum(_BASE**n for n in range(1, length)) for length in range(1, 6)]
"""_FIRST[k] is the first id of the pieces of k + 1 characters."""

VOCABULARY = _FIRST[4]
"""Ids are 0 ... VOCABULARY - 1."""


@lru_cache(maxsize=50_000)
def _encode_piece(piece: str) -> tuple[int, ...]:
    if piece[0] not in _DIGIT:
        return tuple(piece.encode("utf-8", errors="surrogatepass"))
    number = 0
    for character in piece:
        number = number * _BASE + _DIGIT[character]
    return (_FIRST[len(piece) - 1] + number,)


def encode(text: str) -> list[int]:
    """Token ids of `text`."""
    return [token for piece in _PIECE.findall(text) for token in _encode_piece(piece)]


@lru_cache(maxsize=50_000)
def token_bytes(token: int) -> bytes:
    """UTF-8 bytes of one token. Raises ValueError for an id outside the vocabulary."""
    if not 0 <= token < VOCABULARY:
        raise ValueError(f"token id {token} is out of the vocabulary of {VOCABULARY}")
    if token < _BYTES:
        return bytes((token,))
    length = next(n for n in range(4, 0, -1) if token >= _FIRST[n - 1])
    number = token - _FIRST[length - 1]
    digits = [number // _BASE**place % _BASE for place in reversed(range(length))]
    return "".join(_ALPHABET[digit] for digit in digits).encode()


def token_text(token: int) -> str:
    """Text of one token; a lone byte of a longer character is the replacement character."""
    return token_bytes(token).decode(errors="replace")


def decode(tokens: Iterable[int]) -> str:
    """Text of `tokens`. Raises ValueError for an id outside the vocabulary."""
    return b"".join(map(token_bytes, tokens)).decode(errors="replace")
