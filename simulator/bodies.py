"""Request bodies: what is read of them, their limits, and how messages become prompt tokens.

Unknown fields are ignored, as vLLM does. Lengths are in tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, TypeVar

import msgspec

from simulator.errors import EngineError, bad_request, broken_json, invalid
from simulator.tokenizer import VOCABULARY, encode

IMAGE_TOKENS = 256
"""Prompt tokens of one image: about what the image tasks of arXiv 2601.22076 add to a prompt."""

VIDEO_TOKENS = 2240
"""Prompt tokens of one video, whatever its length. Assumed."""

Positive = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]


Prompt = str | list[str | int | list[int]]
"""A text, token ids, several texts, or several lists of token ids."""


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Sampling(msgspec.Struct, kw_only=True):
    """What chat and text completions have in common."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Positive | None = None
    min_tokens: NotNegative = 0
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] = 1
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    seed: int | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    ignore_eos: bool = False
    request_id: str | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatBody(Sampling, kw_only=True):
    messages: list[Message]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None

    @property
    def longest(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def called_tool(self) -> str | None:
        """Name of the tool that the answer must call; None if it need not call one."""
        if isinstance(self.tool_choice, dict):
            return str(self.tool_choice.get("function", {}).get("name", ""))
        if self.tool_choice == "required" and self.tools:
            return str(self.tools[0].get("function", {}).get("name", ""))
        return None


class CompletionBody(Sampling, kw_only=True):
    prompt: Prompt
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    return_token_ids: bool = False

    @property
    def longest(self) -> int:
        return self.max_tokens or 16


class EmbeddingBody(msgspec.Struct, kw_only=True):
    input: Prompt
    model: str | None = None
    encoding_format: str = "float"
    dimensions: Positive | None = None
    request_id: str | None = None


class TokenizeBody(msgspec.Struct, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    return_token_strs: bool = False


class DetokenizeBody(msgspec.Struct, kw_only=True):
    tokens: list[NotNegative]
    model: str | None = None


Body = TypeVar("Body", bound=msgspec.Struct)
_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(\w+)`")


def read(raw: bytes, kind: type[Body]) -> Body:
    """The body as `kind`. Raises EngineError (400) for broken JSON and for what does not fit."""
    try:
        document = json.loads(raw)
    except json.JSONDecodeError as error:
        raise broken_json(error) from error
    except UnicodeDecodeError as error:
        raise EngineError(400, "Bad Request", "The body is not UTF-8.", "body") from error
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        found = _PATH.match(str(error))
        what, path = (found["what"], found["path"]) if found else (str(error), None)
        given = f"<{type(document).__name__} of {len(document) if hasattr(document, '__len__') else 1} items>"
        if missing := _MISSING.search(what):
            raise invalid("missing", _where(path, missing[1]), "Field required", given) from error
        raise invalid("value_error", _where(path), what.replace("`", ""), given) from error


def _where(path: str | None, name: str | None = None) -> str:
    return ".".join(part for part in ("body", path, name) if part)


def prompts(given: Prompt, field: str = "prompt") -> list[list[int]]:
    """Token ids of each prompt. Raises EngineError (400) for an empty prompt or an unknown id."""
    if isinstance(given, str):
        found = [encode(given)]
    elif len({type(item) for item in given}) > 1:
        raise bad_request("Texts and token ids cannot be mixed", field, "<list of several types>")
    else:
        numbers = [item for item in given if isinstance(item, int)]
        others = [item for item in given if not isinstance(item, int)]
        found = [encode(item) if isinstance(item, str) else item for item in others] or [numbers]
    if not found or not all(found):
        raise bad_request("The prompt is empty.", field, given)
    for tokens in found:
        if not 0 <= min(tokens) <= max(tokens) < VOCABULARY:
            raise bad_request(f"Token id {max(tokens)} is out of vocabulary", field, max(tokens))
    return found


def chat_prompt(messages: list[Message], tools: list[dict[str, Any]] | None = None) -> tuple[list[int], int]:
    """Prompt tokens of a conversation, and how many of them stand for images and videos.

    Raises EngineError (400) when there are no messages.
    """
    if not messages:
        raise bad_request("messages must not be empty", "messages", [])
    tokens = encode(f"<|tools|>\n{json.dumps(tools)}\n") if tools else []
    image_tokens = 0
    for message in messages:
        tokens += encode(f"<|{message.role}|>\n")
        parts = message.content
        for part in [{"type": "text", "text": parts or ""}] if not isinstance(parts, list) else parts:
            if isinstance(text := part.get("text"), str):
                tokens += encode(text)
            elif part.get("type") in ("image_url", "input_image", "image"):
                tokens += _seen(part, IMAGE_TOKENS)
                image_tokens += IMAGE_TOKENS
            elif part.get("type") in ("video_url", "input_video", "video"):
                tokens += _seen(part, VIDEO_TOKENS)
                image_tokens += VIDEO_TOKENS
            else:
                raise bad_request("Unknown part type", "messages", part.get("type"))
        if message.tool_calls:
            tokens += encode(json.dumps(message.tool_calls))
        tokens += encode("\n")
    return tokens + encode("<|assistant|>\n"), image_tokens


def _seen(part: dict[str, Any], tokens: int) -> list[int]:
    """Tokens that stand for an image or a video: the same for the same one, for the prefix cache to tell."""
    digest = hashlib.blake2b(json.dumps(part, sort_keys=True).encode(), digest_size=32).digest()
    return list(digest) * (tokens // len(digest))


def check_length(prompt_tokens: int, asked: int | None, max_model_len: int) -> int:
    """How many tokens the answer may have. Raises EngineError (400) when it cannot fit."""
    limit = f"This model's maximum context length is {max_model_len} tokens."
    if prompt_tokens >= max_model_len:
        message = (
            f"{limit} However, your prompt contains {prompt_tokens} input tokens, which exceeds this limit "
            "even without any output tokens. Please reduce the length of the input prompt."
        )
        raise bad_request(message, "input_tokens", prompt_tokens)
    room = max_model_len - prompt_tokens
    if asked is not None and asked > room:
        message = (
            f"'max_tokens' or 'max_completion_tokens' is too large: {asked}. {limit[:-1]} and your request "
            f"has {prompt_tokens} input tokens ({asked} > {max_model_len} - {prompt_tokens})."
        )
        raise bad_request(message, "max_tokens", asked)
    return room if asked is None else asked
