"""Tells a stream in a way that does not depend on where its chunks were cut.

An engine that is late for a moment sends two tokens in one chunk, and the choices of one request interleave
as timing falls. So each choice is told by itself: its deltas joined, and its chunks without their deltas
(their skeletons), where equal neighbours count once. Events of no choice are told as their exact bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

JOINED: Final = "<joined>"
_SEQUENCE: Final = re.compile(rb'"sequence_number":(\d+)')


def tell(body: bytes) -> list[str]:
    """The lines that tell the server-sent events in `body`."""
    choices: dict[int, _Choice] = {}
    others: list[str] = []
    for event in events(body):
        name, data = _parse(event)
        index = _choice_index(name, data)
        if index is None or data is None:
            others.append(_SEQUENCE.sub(b'"sequence_number":<n>', event).decode("utf-8", "backslashreplace"))
            continue
        # What comes between the other events must stay between them.
        mark = f"(choice {index})"
        if others and others[-1] != mark:
            others.append(mark)
        choices.setdefault(index, _Choice()).add(name, event, data)
    numbers = [int(number) for number in _SEQUENCE.findall(body)]
    told = [f"choice {index}: {line}" for index in sorted(choices) for line in choices[index].lines()]
    return [*told, *others, f"sequence numbers count from 0: {numbers == list(range(len(numbers)))}"]


def events(body: bytes) -> list[bytes]:
    """The server-sent events with their blank lines; what follows the last blank line is one more."""
    *whole, rest = body.split(b"\n\n")
    return [event + b"\n\n" for event in whole] + ([rest] if rest else [])


class _Choice:
    """One choice of a stream. The Responses API's deltas count as one choice, too."""

    def __init__(self) -> None:
        self.skeletons: list[str] = []
        self.joined: dict[str, Any] = {}

    def add(self, name: str, event: bytes, data: dict[str, Any]) -> None:
        form = _form(event, data)
        choice: dict[str, Any] = data["choices"][0] if "choices" in data else data
        for holder in (choice, choice.get("delta")):
            if isinstance(holder, dict):
                for key in ("delta", "text", "content", "reasoning", "tool_calls", "token_ids", "logprobs"):
                    self._join(holder, key)
        if isinstance(choice.get("delta"), dict):
            # A chunk that holds no text yet has no content: whether that chunk exists depends on timing.
            choice["delta"] = {key: value for key, value in choice["delta"].items() if value != JOINED}
        if isinstance(data.get("usage"), dict):  # counts so far
            data["usage"] = dict.fromkeys(data["usage"], "<count>")
        if "sequence_number" in data:
            data["sequence_number"] = "<n>"
        skeleton = f"{name} {form} {_write(data)}"
        if not self.skeletons or self.skeletons[-1] != skeleton:
            self.skeletons.append(skeleton)

    def _join(self, holder: dict[str, Any], key: str) -> None:
        value = holder.get(key)
        if key == "tool_calls" and isinstance(value, list):
            for call in value:
                self._merge(f"tool_calls[{call.get('index')}]", call)
        elif value is None or (key == "delta" and isinstance(value, dict)):
            return
        else:
            self._merge(key, value)
        holder[key] = JOINED

    def _merge(self, name: str, value: Any) -> None:
        """Append to what was joined under `name`; the members of an object one by one."""
        if isinstance(value, dict):
            for key, member in value.items():
                self._merge(f"{name}.{key}", member)
        elif isinstance(value, str | list) and isinstance(self.joined.get(name), type(value)):
            self.joined[name] += value
        else:
            self.joined[name] = value

    def lines(self) -> Iterator[str]:
        yield from self.skeletons
        for name, value in sorted(self.joined.items()):
            yield f"{name} = {_write(value)}"


class _Number(str):
    """A JSON number with a fraction, kept as it was written."""


def _parse(event: bytes) -> tuple[str, dict[str, Any] | None]:
    """The event's name, and its data where that is a JSON object (not [DONE], not a comment)."""
    name, data = "", None
    for line in event.split(b"\n"):
        if line.startswith(b"event: "):
            name = line.removeprefix(b"event: ").decode()
        elif line.startswith(b"data: {"):
            data = json.loads(line.removeprefix(b"data: "), parse_float=_Number)
    return name, data


def _choice_index(name: str, data: dict[str, Any] | None) -> int | None:
    """Which choice an event belongs to; None for usage, errors and all else. A chunk holds one choice."""
    if data is None:
        return None
    if name.endswith(".delta"):
        return -1
    choices = data.get("choices")
    return int(choices[0]["index"]) if isinstance(choices, list) and len(choices) == 1 else None


def _form(event: bytes, data: dict[str, Any]) -> str:
    """How the JSON of an event is written."""
    if _write(data, (",", ":")).encode() in event:
        return "compact"
    return "spaced" if _write(data, (", ", ": ")).encode() in event else "written otherwise"


def _write(value: object, separators: tuple[str, str] = (",", ":")) -> str:
    """JSON with every number as it was read."""
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        members = (
            f"{json.dumps(key)}{separators[1]}{_write(item, separators)}" for key, item in value.items()
        )
        return "{" + separators[0].join(members) + "}"
    if isinstance(value, list):
        return "[" + separators[0].join(_write(item, separators) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
