"""The journal: every event, in the order the ledger heard it, in local append-only files.

A journal is a directory of segments `00000001.ndjson`, ... . A segment's first line holds the ledger's whole
state at its start, so each can be replayed on its own; every other line is one event.

What a crash costs. Lines are handed to the kernel with one `write` each flush, so a killed process loses only
what it had not flushed, and `finished` is flushed before the client gets its last byte. The last line may be
torn: it is cut off, with a warning, when the journal is opened again. Losing power can lose the kernel's
buffers as well; `fsync=True` closes that gap at the price of a disk write per flush.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import msgspec

from accounting.events import AnyEvent
from accounting.ledger.state import LedgerState

log = logging.getLogger(__name__)

FORMAT = 1
SEGMENT_BYTES = 64 * 1024 * 1024


class Header(msgspec.Struct, kw_only=True):
    """First line of a segment."""

    joulegate_journal: int
    segment: int
    state: LedgerState


class JournalError(Exception):
    """The journal cannot be used; the message says why and what to do."""


class DamagedHeader(JournalError):
    """A segment does not begin as one does: a power failure took its first line."""


_encoder = msgspec.json.Encoder()
_event_decoder = msgspec.json.Decoder(AnyEvent)
_header_decoder = msgspec.json.Decoder(Header)


def segment_paths(directory: Path) -> list[Path]:
    """The journal's segments, oldest first."""
    return sorted(p for p in directory.glob("*.ndjson") if p.stem.isdigit())


class Segment:
    """Reads one segment: the state it begins with, then its events."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sound_bytes = 0
        """Length of the part read so far that is whole."""
        self.damaged = False
        """Whether the last reading ended at a line that is torn or damaged."""
        with path.open("rb") as file:
            first = file.readline()
        try:
            header = _header_decoder.decode(first)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DamagedHeader(f"{path} is not a journal segment: {error}") from error
        if header.joulegate_journal != FORMAT:
            raise JournalError(f"{path} has format {header.joulegate_journal}; this version reads {FORMAT}")
        self.number, self.state = header.segment, header.state
        self._header_bytes = len(first)

    def events(self) -> Iterator[AnyEvent]:
        """The events in order. Stops, with a warning, at a line that is torn or damaged."""
        self.sound_bytes, self.damaged = self._header_bytes, False
        with self.path.open("rb") as file:
            file.seek(self._header_bytes)
            for line in file:
                try:
                    if not line.endswith(b"\n"):
                        raise msgspec.DecodeError("the line is not finished")
                    event = _event_decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    log.warning(
                        "%s: damaged at byte %d (%s); what follows is ignored",
                        self.path,
                        self.sound_bytes,
                        error,
                    )
                    self.damaged = True
                    return
                self.sound_bytes += len(line)
                yield event


class Journal:
    """The open journal of a running service. One process at a time may hold it."""

    def __init__(self, directory: Path, *, fsync: bool = False, segment_bytes: int = SEGMENT_BYTES) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise JournalError(f"cannot use {directory} for the journal: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            message = f"{directory} is in use by another joulegate; give this one a data_dir of its own"
            raise JournalError(message) from error
        self.directory = directory
        self.failure: str | None = None
        """Why the last write failed; None while all is well."""
        self.id = _identity(directory / "id")
        """Names this journal in the store, which others may share."""
        self._fsync, self._segment_bytes = fsync, segment_bytes
        self._buffer = bytearray()
        self._fd: int | None = None
        self._size = 0  # of the events: a state larger than a segment must not begin one at every tick
        last = segment_paths(directory)[-1:]
        self.segment = int(last[0].stem) if last else 0

    def begin_segment(self, state: LedgerState) -> None:
        """Close the present segment and begin the next one with `state`. Raises JournalError.

        On an error nothing has changed: the present segment goes on.
        """
        if not self.flush():
            # `state` knows events that are not written yet: they must not come after it.
            raise JournalError(f"cannot write to {self.directory}: {self.failure}")
        header = _encoder.encode(Header(joulegate_journal=FORMAT, segment=self.segment + 1, state=state))
        path = self.directory / f"{self.segment + 1:08d}.ndjson"
        part = path.with_suffix(".part")
        # A crash while the header is written leaves a .part file, which nobody reads.
        fd = None
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            _write_all(fd, header + b"\n")
            if self._fsync:
                os.fdatasync(fd)
            os.rename(part, path)
        except OSError as error:
            if fd is not None:
                os.close(fd)
                part.unlink(missing_ok=True)  # a disk that is full gets its space back
            raise JournalError(f"cannot write {path}: {error.strerror}") from error
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._size = fd, 0
        self.segment += 1

    @property
    def wants_new_segment(self) -> bool:
        return self._size > self._segment_bytes and not self._buffer

    def append(self, event: AnyEvent) -> None:
        """Take an event; it is on its way to the disk after the next `flush`."""
        self._buffer += _encoder.encode(event)
        self._buffer += b"\n"

    def flush(self) -> bool:
        """Hand everything taken so far to the kernel. False, with `failure` set, when the disk refuses.

        What could not be written stays in memory and is written by a later flush.
        """
        if not self._buffer or self._fd is None:
            return True
        try:
            while self._buffer:
                written = os.write(self._fd, self._buffer)
                del self._buffer[:written]
                self._size += written
            if self._fsync:
                os.fdatasync(self._fd)
        except OSError as error:
            if self.failure is None:
                log.error("the journal cannot be written (%s); events are kept in memory", error.strerror)
            self.failure = error.strerror or str(error)
            return False
        if self.failure is not None:
            log.warning("the journal can be written again")
            self.failure = None
        return True

    @property
    def pending_bytes(self) -> int:
        return len(self._buffer)

    def drop_before(self, segment: int) -> None:
        """Delete the segments older than `segment`."""
        for path in segment_paths(self.directory):
            if int(path.stem) < segment:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        self.flush()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        os.close(self._lock)


def _identity(path: Path) -> str:
    if path.exists() and (identity := path.read_text().strip()):
        return identity
    identity = uuid4().hex  # an empty file is one that a crash left
    path.write_text(identity + "\n")
    return identity


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def set_aside_damaged(paths: list[Path]) -> list[Path]:
    """Without the last segment where that has no header: it is renamed, with a warning.

    A disk that loses power may keep a file's name and lose what was in it; earlier segments are older.
    """
    if paths:
        try:
            Segment(paths[-1])
        except DamagedHeader as error:
            kept = paths[-1].with_suffix(".damaged")
            paths[-1].rename(kept)
            log.warning("%s; it is set aside as %s, the journal ends before it", error, kept.name)
            return paths[:-1]
    return paths


def cut_torn_tail(path: Path, sound_bytes: int) -> None:
    """Cut off a last line that was not finished. Damage with whole lines after it is left as it is."""
    with path.open("rb") as file:
        file.seek(sound_bytes)
        rest = file.read()
    if rest and b"\n" not in rest:
        os.truncate(path, sound_bytes)
