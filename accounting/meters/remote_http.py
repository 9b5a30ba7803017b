"""Asking a meter on another machine over HTTP: every way in which that fails, as a code and a sentence.

Codes: UNREACHABLE, SLOW, UNAUTHORIZED, FORBIDDEN, NO_TOKEN, BAD_ANSWER. No message ever holds a token.
Blocking: to be used from a thread of its own.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from accounting.clock import Clock

MOST_BYTES = 16 << 20
"""A longer answer is none of ours. (A DCGM exporter with all its metrics on 16 GPUs gives less than 1 MB.)"""

T = TypeVar("T")


class RemoteError(Exception):
    """A remote meter cannot be read. `code` is short and fixed, the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Token:
    """Where a bearer token is kept: an environment variable or a file. Read anew at each connection."""

    env: str | None = None
    file: Path | None = None

    def read(self) -> str | None:
        """The token; None where none is configured. Raises RemoteError."""
        if self.env is not None:
            where, value = f"the environment variable {self.env}", os.environ.get(self.env, "")
        elif self.file is not None:
            where = f"the file {self.file}"
            try:
                value = self.file.read_text()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not text"
                raise RemoteError("NO_TOKEN", f"the token cannot be read from {where}: {reason}") from error
        else:
            return None
        value = value.strip()
        if not value:
            raise RemoteError("NO_TOKEN", f"{where} holds no token")
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise RemoteError("NO_TOKEN", f"{where} holds something that cannot be a token")
        return value


@dataclass(frozen=True)
class Answer:
    """Asked at sent_us and whole at received_us (UTC microseconds of our clock)."""

    status: int
    body: bytes
    sent_us: int
    received_us: int


class Remote:
    """One server: `what` it is (for messages), its `url` (http, https, or unix:/path/of/socket).

    `open` and `close` make and end the connection; both can be called again and again.
    """

    def __init__(self, what: str, url: str, clock: Clock, *, token: Token, timeout_s: float) -> None:
        self.what, self.url, self.clock, self.timeout_s = what, url, clock, timeout_s
        self.token = token
        self._client: httpx.Client | None = None

    @property
    def name(self) -> str:
        return f"{self.what} at {self.url}"

    def open(self) -> None:
        """Get ready to ask. Raises RemoteError for a token that cannot be had."""
        self.close()
        token = self.token.read()
        socket = self.url.removeprefix("unix:") if self.url.startswith("unix:") else None
        # No proxy of the environment stands between two machines of a cluster.
        transport = httpx.HTTPTransport(
            uds=socket, verify=ssl.create_default_context(), trust_env=False, limits=httpx.Limits()
        )
        self._client = httpx.Client(
            base_url="http://localhost" if socket is not None else self.url,
            transport=transport,
            headers={"authorization": f"Bearer {token}"} if token is not None else {},
            timeout=self.timeout_s,
            trust_env=False,
        )

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Answer:
        """The answer, 4xx and 5xx included except 401 and 403. Raises RemoteError.

        However slowly it drips, an answer that is not whole after the timeout is given up.
        """
        sent_us, deadline_s = self.clock.now_us(), time.monotonic() + self.timeout_s
        body = bytearray()
        with self._asked(path, params) as response:
            for piece in response.iter_bytes():
                body += piece
                if len(body) > MOST_BYTES:
                    raise self.bad(f"more than {MOST_BYTES >> 20} MB")
                if time.monotonic() > deadline_s:
                    raise self._slow()
        return Answer(response.status_code, bytes(body), sent_us, self.clock.now_us())

    @contextmanager
    def lines(self, path: str, params: Mapping[str, str | int]) -> Iterator[Iterator[str]]:
        """The lines of an answer that goes on for ever. Raises RemoteError, SLOW when none comes in time."""
        with self._asked(path, params) as response:
            if response.status_code != 200:
                raise self.bad(f"HTTP {response.status_code}")
            yield response.iter_lines()

    @contextmanager
    def _asked(self, path: str, params: Mapping[str, str | int] | None) -> Iterator[httpx.Response]:
        assert self._client is not None, "open it first"
        try:
            with self._client.stream("GET", path, params=params) as response:
                self._check_allowed(response.status_code)
                yield response
        except httpx.ConnectError as error:
            raise self.unreachable(str(error)) from error
        except httpx.TimeoutException as error:
            raise self._slow() from error
        except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
            if "disconnected" in str(error):  # httpcore has no class of its own for it
                raise self.unreachable("it ended the connection") from error
            raise self.bad(str(error)) from error
        except httpx.TransportError as error:
            raise self.unreachable(f"the connection broke off: {error}") from error

    def _check_allowed(self, status: int) -> None:
        if status == 401:
            how = "does not take our token, or wants one: see token_env and token_file"
            raise RemoteError("UNAUTHORIZED", f"{self.name} {how}")
        if status == 403:
            raise RemoteError("FORBIDDEN", f"{self.name}: our token does not allow reading GPUs")

    def decoded(self, answer: Answer, shape: type[T]) -> T:
        """The JSON of a 200 answer. Raises RemoteError for any other and for what is not of this shape."""
        if answer.status != 200:
            raise self.bad(f"HTTP {answer.status}")
        try:
            return msgspec.json.decode(answer.body, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self.bad(str(error)) from error

    def bad(self, how: str) -> RemoteError:
        return RemoteError("BAD_ANSWER", f"{self.name} gives an answer that makes no sense: {how}")

    def unreachable(self, how: str) -> RemoteError:
        return RemoteError("UNREACHABLE", f"{self.name} cannot be reached ({how}): is it running there?")

    def _slow(self) -> RemoteError:
        return RemoteError("SLOW", f"{self.name} has not answered within {self.timeout_s:g} s")
