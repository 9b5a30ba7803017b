"""What the ledger remembers of a backend's images and videos, so that it can be written down."""

from __future__ import annotations

import msgspec

from accounting.events import Media

LATEST = 64
"""Of jobs that ended, and of looks at the server, so many are remembered."""


class Served(msgspec.Struct, array_like=True):
    """A job that ended: when it came and ended, how large it was (joules by the priors), how long it ran (0
    where that is not known: it was broken off), and whether no other job was there meanwhile."""

    start_us: int
    end_us: int
    size_j: float
    ran_us: int
    lone: bool = False


class Look(msgspec.Struct, array_like=True):
    """What the server said at a time: how many jobs run, how many wait."""

    t_us: int
    running: int
    waiting: int


class JobsState(msgspec.Struct):
    """One backend's jobs."""

    at_once: int | None = None
    """How many it works on at a time, as configured; None: to be learnt."""
    served: list[Served] = []
    """By their end."""
    looks: list[Look] = []
    together: float = 0.0
    """How surely it works on several at a time, as ends tell: 0 never seen, 1 always."""
    usual: Media | None = None
    """The latest job of which all was said."""
