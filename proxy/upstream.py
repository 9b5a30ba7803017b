"""The client to the engines: sends a request, hands back the answer's head and its pieces.

aiohttp, because it measures best of the well-kept clients on this path. Every way in which an engine can fail
becomes one of the errors of `errors.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from multidict import CIMultiDict

from proxy.ask import Ask, utf8_or_latin1
from proxy.backends import Backend
from proxy.errors import BackendFailed, BackendTimeout, BackendUnavailable
from proxy.settings import Timeouts

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade"
    b" expect".split()
)
"""Headers that belong to one connection (RFC 9110, 7.6.1); `expect` is answered by our own server."""

KEEP_ALIVE_S = 4.0
"""vLLM's server closes a connection idle for 5 s: ours is let go of before it does."""

AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""What aiohttp would add of its own."""

Headers = list[tuple[bytes, bytes]]


class Upstream:
    def __init__(self, timeouts: Timeouts) -> None:
        self._first_byte_s = timeouts.first_byte_s
        self._idle_s = timeouts.idle_s
        # No sock_read: it would count before the first byte as well, where idle_s does not apply.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect_s)
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Holds the connections to the engines open."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=self._timeout,
        ) as session:
            self._session = session
            yield

    async def send(self, backend: Backend, ask: Ask, body: bytes) -> aiohttp.ClientResponse:
        """Send the request and wait for the head of the answer. Raises ApiError."""
        assert self._session is not None
        try:
            async with asyncio.timeout(self._first_byte_s):
                return await self._session.request(
                    ask.method,
                    backend.target(ask.path, ask.query),
                    data=body if body else None,
                    headers=_request_headers(ask),
                    allow_redirects=False,
                    skip_auto_headers=AUTO_HEADERS,
                )
        except aiohttp.ClientConnectorError as error:
            message = f"backend {backend.id} cannot be reached: {error.strerror}"
            raise BackendUnavailable(message, retry_after_s=1) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise BackendTimeout(f"backend {backend.id} did not accept the connection in time") from error
        except TimeoutError as error:
            raise BackendTimeout(f"backend {backend.id} did not answer in time") from error
        except aiohttp.ServerDisconnectedError as error:
            raise BackendFailed(f"backend {backend.id} closed the connection without an answer") from error
        except aiohttp.ClientResponseError as error:
            raise BackendFailed(f"backend {backend.id} answered something that is not HTTP") from error
        except (aiohttp.ClientError, OSError) as error:
            raise BackendFailed(f"the connection to backend {backend.id} broke: {error}") from error

    async def pieces(self, engine: aiohttp.ClientResponse, backend: Backend) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises ApiError where the engine breaks off or falls silent."""
        try:
            while True:
                async with asyncio.timeout(self._idle_s):
                    piece = await engine.content.readany()
                if not piece:
                    return
                yield piece
        except TimeoutError as error:
            raise BackendTimeout(f"backend {backend.id} sent nothing for too long") from error
        except (aiohttp.ClientError, OSError) as error:
            raise BackendFailed(f"backend {backend.id} broke off in the middle of its answer") from error


def _request_headers(ask: Ask) -> CIMultiDict[str]:
    """The client's headers, less those of its connection. Encodings are refused: the answer must be read."""
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in ask.headers:
        if name in HOP_BY_HOP or name == b"content-length" or (ask.accounted and name == b"accept-encoding"):
            continue
        # aiohttp writes UTF-8: bytes that are UTF-8 come out as they came in.
        headers.add(name.decode("latin-1"), utf8_or_latin1(value))
    if ask.send_request_id:
        headers["x-request-id"] = ask.request_id
    return headers


def response_headers(engine: aiohttp.ClientResponse, ask: Ask, length: int | None) -> Headers:
    """The engine's headers with our request id; the length is ours to say."""
    drop = HOP_BY_HOP | {b"content-length", b"x-request-id"}
    headers = [(n.lower(), v) for n, v in engine.raw_headers if n.lower() not in drop]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    headers.append((b"x-request-id", ask.request_id.encode("latin-1", "replace")))
    return headers
