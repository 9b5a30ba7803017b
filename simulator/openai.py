"""Bodies and stream chunks in the shape of vLLM 0.32 as observed, field order included.

Chunks are put together from bytes prepared once per request: with hundreds of streams this is what the
simulator's time goes into. `Ask` says what the client wanted, `Wire` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from simulator.engine import Run
from simulator.tokenizer import token_text

FINGERPRINT = "vllm-0.32.0-simulated"
VERSION = "0.32.0"
DONE = b"data: [DONE]\n\n"


def dumps(document: object) -> bytes:
    """JSON as vLLM writes it: compact, UTF-8 unescaped."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


@lru_cache(maxsize=20_000)
def json_text(text: str) -> bytes:
    """A JSON string, remembered: the vocabulary is small."""
    return dumps(text)


@dataclass(slots=True)
class Ask:
    """One request as its answer needs to know it. `id` is the body's id, `prompts` how many there are."""

    id: str
    model: str
    created: int
    chat: bool
    runs: list[Run]
    prompt_tokens: int
    image_tokens: int = 0
    stream: bool = False
    usage: bool = False
    continuous_usage: bool = False
    engine_metrics: bool = True
    logprobs: int | None = None
    tool: str | None = None
    token_ids: bool = False
    prompt_ids: list[list[int]] = field(default_factory=list)


def logprob(token: int, position: int) -> float:
    """A plausible log probability, the same for the same token at the same place."""
    return -((token * 2_654_435_761 + position * 40_503) % 4096) / 1500.0


def chat_logprobs(tokens: Sequence[int], start: int, top: int) -> dict[str, Any]:
    """Chat's `logprobs` for `tokens`, the first of which is the `start`-th of its answer."""

    def entry(token: int, value: float) -> dict[str, Any]:
        text = token_text(token)
        return {"token": text, "logprob": value, "bytes": list(text.encode())}

    content = []
    for position, token in enumerate(tokens, start):
        value = logprob(token, position)
        tops = [entry(token, value), *(entry(33 + k, value - 1 - k) for k in range(top - 1))]
        content.append({**entry(token, value), "top_logprobs": tops[:top]})
    return {"content": content}


def text_logprobs(tokens: Sequence[int], start: int, offset: int, top: int) -> dict[str, Any]:
    """Completions' `logprobs`; `offset` is the place of the first token's text in the answer."""
    texts = [token_text(token) for token in tokens]
    offsets = [offset + sum(map(len, texts[:k])) for k in range(len(texts))]
    values = [logprob(token, position) for position, token in enumerate(tokens, start)]
    tops = [{text: value} for text, value in zip(texts, values, strict=True)] if top else None
    return {"text_offset": offsets, "token_logprobs": values, "tokens": texts, "top_logprobs": tops}


def request_metrics(ask: Ask) -> dict[str, float | None] | None:
    """vLLM's per-request `metrics`, in ms; TTFT counts from scheduling. None for several sequences."""
    if not ask.engine_metrics or len(ask.runs) != 1:
        return None
    run = ask.runs[0]
    if run.scheduled_us is None or run.first_token_us is None or run.last_token_us is None:
        return None
    decoded_ms = (run.last_token_us - run.first_token_us) / 1000
    tokens = run.output_tokens
    busy_s = (run.last_token_us - run.scheduled_us) / 1e6
    return {
        "time_to_first_token_ms": (run.first_token_us - run.scheduled_us) / 1000,
        "generation_time_ms": decoded_ms,
        "queue_time_ms": (run.scheduled_us - run.arrived_us) / 1000,
        "mean_itl_ms": decoded_ms / (tokens - 1) if tokens > 1 else None,
        "tokens_per_second": tokens / busy_s if busy_s > 0 else None,
    }


def cached_tokens(ask: Ask) -> int:
    """Prompt tokens from the prefix cache: of the first sequence of every prompt."""
    return sum(run.sequence.cached_tokens or 0 for run in ask.runs if run.counts_prompt)


def _per_prompt(ask: Ask) -> int:
    return len(ask.runs) // max(1, len(ask.prompt_ids))


def usage(ask: Ask) -> dict[str, Any]:
    """Usage of the whole request, as in a body that is not streamed."""
    made = sum(run.output_tokens for run in ask.runs)
    details = {
        "cached_tokens": cached_tokens(ask),
        "created_cache_tokens": 0 if ask.chat else None,
        "multimodal_tokens": ask.image_tokens or None,
    }
    return {
        "prompt_tokens": ask.prompt_tokens,
        "total_tokens": ask.prompt_tokens + made,
        "completion_tokens": made,
        "prompt_tokens_details": details,
        "completion_tokens_details": None,
    }


def body(ask: Ask, texts: Sequence[str]) -> bytes:
    """The whole answer; `texts[k]` is what run k said."""
    choices = [
        _chat_choice(ask, *one) if ask.chat else _text_choice(ask, *one)
        for one in zip(ask.runs, texts, strict=True)
    ]
    metrics = request_metrics(ask)
    document: dict[str, Any] = {
        "id": ask.id,
        "object": "chat.completion" if ask.chat else "text_completion",
        "created": ask.created,
        "model": ask.model,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage(ask),
    }
    if ask.chat:
        document |= {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None}
    document |= {"kv_transfer_params": None, "ec_transfer_params": None}
    document["metrics"] = None if metrics is None else {**metrics, "speculative_decoding": None}
    return dumps(document)


def finish_reason(ask: Ask, run: Run) -> str:
    """As the client is told; the engine itself knows no tools. Empty while it runs."""
    if ask.tool is not None and run.finish_reason == "stop":
        return "tool_calls"
    return run.finish_reason or ""


def _output(run: Run) -> list[int]:
    return run.sequence.tokens[run.sequence.prompt_tokens :]


def _chat_choice(ask: Ask, run: Run, text: str) -> dict[str, Any]:
    called = {"tool_calls": [_tool_call(ask, run)]} if ask.tool is not None else {}
    message = {
        "role": "assistant",
        "content": "" if called else text,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        **called,
        "reasoning": None,
    }
    return {
        "index": run.index,
        "message": message,
        "logprobs": None if ask.logprobs is None else chat_logprobs(_output(run), 0, ask.logprobs),
        "finish_reason": finish_reason(ask, run),
        "stop_reason": run.stop_reason,
        "token_ids": None,
        "routed_experts": None,
    }


def _tool_call(ask: Ask, run: Run) -> dict[str, Any]:
    function = {"name": ask.tool, "arguments": "{}"}
    return {"id": f"chatcmpl-tool-{ask.id[-12:]}-{run.index}", "type": "function", "function": function}


def _text_choice(ask: Ask, run: Run, text: str) -> dict[str, Any]:
    prompt = ask.prompt_ids[run.index // _per_prompt(ask)] if ask.token_ids else None
    return {
        "index": run.index,
        "text": text,
        "logprobs": None if ask.logprobs is None else text_logprobs(_output(run), 0, 0, ask.logprobs),
        "finish_reason": finish_reason(ask, run),
        "stop_reason": run.stop_reason,
        "token_ids": _output(run) if ask.token_ids else None,
        "prompt_logprobs": None,
        "prompt_token_ids": prompt,
        "routed_experts": None,
    }


class Wire:
    """Writes one request's stream chunks. Every method gives the bytes of one or no event."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        kind = "chat.completion.chunk" if ask.chat else "text_completion"
        head = dumps({"id": ask.id, "object": kind, "created": ask.created, "model": ask.model})
        self._head = b"data: " + head[:-1] + b',"choices":['
        before = b'"delta":{"content":' if ask.chat else b'"text":'
        self._before = [self._head + b'{"index":%d,' % index + before for index in range(len(ask.runs))]
        self._after = b"}" if ask.chat else b""
        nothing = b"" if ask.chat else b',"stop_reason":null,"prompt_token_ids":null'
        self._rest = b',"logprobs":%b,"finish_reason":null' + nothing + b',"token_ids":null}]%b}\n\n'
        self._usage = b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d'
        self._usage += b',"completion_tokens_details":null}' if ask.chat else b"}"
        self._offsets = [0] * len(ask.runs)

    def opening(self, index: int) -> bytes:
        """Chat's role chunk; text completions have none."""
        if not self._ask.chat:
            return b""
        return (
            self._head
            + b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
            % index
            + self._running_usage(0)
            + b',"prompt_token_ids":null,"prompt_text":null}\n\n'
        )

    def token(self, run: Run, text: str) -> bytes:
        """One token's chunk, the last one included."""
        ask = self._ask
        logprobs = b"null" if ask.logprobs is None else self._logprobs(run, ask.logprobs)
        if ask.tool is not None:
            choice = self._tool_choice(run)
        else:
            choice = self._before[run.index] + json_text(text) + self._after
        running = self._running_usage(run.output_tokens)
        if run.finish_reason is None:
            return choice + self._rest % (logprobs, running)
        end = b',"logprobs":%b,"finish_reason":%b,"stop_reason":%b,' % (
            logprobs,
            json_text(finish_reason(ask, run)),
            dumps(run.stop_reason),
        )
        end += b'"token_ids":null}]' if ask.chat else b'"prompt_token_ids":null,"token_ids":null}]'
        fingerprint = b"" if ask.usage else b',"system_fingerprint":' + json_text(FINGERPRINT)
        return choice + end + running + fingerprint + b"}\n\n"

    def closing(self) -> bytes:
        """The usage chunk if it was asked for, and `[DONE]`."""
        ask = self._ask
        if not ask.usage:
            return DONE
        made = sum(run.output_tokens for run in ask.runs)
        details = {"cached_tokens": cached_tokens(ask)}
        if ask.chat:
            details["created_cache_tokens"] = 0
        if ask.image_tokens:
            details["multimodal_tokens"] = ask.image_tokens
        told: dict[str, Any] = {
            "prompt_tokens": ask.prompt_tokens,
            "total_tokens": ask.prompt_tokens + made,
            "completion_tokens": made,
            "prompt_tokens_details": details,
        }
        end: dict[str, Any] = {"usage": told, "system_fingerprint": FINGERPRINT}
        metrics = request_metrics(ask)
        if metrics is not None:
            end["metrics"] = {name: value for name, value in metrics.items() if value is not None}
        return self._head + b"]," + dumps(end)[1:] + b"\n\n" + DONE

    def _running_usage(self, made: int) -> bytes:
        if not self._ask.continuous_usage:
            return b""
        prompt = self._ask.prompt_tokens
        return self._usage % (prompt, prompt + made, made)

    def _tool_choice(self, run: Run) -> bytes:
        """The call's name with the first token, its arguments with the second."""
        call: dict[str, Any] = {"index": 0}
        if run.output_tokens == 1:
            call |= _tool_call(self._ask, run)
            call["function"] = {"name": self._ask.tool, "arguments": ""}
        else:
            call["function"] = {"arguments": "{}"}
        return self._head + b'{"index":%d,"delta":' % run.index + dumps({"tool_calls": [call]})

    def _logprobs(self, run: Run, top: int) -> bytes:
        token = run.sequence.tokens[-1]
        place = run.output_tokens - 1
        if self._ask.chat:
            return dumps(chat_logprobs([token], place, top))
        offset = self._offsets[run.index]
        self._offsets[run.index] += len(token_text(token))
        return dumps(text_logprobs([token], place, offset, top))
