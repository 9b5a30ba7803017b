"""What an engine says of its answer: tokens, times, fingerprint; in JSON bodies and in stream chunks."""

from __future__ import annotations

import msgspec

from accounting.events import EngineTimes, Usage
from proxy import lenient


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    """OpenAI's chat and completions names, and those of the responses and messages APIs."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None


class _Metrics(msgspec.Struct):
    """vLLM's per-request metrics (--enable-per-request-metrics)."""

    time_to_first_token_ms: float | None = None
    generation_time_ms: float | None = None
    queue_time_ms: float | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Inner(msgspec.Struct):
    usage: _Usage | None = None
    metrics: _Metrics | None = None


class Answer(msgspec.Struct):
    """A JSON answer or a chunk of a stream, as far as it matters here. A Raw is empty where it is missing."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    metrics: _Metrics | None = None
    system_fingerprint: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    type: msgspec.Raw = msgspec.Raw()
    response: _Inner | None = None


class _Error(msgspec.Struct):
    message: str | None = None
    code: int | str | None = None


_answers = msgspec.json.Decoder(Answer)
_errors = msgspec.json.Decoder(_Error)
_anything = msgspec.json.Decoder(msgspec.Raw)


def parse(document: bytes) -> Answer | None:
    """None where the bytes are not a JSON object of roughly the expected form."""
    return lenient.decode(_answers, document)


def is_json(document: bytes) -> bool:
    return lenient.decode(_anything, document) is not None or lenient.is_beyond(document)


def usage_of(answer: Answer) -> Usage | None:
    usage = answer.usage or (answer.response.usage if answer.response is not None else None)
    if usage is None:
        return None
    details = usage.prompt_tokens_details or usage.input_tokens_details
    prompt = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
    completion = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
    if completion is None and prompt is not None and usage.total_tokens == prompt:
        completion = 0  # embeddings and the like: all prompt
    return Usage(
        prompt_tokens=prompt,
        cached_tokens=details.cached_tokens if details is not None else None,
        completion_tokens=completion,
    )


def times_of(answer: Answer) -> EngineTimes | None:
    metrics = answer.metrics or (answer.response.metrics if answer.response is not None else None)
    if metrics is None:
        return None
    return EngineTimes(
        queue_ms=metrics.queue_time_ms,
        first_token_ms=metrics.time_to_first_token_ms,
        generation_ms=metrics.generation_time_ms,
    )


def fingerprint_of(answer: Answer) -> bytes | None:
    """The `system_fingerprint` as JSON; None where there is none."""
    raw = bytes(answer.system_fingerprint)
    return raw if raw and raw != b"null" else None


def has_error(answer: Answer) -> bool:
    return bytes(answer.error) not in (b"", b"null")


def error_of(raw: bytes) -> tuple[str, int | None]:
    """Message and numeric code of an `error` member."""
    try:
        error = _errors.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return raw[:200].decode("utf-8", "replace"), None
    return error.message or "", error.code if isinstance(error.code, int) else None
