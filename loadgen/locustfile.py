"""Locust users of an OpenAI-compatible endpoint: people who chat, and editors that complete code.

    locust -f loadgen/locustfile.py --headless -u 4 -r 4 -t 5s -s 30s \\
        --host http://127.0.0.1:8080 --model NAME

Every answer is streamed and asks for usage. What the rows stand for: loadgen/user.py. Without `-s` Locust
breaks off what is in flight when the time is over. Its CSV is written once a second and misses the end:
`--json-file` has everything. The paper's tasks are in loadgen/taskfile.py.
"""

from __future__ import annotations

from typing import Any

from locust import task

from loadgen import prompts
from loadgen.asks import CHAT, COMPLETIONS, Ask
from loadgen.user import OpenAIUser


class MixedUser(OpenAIUser):
    abstract = True

    def ask(self, path: str, max_tokens: int, **prompt: Any) -> None:
        body = {"model": self._model, **prompt, "max_tokens": max_tokens, "ignore_eos": True}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        self.send(Ask(path, body, max_tokens))


class ChatUser(MixedUser):
    """People who chat: shortish prompts, longer answers."""

    kind = "chat"
    weight = 3

    @task
    def chat(self) -> None:
        text, max_tokens = prompts.chat(self.pick)
        self.ask(CHAT, max_tokens, messages=[{"role": "user", "content": text}])


class CodeUser(MixedUser):
    """Editors: long prompts, a few tokens back."""

    kind = "code"

    @task
    def complete(self) -> None:
        text, max_tokens = prompts.code(self.pick)
        self.ask(COMPLETIONS, max_tokens, prompt=text)
