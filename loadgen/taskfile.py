"""Locust users for the paper's language tasks: chat, reasoning (problem solving), code (completion).

    locust -f loadgen/taskfile.py --headless -u 16 -r 16 -t 60s -s 60s --host http://127.0.0.1:8080 \\
        --model NAME --task chat                                       closed loop: 16 in flight
    locust -f loadgen/taskfile.py --headless -u 1 -t 60s -s 60s --host http://127.0.0.1:8080 \\
        --model NAME --task code --arrivals poisson --rate 5           open loop: 5 per second

Prompts are random words of the lengths that the task has in the paper (loadgen/lengths.py), answers as long
as those of --like, a Hugging Face name, or of all its models. No data is downloaded.

In the open loop one user sends at the times of loadgen/arrivals.py, each request in a greenlet of its own.
All times count from the intended moment. The row `late` (ms) is how long after it the request really was
sent: where it is more than a few milliseconds the load generator is what is slow, not the server. --arrivals
may also be a file with one time in seconds per line. See loadgen/locustfile.py for the other rows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gevent  # type: ignore[import-untyped]
from locust import events, task
from locust.argument_parser import LocustArgumentParser
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_RUNNING
from urllib3 import PoolManager

from loadgen import arrivals, lengths
from loadgen.locustfile import OpenAIUser
from loadgen.prompts import WORDS

CLOSED = "closed"
LATE_MS = 20.0
"""Mean lateness above which the load generator says that it is what is slow."""


def add_options(parser: LocustArgumentParser) -> None:
    add = parser.add_argument
    add("--task", default="chat", choices=("chat", "reasoning", "code"), help="Which of the paper's tasks")
    add("--like", default="", help="Answers as long as this model's in the paper (Hugging Face name)")
    add("--longest", type=int, default=32_768, help="Longest answer, in tokens")
    add("--shorter", type=float, default=1.0, help="Prompts and answers so many times as long")
    add("--arrivals", default=CLOSED, help="closed, constant, poisson, bursty, or a file with times")
    add("--rate", type=float, default=1.0, help="Open loop: requests per second")


events.init_command_line_parser.add_listener(add_options)  # type: ignore[no-untyped-call]


class PaperUser(OpenAIUser):
    """Sends one of the paper's tasks, in a closed or an open loop."""

    kind: ClassVar[str] = "paper"
    pool_manager = PoolManager(maxsize=10_000)

    def on_start(self) -> None:
        super().on_start()
        options = self.environment.parsed_options
        assert options is not None
        self._options = options
        self._task = lengths.TASKS[options.task]
        self._answers = lengths.answer_tokens(options.task, options.like or None)
        self.kind = options.task  # type: ignore[misc]

    @task
    def serve(self) -> None:
        if self._options.arrivals == CLOSED:
            self._ask(None)
            return
        began_s, sending = time.perf_counter(), []
        for after_s in self._times():
            gevent.sleep(max(0.0, began_s + after_s - time.perf_counter()))
            if self._state != LOCUST_STATE_RUNNING:
                break  # the time is over: what is in flight may end
            sending.append(gevent.spawn(self._ask, began_s + after_s))
            sending = [one for one in sending if not one.dead]
        gevent.joinall(sending)
        raise StopUser

    def _times(self) -> Iterator[float]:
        kind = self._options.arrivals
        if kind in arrivals.KINDS:
            return arrivals.arrivals(kind, self._options.rate, random.Random(self._options.seed))
        return iter(arrivals.read_trace(Path(kind)))

    def _ask(self, intended_s: float | None) -> None:
        prompt, answer = self.lengths()
        words = " ".join(self.pick.choices(WORDS, k=prompt))
        if intended_s is not None:
            self._note("late", 1000 * (time.perf_counter() - intended_s))
        body: dict[str, Any] = {"prompt": words}
        if self._task.path.endswith("/chat/completions"):
            body = {"messages": [{"role": "user", "content": words}]}
        self.send(self._task.path, answer, intended_s, **body)

    def lengths(self) -> tuple[int, int]:
        """Of the next prompt in words, of its answer in tokens."""
        shorter = self._options.shorter
        prompt = lengths.draw_prompt(self.pick, self._task.prompt_tokens * shorter)
        answer = round(lengths.draw_answer(self.pick, self._answers) * shorter)
        return prompt, min(max(answer, 2), self._options.longest)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def say_if_late(environment: Any, **_: Any) -> None:
    """Tell when the load generator was the bottleneck."""
    for (name, kind), entry in environment.stats.entries.items():
        if kind == "late" and entry.avg_response_time > LATE_MS:
            print(
                f"{name}: sent {entry.avg_response_time:.0f} ms late on average: this load generator is slow"
            )
