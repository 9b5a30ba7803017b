"""Checked bodies become runs of the engine and the replies that wait for them."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from simulator import bodies
from simulator.bodies import ChatBody, CompletionBody, EmbeddingBody, Sampling
from simulator.embeddings import EmbeddingReply
from simulator.engine import Engine, Run, Sink
from simulator.errors import bad_request, unknown_model
from simulator.openai import Ask
from simulator.replies import Reply, StreamReply, WholeReply
from simulator.sampling import Answer, TextFilter, seed_of
from simulator.scheduler import Sequence
from simulator.truth import Account

TOOL_TOKENS = 2
"""Length of an answer that calls a tool: its name, its arguments."""


@dataclass(frozen=True, slots=True)
class Config:
    """What the surface needs to know beside the engine. `max_model_len` in tokens."""

    served_name: str
    root: str
    max_model_len: int
    engine_metrics: bool = True


class Nobody:
    """Stands in until the reply is there; a run is told only after its reply has started it."""

    def on_token(self, run: Run, token: int, text: str) -> None:
        raise RuntimeError("a run without a reply made a token")

    def on_prefilled(self, run: Run) -> None:
        raise RuntimeError("a run without a reply was computed")


NOBODY = Nobody()


class Surface:
    """Turns checked bodies into runs and replies."""

    def __init__(self, engine: Engine, config: Config) -> None:
        self.engine = engine
        self.config = config
        self.created = int(time.time())

    def check_model(self, asked: str | None) -> None:
        """Raises EngineError (404) unless it is ours or not said."""
        if asked is not None and asked != self.config.served_name:
            raise unknown_model(asked, self.config.served_name)

    def chat(self, body: ChatBody, header_id: str | None) -> Reply:
        self.check_model(body.model)
        prompt, image_tokens = bodies.chat_prompt(body.messages, body.tools)
        tool = body.called_tool
        top = (body.top_logprobs or 0) if body.logprobs else None
        return self._complete(body, "chatcmpl-", header_id, [prompt], body.longest, image_tokens, tool, top)

    def completion(self, body: CompletionBody, header_id: str | None) -> Reply:
        self.check_model(body.model)
        prompts = bodies.prompts(body.prompt)
        return self._complete(body, "cmpl-", header_id, prompts, body.longest, 0, None, body.logprobs)

    def _complete(
        self,
        body: Sampling,
        prefix: str,
        header_id: str | None,
        prompts: list[list[int]],
        longest: int | None,
        image_tokens: int,
        tool: str | None,
        logprobs: int | None,
    ) -> Reply:
        name = header_id or body.request_id
        options = body.stream_options
        if options is not None and not body.stream:
            raise bad_request("Stream options can only be defined when `stream=True`.", "stream_options")
        account = Account(name or uuid.uuid4().hex, 0)
        runs: list[Run] = []
        for prompt in prompts:
            limit = bodies.check_length(len(prompt), longest, self.config.max_model_len)
            if body.min_tokens > limit:
                message = (
                    f"min_tokens must be less than or equal to max_tokens={limit}, got {body.min_tokens}."
                )
                raise bad_request(message, "min_tokens", body.min_tokens)
            if tool is not None:
                limit = min(limit, TOOL_TOKENS)
            for nth in range(body.n):
                runs.append(self._run(body, prompt, limit, nth, len(runs), tool is not None, account))
        usage = bool(options and options.include_usage)
        ask = Ask(
            id=prefix + (name or uuid.uuid4().hex[:16]),
            model=self.config.served_name,
            created=int(time.time()),
            chat=prefix == "chatcmpl-",
            runs=runs,
            prompt_tokens=sum(map(len, prompts)),
            image_tokens=image_tokens,
            usage=usage,
            continuous_usage=usage and bool(options and options.continuous_usage_stats),
            engine_metrics=self.config.engine_metrics,
            logprobs=logprobs,
            tool=tool,
            token_ids=isinstance(body, CompletionBody) and body.return_token_ids,
            prompt_ids=prompts,
        )
        account.prompt_tokens = ask.prompt_tokens
        kind = StreamReply if body.stream else WholeReply
        return self._told(kind(self.engine, ask, account, account.request_id))

    def _run(
        self,
        body: Sampling,
        prompt: list[int],
        limit: int,
        nth: int,
        index: int,
        tool: bool,
        account: Account,
    ) -> Run:
        temperature = 1.0 if body.temperature is None else body.temperature
        answer = Answer(seed_of(prompt, body.seed, temperature, nth), body.min_tokens)
        length = limit if body.ignore_eos else min(limit, answer.length)
        if tool:
            length = limit
        return Run(
            sequence=Sequence(len(prompt), length, list(prompt)),
            account=account,
            sink=NOBODY,
            answer=answer,
            filter=TextFilter(body.stops, body.include_stop_str_in_output),
            index=index,
            counts_prompt=nth == 0,
            min_tokens=body.min_tokens,
            ends_itself=length == TOOL_TOKENS if tool else not body.ignore_eos and answer.length <= limit,
            stop_token_ids=frozenset(body.stop_token_ids or ()),
        )

    def embed(self, body: EmbeddingBody, header_id: str | None) -> Reply:
        self.check_model(body.model)
        if body.encoding_format not in ("float", "base64"):
            raise bad_request("Unknown encoding format", "encoding_format", body.encoding_format)
        prompts = bodies.prompts(body.input, "input")
        name = header_id or body.request_id or uuid.uuid4().hex
        account = Account(name, 0, prompt_tokens=sum(map(len, prompts)))
        runs = []
        for index, prompt in enumerate(prompts):
            bodies.check_length(len(prompt), None, self.config.max_model_len)
            runs.append(
                Run(Sequence(len(prompt), 0, prompt), account, NOBODY, Answer(0), TextFilter(), index=index)
            )
        head = {
            "id": f"embd-{name}",
            "object": "list",
            "created": int(time.time()),
            "model": self.config.served_name,
        }
        in_base64 = body.encoding_format == "base64"
        return self._told(EmbeddingReply(self.engine, runs, account, name, head, body.dimensions, in_base64))

    def _told(self, reply: Reply) -> Reply:
        sink: Sink = reply
        for run in reply.runs:
            run.sink = sink
        return reply

    def model_card(self) -> dict[str, object]:
        """One entry of /v1/models."""
        permission = {
            "id": "modelperm-simulated",
            "object": "model_permission",
            "created": self.created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": self.config.served_name,
            "object": "model",
            "created": self.created,
            "owned_by": "vllm",
            "root": self.config.root,
            "parent": None,
            "max_model_len": self.config.max_model_len,
            "permission": [permission],
        }
