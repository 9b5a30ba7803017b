"""The access log: a line of JSON for every request, written once its joules are final.

Requests that are accounted for are heard from the accountant, after they have ended; the relay is not touched
by them. Those that cost no energy (`GET /v1/models`, `/tokenize`) are told with `plain`. Lines hold no
prompt, no answer, no header but the tenant's, and no error text of an engine, which may quote its prompt.
Lines are made and written by a thread of their own; when it cannot keep up, they are dropped and counted.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import SimpleQueue

import msgspec

from accounting.events import AnyEvent, Status
from accounting.records import Output, RequestRecord
from proxy.settings_observe import AccessLog as Settings

log = logging.getLogger(__name__)

MAX_WAITING = 100_000
"""Lines kept for a writer that is slow; some 40 MB."""

LINGER_S = 0.05
"""Lines are written together: each time it wakes, the thread takes the interpreter from the relay."""

STOP_S = 5.0


class Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line. Times in milliseconds, energies in joules; what is not known is left out."""

    time: str
    """When it ended, UTC, RFC 3339."""
    request_id: str
    method: str
    route: str
    http_status: int | None = None
    status: Status | None = None
    duration_ms: float | None = None
    uid: str | None = None
    tenant: str | None = None
    project: str | None = None
    user_id: str | None = None
    api_key: str | None = None
    """The id of the virtual key, never the key."""
    model: str | None = None
    backend: str | None = None
    streamed: bool | None = None
    ttft_ms: float | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    energy_joules: float | None = None
    prefill_joules: float | None = None
    decode_joules: float | None = None
    uncertainty_joules: float | None = None
    unmeasured_ms: float | None = None
    state: str | None = None


_encode = msgspec.json.Encoder().encode


class AccessLog:
    """A listener of the accountant. Lines are written between the two ends of `writing`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lines: SimpleQueue[Line | RequestRecord | None] = SimpleQueue()
        self._reopen = False
        self._ending = threading.Event()
        self.dropped = 0

    def use(self, settings: Settings) -> None:
        """Go by these settings from now on, and open the file again: it may have been moved away."""
        self._settings, self._reopen = settings, True

    def event(self, event: AnyEvent) -> None:
        del event

    def output(self, output: Output) -> None:
        if not self._settings.enabled or not isinstance(output, RequestRecord):
            return
        if output.status == "ok" and not _sampled(output.uid, self._settings.sample):
            return
        self.put(output)

    def plain(
        self,
        *,
        request_id: str,
        method: str,
        route: str,
        http_status: int | None,
        duration_s: float,
        t_us: int,
        backend: str | None = None,
        tenant: str | None = None,
        project: str | None = None,
        user_id: str | None = None,
        api_key: str | None = None,
    ) -> None:
        """A request that is not accounted for has ended, at `t_us`."""
        if not self._settings.enabled:
            return
        if (http_status or 500) < 400 and not _sampled(request_id, self._settings.sample):
            return
        self.put(
            Line(
                time=_time(t_us),
                request_id=request_id,
                method=method,
                route=route,
                http_status=http_status,
                duration_ms=round(duration_s * 1e3, 3),
                backend=backend,
                tenant=tenant,
                project=project,
                user_id=user_id,
                api_key=api_key,
            )
        )

    def put(self, line: Line | RequestRecord) -> None:
        """Have a line written, if there is room for it."""
        if self._lines.qsize() >= MAX_WAITING:
            self.dropped += 1
            return
        self._lines.put(line)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lines are written meanwhile; at the end all that are left, within `STOP_S`."""
        thread = threading.Thread(target=self._write, name="access log", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            self._lines.put(None)
            thread.join(STOP_S)

    def _write(self) -> None:
        target, failing = _Target(), False
        while True:
            lines = [self._lines.get()]
            self._ending.wait(LINGER_S)
            while not self._lines.empty() and lines[-1] is not None:
                lines.append(self._lines.get())
            if self._reopen:
                self._reopen = False
                target.close()
            text = b"".join(_text(line) for line in lines if line is not None)
            try:
                if text:
                    target.write(self._settings, text)
                failing = False
            except OSError as error:
                self.dropped += text.count(b"\n")
                target.close()
                if not failing:
                    log.error("the access log cannot be written: %s", error)
                failing = True
            if lines[-1] is None:
                target.close()
                return


class _Target:
    """The file, opened when there is something to write."""

    def __init__(self) -> None:
        self._fd: int | None = None

    def write(self, settings: Settings, text: bytes) -> None:
        if self._fd is None:
            if settings.path is None:
                self._fd = os.dup(sys.stdout.fileno())
            else:
                self._fd = os.open(settings.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        while text:
            text = text[os.write(self._fd, text) :]

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _text(line: Line | RequestRecord) -> bytes:
    return _encode(line_of(line) if isinstance(line, RequestRecord) else line) + b"\n"


def line_of(record: RequestRecord) -> Line:
    """The line of a record."""
    first_us = record.first_token_us
    return Line(
        time=_time(record.finished_us),
        request_id=record.request_id,
        uid=record.uid,
        method="POST",  # only these are accounted for
        route=record.route,
        status=record.status,
        http_status=record.http_status,
        tenant=record.tenant,
        project=record.project,
        user_id=record.user_id,
        api_key=record.api_key,
        model=record.model,
        backend=record.backend,
        streamed=record.streamed,
        duration_ms=(record.finished_us - record.started_us) / 1e3,
        ttft_ms=None if first_us is None else (first_us - record.started_us) / 1e3,
        prompt_tokens=record.prompt_tokens,
        cached_tokens=record.cached_tokens,
        completion_tokens=record.completion_tokens,
        energy_joules=_joules(record.energy_uj),
        prefill_joules=_joules(record.prefill_uj),
        decode_joules=_joules(record.decode_uj),
        uncertainty_joules=_joules(record.uncertainty_uj),
        unmeasured_ms=record.unmeasured_us / 1e3 or None,
        state=record.state,
    )


def _joules(energy_uj: int | None) -> float | None:
    return None if energy_uj is None else energy_uj / 1e6


def _time(t_us: int) -> str:
    return datetime.fromtimestamp(t_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _sampled(name: str, share: float) -> bool:
    """Whether a name is within the share: always the same answer for the same name."""
    return share >= 1.0 or hash(name) % 1_000_000 < share * 1_000_000
