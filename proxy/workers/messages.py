"""What a worker and the main process tell each other: lists of these, as MessagePack."""

from __future__ import annotations

import pickle

import msgspec

from accounting.access.keys import Key
from accounting.events import (
    FirstToken,
    JobStarted,
    Media,
    MediaTold,
    RequestFinished,
    RequestMoved,
    RequestStarted,
    Tick,
)
from accounting.records import RequestRecord
from proxy.access_log import Line
from proxy.settings import Settings
from proxy.wire.head import Header


class Message(msgspec.Struct, tag_field="type", omit_defaults=True):
    """Base of all; the tag stands where that of an event stands."""


# A worker says:


class Hello(Message, tag="hello"):
    """It has its settings and wants to begin."""


class Up(Message, tag="up"):
    """It listens."""


class Traced(Message, tag="traced"):
    """The next `started` belongs to this trace: the header that goes to the engine; the span, if one is ours
    (trace id, span id, parent id, flags)."""

    traceparent: str | None
    span: tuple[str, str, str, int] | None


class Plain(Message, tag="plain"):
    """A request that is not accounted for has ended."""

    line: Line


Load = tuple[int, int]
"""Requests in flight on a backend, and tokens of work."""


class Loads(Message, tag="loads"):
    """What is in flight, by backend. From a worker its own; to a worker that of all others."""

    loads: dict[str, Load]


class Counts(Message, tag="counts"):
    """Since the worker began, by backend: tries that it failed, of them those made again, ejections. And
    retries that only the budget forbade."""

    backends: dict[str, tuple[int, int, int]]
    refused: int


class Knock(Message, tag="knock", kw_only=True):
    """Whose key is this? Asked before a large body is taken. A request's messages have its `number`."""

    number: int
    digest: str | None
    """Of the key; None: no key was presented."""


class Enter(Knock, tag="enter", kw_only=True):
    """May this request go to an engine? What a `Gate` has to know of it (proxy/access/gate.py)."""

    path: str
    model: str | None
    accounted: bool
    sequences: int
    max_tokens: int | None
    media: Media | None
    body_bytes: int
    tunnel: bool


class Opened(Message, tag="opened"):
    """The last `started` was of this request, which had been let in."""

    number: int
    handle: int


class Left(Message, tag="left"):
    """This request had been let in, and is over; nothing was started of it."""

    number: int


FromWorker = (
    Hello
    | Up
    | Traced
    | Plain
    | Loads
    | Counts
    | Knock
    | Enter
    | Opened
    | Left
    | RequestStarted
    | RequestMoved
    | MediaTold
    | JobStarted
    | FirstToken
    | RequestFinished
    | Tick
)

# The main process says:


class Setup(Message, tag="setup", kw_only=True):
    """The first thing that a worker hears."""

    source: int
    """Of its events."""
    offset_us: int
    """Of the one clock of all processes."""
    host: str
    port: int
    inside: str
    """Path of the socket where the main process takes what is not for an engine."""
    own: list[str]
    """Paths under /v1 that are joulegate's own."""
    settings: bytes
    """As `packed` gives them."""


class Go(Message, tag="go"):
    """The ledger knows of the worker: it may begin with this handle."""

    handle: int


class Kept(Message, tag="kept"):
    """The end of this request is in the journal; its record so far."""

    handle: int
    record: RequestRecord | None
    limits: list[Header] = []
    """What is left of limits now, for the answer's headers."""


class Known(Message, tag="known"):
    """The answer to a knock: the key is good. None: the admin's."""

    number: int
    key: Key | None


class Admitted(Message, tag="admitted"):
    """The request may go; the answer's headers of limits as they are now."""

    number: int
    key: Key | None
    limits: list[Header]


class Refused(Message, tag="refused", kw_only=True):
    """It may not, and this is what its client is to be told (proxy/workers/refusing.py)."""

    number: int
    key: Key | None
    """Where that was good."""
    status: int
    message: str
    kind: str
    code: str | None
    param: str | None
    retry_after_s: float | None
    reason: str
    again: bool
    limits: list[Header]


class Changed(Message, tag="changed"):
    """The settings were read again."""

    settings: bytes


class Drain(Message, tag="drain"):
    """Let what is under way end, then end."""


ToWorker = Setup | Go | Kept | Known | Admitted | Refused | Loads | Changed | Drain


def packed(settings: Settings) -> bytes:
    """Settings for a child process, with their secrets: for nobody else's eyes."""
    return pickle.dumps({name: getattr(settings, name) for name in Settings.model_fields})


def unpacked(data: bytes) -> Settings:
    """They were checked where they were read."""
    return Settings.model_construct(**pickle.loads(data))
