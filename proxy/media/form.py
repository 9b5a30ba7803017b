"""Reads the small fields of a multipart form as it passes (RFC 7578); files in it are let go by unread."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from email import message_from_bytes
from email.utils import collapse_rfc2231_value

MOST_VALUE = 1_024
MOST_HEAD = 16_384
"""A part whose headers are longer is none that we know; the rest of the form is let be."""

DISPOSITION = "content-disposition"


class FormFields:
    """Feed it the body in pieces; `fields` has the wanted ones that have passed, the first of each name.

    `doubtful`: one of them came again and said something else, or something could not be read.
    """

    __slots__ = ("_delimiter", "_known", "_name", "_rest", "_state", "_value", "_wanted", "doubtful")

    def __init__(self, boundary: bytes, wanted: Collection[str]) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._wanted = wanted
        self._known: dict[str, str] = {}
        self._rest = b"\r\n"  # as if a line ended before the first delimiter
        self._state = "value"
        self._name: str | None = None
        self._value = b""
        self.doubtful = False

    @property
    def fields(self) -> dict[str, str]:
        return dict(self._known)

    def feed(self, data: bytes | bytearray) -> None:
        if self._state == "over":
            return
        self._rest += data
        while self._step():
            pass

    def _step(self) -> bool:
        """One part of the form, if it is there."""
        if self._state == "value":
            return self._read_value()
        if self._state == "mark":
            if len(self._rest) < 2:
                return False
            if self._rest.startswith(b"--"):
                self._end()
                return False
            self._state = "head"
        return self._read_head()

    def _read_value(self) -> bool:
        at = self._rest.find(self._delimiter)
        if at < 0:
            keep = len(self._delimiter) - 1
            self._take(self._rest[:-keep])
            self._rest = self._rest[-keep:]
            return False
        self._take(self._rest[:at])
        if self._name is not None:
            self._keep(self._name)
        self._rest = self._rest[at + len(self._delimiter) :]
        self._state, self._name, self._value = "mark", None, b""
        return True

    def _read_head(self) -> bool:
        end = self._rest.find(b"\r\n\r\n")
        if end < 0:
            if len(self._rest) > MOST_HEAD:
                self.doubtful = True
                self._end()
            return False
        head, self._rest = self._rest[:end], self._rest[end + 4 :]
        # An empty value is followed by the delimiter at once, whose line end is that of the head.
        self._rest = b"\r\n" + self._rest if self._rest.startswith(self._delimiter[2:]) else self._rest
        name = _name(head)
        self._name = name if name in self._wanted else None
        self._state = "value"
        return True

    def _keep(self, name: str) -> None:
        if len(self._value) > MOST_VALUE:
            self.doubtful = True
            return
        value = self._value.decode("utf-8", "replace")
        self.doubtful |= self._known.setdefault(name, value) != value

    def _take(self, data: bytes) -> None:
        if self._name is not None and len(self._value) <= MOST_VALUE:
            self._value += data[: MOST_VALUE + 1]

    def _end(self) -> None:
        self._state, self._rest = "over", b""


def form_of(headers: Mapping[bytes, bytes], wanted: Collection[str]) -> FormFields | None:
    """A reader for the request's form; None where it has none."""
    kind = headers.get(b"content-type", b"")
    if not kind.lower().startswith(b"multipart/form-data") or b"content-encoding" in headers:
        return None
    found = re.search(rb'boundary="?([^";\r\n]{1,200})', kind, re.IGNORECASE)
    return None if found is None else FormFields(found[1], wanted)


def _name(head: bytes) -> str | None:
    """Of the field that has this head, as servers read it: by the rules of mail; None for a file."""
    message = message_from_bytes(head.lstrip(b"\r\n") + b"\r\n\r\n")
    if message.get_param("filename", header=DISPOSITION) is not None:
        return None
    name = message.get_param("name", header=DISPOSITION)
    return None if name is None else collapse_rfc2231_value(name)
