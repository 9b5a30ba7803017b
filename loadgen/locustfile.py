"""Locust users of an OpenAI-compatible endpoint: people who chat, and editors that complete code.

    locust -f loadgen/locustfile.py --headless -u 4 -r 4 -t 5s -s 30s \\
        --host http://127.0.0.1:8080 --model NAME

Every answer is streamed and asks for usage. Nothing here needs joulegate, but where one answers its joules
are read from the usage chunk. Besides Locust's own row (POST; latency to the last byte, in ms) each user
class has rows whose "response time" is another quantity, named by their type:

    TTFT    time to the first text, ms
    tokens  output tokens of the answer, as the engine counted
    mJ      energy of the answer, millijoules: the provisional figure at the stream's end

The row "Aggregated" adds all of these up and says nothing. Without `-s` Locust breaks off what is in flight
when the time is over. Its CSV is written once a second and misses the end: `--json-file` has everything.
"""

from __future__ import annotations

import itertools
import random
import time
from typing import Any, ClassVar, cast

import requests
from locust import HttpUser, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.clients import ResponseContextManager

from loadgen import prompts, stream

IDLE_TIMEOUT_S = 120.0
"""Longest wait for a connection and between two pieces of an answer."""


def add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="Name of the model to ask for")
    parser.add_argument("--seed", type=int, default=1, help="Of prompts and lengths")


events.init_command_line_parser.add_listener(add_options)  # type: ignore[no-untyped-call]


class OpenAIUser(HttpUser):
    """Sends the next request when it has the answer to the last one."""

    abstract = True
    wait_time = constant(0)
    kind: ClassVar[str]
    _numbers: ClassVar[itertools.count[int]]

    def __init_subclass__(cls) -> None:
        cls._numbers = itertools.count()

    def on_start(self) -> None:
        options, worker = self.environment.parsed_options, getattr(self.environment.runner, "worker_index", 0)
        assert options is not None
        self._model: str = options.model
        self.pick = random.Random(f"{options.seed} {self.kind} {worker} {next(self._numbers)}")

    def send(self, path: str, max_tokens: int, intended_s: float | None = None, **prompt: Any) -> None:
        """Send one request, record what its answer brought. Times count from `intended_s`, else from now."""
        began_s = time.perf_counter() if intended_s is None else intended_s
        with self.client.post(
            path,
            json={
                "model": self._model,
                **prompt,
                "max_tokens": max_tokens,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
            name=self.kind,
            headers={"x-joulegate-tenant": f"loadgen-{self.kind}"},
            stream=True,
            timeout=IDLE_TIMEOUT_S,
            catch_response=True,
        ) as answer:
            if answer.status_code == 200:
                self._read(answer, began_s)

    def _read(self, answer: ResponseContextManager, began_s: float) -> None:
        try:
            seen = stream.read(answer.iter_lines())
        except (requests.RequestException, ValueError) as broken:
            seen = stream.Streamed(error=f"the stream broke: {type(broken).__name__}")
        # Locust stops its clock at the headers of a streamed answer; what counts is its end.
        meta = cast(dict[str, Any], answer.request_meta)
        meta["response_time"] = (time.perf_counter() - began_s) * 1000
        meta["response_length"] = seen.size_bytes
        if seen.error is not None:
            answer.failure(seen.error)  # type: ignore[no-untyped-call]
            return
        self._note("TTFT", None if seen.first_s is None else (seen.first_s - began_s) * 1000)
        self._note("tokens", seen.tokens)
        self._note("mJ", None if seen.joules is None else seen.joules * 1000)

    def _note(self, what: str, value: float | None) -> None:
        """Record one value as a Locust request; what is not known is not recorded."""
        if value is not None:
            self.environment.events.request.fire(
                request_type=what,
                name=self.kind,
                response_time=value,
                response_length=0,
                exception=None,
                context={},
            )


class ChatUser(OpenAIUser):
    """People who chat: shortish prompts, longer answers."""

    kind = "chat"
    weight = 3

    @task
    def chat(self) -> None:
        text, max_tokens = prompts.chat(self.pick)
        self.send("/v1/chat/completions", max_tokens, messages=[{"role": "user", "content": text}])


class CodeUser(OpenAIUser):
    """Editors: long prompts, a few tokens back."""

    kind = "code"

    @task
    def complete(self) -> None:
        text, max_tokens = prompts.code(self.pick)
        self.send("/v1/completions", max_tokens, prompt=text)
