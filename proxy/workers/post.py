"""One worker's post: a process at a time, started again when it ends.

A worker is a Python of its own (never a fork: threads and sockets of this process are not its) with one end
of a pair of sockets. It is gone when that is closed, and ended by its process id when it says nothing for too
long.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Sequence

import msgspec

from proxy.workers.channel import Channel
from proxy.workers.messages import Drain, FromWorker, Load, Loads, Setup
from proxy.workers.peer import Hearers, Peer

log = logging.getLogger(__name__)

LOOK_S = 0.05
"""How often a worker is looked at; it says something as often."""

SILENT_LOOKS = 40
"""A worker that says nothing for two seconds is spoken for: the books of the others go on without it."""

HUNG_LOOKS = 200
"""One that says nothing for ten seconds is ended. Looks are counted and not seconds: while this process
itself stood still nobody else is to blame."""

STARTING_LOOKS = 600
"""One that is starting has half a minute."""

PAUSE_S, LONGEST_PAUSE_S, LASTING_S = 0.1, 10.0, 30.0
"""Before a worker is started again: it doubles with every end that comes sooner than LASTING_S."""


class Post:
    """`keep` it, and `look` every LOOK_S."""

    def __init__(self, source: int, hearers: Hearers, setup: Callable[[int], Setup]) -> None:
        """`setup`: what a worker is told when it starts, given its source."""
        self.source = source
        self._hearers, self._setup = hearers, setup
        self._draining = asyncio.Event()
        self._peer = Peer(source, hearers)
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel[FromWorker] | None = None
        self._told: dict[str, Load] = {}
        self.ends = 0
        """How often its worker has ended unasked."""

    @property
    def up(self) -> bool:
        """Whether its worker listens."""
        return self._peer.up

    @property
    def loads(self) -> dict[str, Load]:
        """What its worker has in flight, by backend."""
        return self._peer.loads

    async def keep(self) -> None:
        """Have a worker run until `drain`."""
        pause_s = PAUSE_S
        loop = asyncio.get_running_loop()
        while not self._draining.is_set():
            began_s = loop.time()
            try:
                status: object = await self._one()
            except OSError as error:
                status = error
            if self._draining.is_set():
                return
            self.ends += 1
            pause_s = PAUSE_S if loop.time() - began_s > LASTING_S else pause_s
            log.error("worker %d ended (%s); it is started again in %.1f s", self.source, status, pause_s)
            await _set_within(self._draining, pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _one(self) -> int:
        """One process, from its start to its end; its exit status. Raises OSError."""
        ours, theirs = socket.socketpair()
        peer = Peer(self.source, self._hearers)
        with theirs:
            fd = theirs.fileno()
            command = [sys.executable, "-m", "proxy.workers", str(fd)]
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, pass_fds=[fd], stdin=asyncio.subprocess.DEVNULL
                )
            except OSError:
                ours.close()
                raise
        self._told = {}
        self._peer, self._process = peer, process
        self._channel = channel = await Channel.over(ours, FromWorker, self._heard, peer.lost)
        log.info("worker %d is process %d", self.source, process.pid)
        self.say([self._setup(self.source)])
        try:
            status = await process.wait()
            await channel.closed.wait()  # all that it said has been heard
        finally:
            self._process = self._channel = None
        return status

    def _heard(self, messages: list[FromWorker]) -> None:
        if answers := self._peer.heard(messages):
            self.say(answers)

    def say(self, messages: Sequence[msgspec.Struct]) -> None:
        if self._channel is not None:
            self._channel.say(messages)

    def look(self, others: dict[str, Load]) -> None:
        """Has it said something of late? `others` is what all others have in flight."""
        peer, process = self._peer, self._process
        if process is None:
            return
        peer.silent_ticks += 1
        if peer.begun and not peer.over and others != self._told:
            self._told = others
            self.say([Loads(others)])
        if peer.silent_ticks >= SILENT_LOOKS:
            peer.speak_for()
        if peer.silent_ticks == (HUNG_LOOKS if peer.begun else STARTING_LOOKS):
            log.error("worker %d (process %d) says nothing: it is ended", self.source, process.pid)
            self.kill()

    def drain(self) -> None:
        """Its worker is to let what is under way end, and then to end; no other follows."""
        self._draining.set()
        self.say([Drain()])

    def kill(self) -> None:
        """End its worker at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
