"""The Locust user that all others are: sends a request, reads its answer, notes what it brought.

Nothing here needs joulegate; where one answers, its joules are noted. Beside Locust's own row (POST; to the
last byte, ms) a user has rows whose "response time" is another quantity, named by their type:

    TTFT    time to the first text, ms
    ITL     mean time between two pieces of the answer, ms
    TPOT    (last text - first text) / (tokens - 1), ms
    tokens  output tokens of the answer, as the engine counted
    mJ now  energy of the answer, millijoules: the provisional figure at its end
    mJ      the final one, read back from joulegate when the test is over
    late    open loop: how long after the intended moment it was sent, ms

Times count from the intended moment. The row "Aggregated" adds all of these up and says nothing. `--rows DIR`
writes one line of JSON per request (loadgen/rows.py), and how busy the load generator was (loadgen/watch.py).
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
import uuid
from pathlib import Path
from typing import Any, ClassVar, cast

import gevent  # type: ignore[import-untyped]
from gevent.os import tp_read  # type: ignore[import-untyped]
from locust import FastHttpUser, constant, events
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS, ResponseContextManager
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadgen import rows, settled, stream, watch
from loadgen.asks import VIDEOS, Ask
from loadgen.rows import Row

IDLE_TIMEOUT_S = 600.0
"""Longest wait for a connection and between two pieces of an answer."""

JOB_POLL_S = 0.25
MOST_CONNECTIONS = 10_000


def add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="Name of the model to ask for")
    parser.add_argument("--seed", type=int, default=1, help="Of prompts and lengths")
    parser.add_argument("--rows", default="", help="Directory for one line per request")
    parser.add_argument(
        "--send-s",
        type=float,
        default=0.0,
        help="Seconds to send for, from the first request on; Locust's own -t counts its start, too",
    )
    parser.add_argument(
        "--until-stdin-ends",
        action="store_true",
        default=False,
        help="End when stdin does: with the parent, if it is a pipe",
    )


events.init_command_line_parser.add_listener(add_options)  # type: ignore[no-untyped-call]


class Notes:
    """What this process keeps of a test: rows, its own health, and joules that are still to be read back."""

    def __init__(self) -> None:
        self.watch = watch.Watch()
        self.writer: rows.Writer | None = None
        self.directory: Path | None = None
        self.worker = 0
        self.waiting: dict[str, str] = {}
        self.since_s = time.time()

    def begin(self, environment: Environment) -> None:
        options = environment.parsed_options
        assert options is not None
        self.worker = int(getattr(options, "share", "0").split("/")[0])
        self.worker += getattr(environment.runner, "worker_index", 0)
        if options.rows:
            self.directory = Path(options.rows)
            self.writer = rows.Writer(self.directory / f"requests-{self.worker}.jsonl")
        self.since_s = time.time()
        self.watch.start()
        if options.send_s and environment.runner is not None:
            gevent.spawn_later(options.send_s, environment.runner.quit)

    def stopping(self) -> None:
        health = self.watch.stop()
        if health is None:
            return
        if self.directory is not None:
            watch.save(health, self.directory / f"worker-{self.worker}.json")
        if health.slow:
            print(
                f"this load generator is slow: {health.cpu_share:.0%} of a core, woke {health.lag_ms:.0f} ms "
                f"late (90th percentile), sent {health.late_ms or 0:.0f} ms late; start several with --share"
            )

    def end(self, environment: Environment) -> None:
        """Everything is sent and answered: what did it cost?"""
        if self.writer is not None:
            self.writer.close()
        if not self.waiting or isinstance(environment.runner, WorkerRunner):
            return  # a master does not wait for its workers: joules would come too late
        try:
            found = settled.joules(environment.host or "", self.waiting.keys(), self.since_s)
        except OSError as error:
            print(f"final joules could not be read: {error}")
            return
        for name, value in (found or {}).items():
            note(environment, "mJ", self.waiting[name], None if value is None else value * 1000)


def notes_of(environment: Environment) -> Notes:
    notes: Notes = environment.loadgen_notes  # type: ignore[attr-defined]
    return notes


def note(environment: Environment, what: str, name: str, value: float | None) -> None:
    """Record one value as a Locust request; what is not known is not recorded."""
    if value is not None:
        fire: Any = environment.events.request.fire
        fire(request_type=what, name=name, response_time=value, response_length=0, exception=None, context={})


def _end_with_stdin(environment: Environment) -> None:
    while tp_read(sys.stdin.fileno(), 4096):
        pass
    environment.stop_timeout = 0  # nobody is there to wait for what is in flight
    if environment.runner is not None:
        environment.runner.quit()


@events.init.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    if options is not None and options.until_stdin_ends:
        gevent.spawn(_end_with_stdin, environment)
    if isinstance(environment.runner, MasterRunner):
        return
    notes = Notes()
    environment.loadgen_notes = notes  # type: ignore[attr-defined]
    on: Any = environment.events
    on.test_start.add_listener(lambda environment, **_: notes.begin(environment))
    on.test_stopping.add_listener(lambda environment, **_: notes.stopping())
    on.test_stop.add_listener(lambda environment, **_: notes.end(environment))


class OpenAIUser(FastHttpUser):
    """Sends the next request when it has the answer to the last one."""

    abstract = True
    wait_time = constant(0)
    network_timeout = connection_timeout = IDLE_TIMEOUT_S
    concurrency = MOST_CONNECTIONS
    kind: ClassVar[str]
    _numbers: ClassVar[itertools.count[int]]

    def __init_subclass__(cls) -> None:
        cls._numbers = itertools.count()

    def on_start(self) -> None:
        options, notes = self.environment.parsed_options, notes_of(self.environment)
        assert options is not None
        self._model: str = options.model
        self._notes = notes
        self.number = next(self._numbers)
        self.pick = random.Random(f"{options.seed} {self.kind} {notes.worker} {self.number}")

    def send(self, ask: Ask, intended_s: float | None = None) -> None:
        """Send one request, record what its answer brought. Times count from `intended_s`, else from now."""
        now_s = time.perf_counter()
        began_s = now_s if intended_s is None else intended_s
        unix_s = time.time() - now_s  # added to a time of perf_counter gives unix seconds
        row = Row(uuid.uuid4().hex, self.kind, began_s + unix_s, now_s + unix_s, wanted=ask.wanted)
        seen = stream.Streamed()
        if intended_s is not None:
            self._note("late", 1000 * (now_s - intended_s))
            self._notes.watch.late_ms.append(1000 * (now_s - intended_s))
        try:
            with self._post(ask, row.id) as answer:
                try:
                    if answer.status_code and answer.status_code < 300:
                        self._take(ask, answer, seen)
                    else:
                        row.status, row.error = "failed", f"status {answer.status_code}"
                except (*FAILURE_EXCEPTIONS, OSError, ValueError) as broken:
                    seen.error = f"the answer broke: {type(broken).__name__}"
                # Locust stops its clock at the headers of a streamed answer; what counts is its end.
                ended_s = time.perf_counter()
                meta = cast(dict[str, Any], answer.request_meta)
                meta["response_time"] = (ended_s - began_s) * 1000
                meta["response_length"] = seen.size_bytes
                if seen.error is not None:
                    row.status, row.error = "failed", seen.error
                    answer.failure(seen.error)
                elif row.status == "cut":
                    row.status = "ok"
                row.ended_at = ended_s + unix_s
        finally:
            self._keep(row, seen, began_s, unix_s)

    def _post(self, ask: Ask, name: str) -> ResponseContextManager:
        headers = {"x-request-id": name, "x-joulegate-tenant": f"loadgen-{self.kind}"}
        kind, body = ask.encoded()
        headers |= {"Content-Type": kind, "Accept-Encoding": "identity", **settled.authorization()}
        options: dict[str, Any] = {"catch_response": True, "stream": bool(ask.body.get("stream"))}
        return self.client.request("POST", ask.path, name=self.kind, data=body, headers=headers, **options)

    def _take(self, ask: Ask, answer: ResponseContextManager, seen: stream.Streamed) -> None:
        if ask.body.get("stream"):
            lines = iter(lambda: answer.stream.readline(b"\n"), b"")
            stream.read(lines, seen=seen)
            return
        body = json.loads(answer.text or "")
        seen.size_bytes = len(answer.text or "")
        if ask.path == VIDEOS:
            body = self._finished(body)
            if body.get("status") != "completed":
                seen.error = f"the job is {body.get('status')}: {body.get('error')}"
        seen.joules = (body.get("energy") or {}).get("energy_joules")

    def _finished(self, job: dict[str, Any]) -> dict[str, Any]:
        """Ask after a job until it has ended, and fetch what it made."""
        at, name = f"{VIDEOS}/{job['id']}", f"{self.kind} job"
        while job.get("status") in ("queued", "in_progress"):
            gevent.sleep(JOB_POLL_S)
            with self._get(at, name) as answer:
                answer.raise_for_status()
                job = json.loads(answer.text or "")
        if job.get("status") == "completed":
            with self._get(f"{at}/content", name) as answer:
                answer.raise_for_status()
        return job

    def _get(self, path: str, name: str) -> ResponseContextManager:
        headers = settled.authorization()
        return self.client.request("GET", path, name=name, headers=headers, catch_response=True)

    def _keep(self, row: Row, seen: stream.Streamed, began_s: float, unix_s: float) -> None:
        """Write the row, also of a request that was broken off; count and note the rest of one that was
        not.
        """
        row.chunks, row.tokens, row.prompt_tokens = len(seen.chunk_s), seen.tokens, seen.prompt_tokens
        row.joules, row.gaps = seen.joules, rows.gaps(seen.chunk_s)
        first_s, last_s = seen.first_s, seen.last_s
        if first_s is not None and last_s is not None:
            row.first_at, row.last_at = first_s + unix_s, last_s + unix_s
        notes = self._notes
        notes.watch.requests += 1
        notes.watch.chunks += row.chunks
        if notes.writer is not None:
            notes.writer.write(row)
        if row.status != "ok":
            return
        if first_s is not None and last_s is not None:
            self._note("TTFT", (first_s - began_s) * 1000)
            if row.chunks > 1:
                self._note("ITL", (last_s - first_s) * 1000 / (row.chunks - 1))
            if row.tokens is not None and row.tokens > 1:
                self._note("TPOT", (last_s - first_s) * 1000 / (row.tokens - 1))
        self._note("tokens", row.tokens)
        if row.joules is not None:
            self._note("mJ now", row.joules * 1000)
            notes.waiting[row.id] = self.kind

    def _note(self, what: str, value: float | None) -> None:
        note(self.environment, what, self.kind, value)
