"""A stream of server-sent events passing by: counted on the way, changed only at its end.

A block of events goes on untouched unless it holds one of a few byte patterns that mark the end of a stream;
only then are its events looked at one by one. What may be changed there:

- the usage chunk gets the `energy` object, or is taken out when not the client but the proxy asked for it;
- vLLM writes `system_fingerprint` on the chunks with a finish_reason when usage was not asked for, and on the
  usage chunk when it was. So where usage was forced, the fingerprint is put back where the client would have
  seen it. It is one constant string per engine process, learnt from any earlier answer; until it is known,
  finishing chunks wait for the usage chunk, which follows at once when there is one choice.

The events of one stream differ in little but the token's text. So the bytes before and after the text of an
event that was searched are kept, and what begins and ends with just these, with no quote between (or between
each two), is known for so many more tokens without a search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from accounting.events import EngineTimes, Usage
from proxy import answer
from proxy.energy import splice

END_MARKS = (b'"finish_reason":"', b'"finish_reason": "', b'"choices":[]', b'"choices": []', b'"usage":{',
             b'"usage": {', b"data: [DONE]", b"data:[DONE]", b'"error"', b'"response.completed"',
             b'"response.incomplete"', b'"response.failed"', b'"message_stop"')  # fmt: skip
"""Patterns that only the end of a stream holds. A JSON string cannot hold them: its quotes are escaped."""

MAX_HELD_BYTES = 8 << 20
"""An event not finished after this many bytes is passed on as it comes. The last one of the responses API
holds the whole answer, and what was asked."""

TEXTS = (b'"content":"', b'"text":"')
"""What stands before a token's text, in chats and in completions."""

BACKSLASH = 92

MOST_FORMS = 32
"""Forms of events learnt in one stream; where they go on changing, learning costs more than it saves."""


@dataclass(slots=True)
class Fingerprint:
    """An engine's `system_fingerprint` as JSON bytes; empty where it has none, None until it is known."""

    value: bytes | None = None

    def learn(self, parsed: answer.Answer) -> None:
        if parsed.usage is not None:
            self.value = answer.fingerprint_of(parsed) or b""


class EventStream:
    """Feed it what the engine sends, forward what it returns.

    `close` is called once, before the end of the stream is returned, with usage and times; it gives the
    energy object as JSON, or None where the client is not to see one.
    """

    def __init__(
        self,
        fingerprint: Fingerprint,
        close: Callable[[EventStream], bytes | None],
        *,
        forced: bool,
        show_usage: bool,
    ) -> None:
        self.usage: Usage | None = None
        self.times: EngineTimes | None = None
        self.error: tuple[str, int | None] | None = None
        self.finished = False
        """A finish_reason, a last event or [DONE] was seen."""
        self.tokens = 0
        """Events with content that the last `feed` brought."""
        self._fingerprint, self._close = fingerprint, close
        self._forced, self._show_usage = forced, show_usage
        self._rest = b""
        self._held: list[bytes] = []
        self._started = False
        self._closed = False
        self._before = self._after = self._between = b""
        self._before_size = self._after_size = self._forms = 0

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the engine; returns those that may go on now."""
        begin, end = self._before_size, len(data) - self._after_size
        if (
            begin
            and begin <= end
            and data.startswith(self._before)
            and data.endswith(self._after)
            and data[end - 1] != BACKSLASH  # it would take the quote after the text away
            and not self._rest
        ):
            if data.find(b'"', begin, end) < 0 and data.find(b"\n", begin, end) < 0:
                self.tokens = 1
                return data
            texts = data[begin:end].split(self._between)  # several at once
            text = b"".join(texts)
            if text.find(b'"') < 0 and text.find(b"\n") < 0 and text.find(b"\\") < 0:
                self.tokens = len(texts)
                return data
        return self._search(data)

    def _search(self, data: bytes) -> bytes:
        self.tokens = 0
        if self._rest:
            data = self._rest + data
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            cut = data.rfind(b"\r\n\r\n") + 4
            if cut == 3:
                cut = 0
        self._rest = data[cut:]
        if len(self._rest) > MAX_HELD_BYTES:
            self._rest, cut = b"", len(data)
        block = data[:cut]
        if not block:
            return b""
        self.tokens = _lines(block, b"data:")
        if b"[DONE]" in block:  # taken off now: the usage chunk before it closes the account
            self.tokens -= _lines(block, b"data: [DONE]") + _lines(block, b"data:[DONE]")
        if not self._started and self.tokens:
            self._started = True
            if b'"role":"assistant"' in block or b'"role": "assistant"' in block:
                self.tokens -= 1  # the first chat chunk names the role and carries no token
        for mark in END_MARKS:
            if mark in block:
                return self._look(block)
        if self.tokens == 1 and self._forms < MOST_FORMS:
            self._learn(block)
        return block

    def _learn(self, event: bytes) -> None:
        """Remember the form of an event with one token that ends nothing."""
        for text in TEXTS:
            begin = event.find(text) + len(text)
            if begin >= len(text) and event.startswith(b"data: {") and event.find(b"\n\n") == len(event) - 2:
                end = event.find(b'"', begin)
                if event[end - 1] != BACKSLASH:  # else the text goes on behind this quote
                    self._before, self._after = event[:begin], event[end:]
                    self._between = self._after + self._before
                    self._before_size, self._after_size = begin, len(event) - end
                    self._forms += 1
                return

    def end(self) -> bytes:
        """The engine closed the stream: what is still to be forwarded."""
        self._finish()
        left = b"".join(self._held) + self._rest
        self._held, self._rest = [], b""
        return left

    def abandon(self) -> bytes:
        """The engine broke off: what was held back, without the torn event at its end."""
        left = b"".join(self._held)
        self._held, self._rest = [], b""
        return left

    def _look(self, block: bytes) -> bytes:
        return b"".join([self._look_at(event) for event in _events(block)])

    def _look_at(self, event: bytes) -> bytes:
        at = 0 if event.startswith(b"data:") else event.find(b"\ndata:") + 1
        if not event.startswith(b"data:", at):
            return event
        text = event[at + 5 :].lstrip(b" ")
        if text.startswith(b"[DONE]"):
            self.finished = True
            self._finish()
            return self._release() + event
        parsed = answer.parse(text)
        if parsed is None:
            return event
        if answer.has_error(parsed):
            self.tokens -= 1
            self.error = answer.error_of(bytes(parsed.error))
            return event
        if parsed.response is not None and (
            parsed.response.usage is not None or b'"response.failed"' in event
        ):
            return self._last_response_event(event, parsed)
        if parsed.choices is None:
            return self._message_event(event, parsed)
        if parsed.choices == [] and parsed.usage is not None:
            self.tokens -= 1
            return self._usage_chunk(event, parsed)
        if (
            self._forced
            and parsed.choices
            and parsed.usage is not None
            and answer.fingerprint_of(parsed) is None
        ):
            # Usage on every chunk though nobody asked: the engine is set to force it, so it is the client's.
            self._forced, self._show_usage = False, True
        if parsed.choices and any(choice.finish_reason for choice in parsed.choices):
            if b'"delta":{}' in event or b'"delta": {}' in event:
                self.tokens -= 1  # it only says why it ends
            return self._finishing_chunk(event, parsed)
        return event

    def _usage_chunk(self, event: bytes, parsed: answer.Answer) -> bytes:
        self.usage, self.times = answer.usage_of(parsed), answer.times_of(parsed)
        self.finished = True
        self._fingerprint.learn(parsed)
        energy = self._finish()
        before = self._release()
        if not self._show_usage:
            return before
        return before + (event if energy is None else splice(event, "energy", energy))

    def _finishing_chunk(self, event: bytes, parsed: answer.Answer) -> bytes:
        self.finished = True
        if parsed.usage is not None and answer.fingerprint_of(parsed) is not None:
            # An engine that gives usage here, asked or not (`transformers serve`), and no usage chunk.
            self.usage = answer.usage_of(parsed)
            energy = self._finish()
            return event if energy is None else splice(event, "energy", energy)
        if not self._forced or answer.fingerprint_of(parsed) is not None:
            return event
        if self._fingerprint.value is None:
            self._held.append(event)
            return b""
        return self._mark(event)

    def _message_event(self, event: bytes, parsed: answer.Answer) -> bytes:
        """Anthropic's messages API, which vLLM serves too: usage on one of the last events, then the end."""
        if parsed.usage is not None:
            self.usage = answer.usage_of(parsed)
            self.tokens -= 1
        elif bytes(parsed.type) == b'"message_stop"':
            self.tokens -= 1
            self.finished = True
            self._finish()
        return event

    def _last_response_event(self, event: bytes, parsed: answer.Answer) -> bytes:
        self.usage, self.times = answer.usage_of(parsed), answer.times_of(parsed)
        self.tokens -= 1
        self.finished = True
        energy = self._finish()
        return event if energy is None else splice(event, "energy", energy)

    def _mark(self, event: bytes) -> bytes:
        value = self._fingerprint.value
        return splice(event, "system_fingerprint", value) if value else event

    def _release(self) -> bytes:
        held, self._held = self._held, []
        return b"".join(self._mark(event) for event in held)

    def _finish(self) -> bytes | None:
        if self._closed:
            return None
        self._closed = True
        # Whoever closes refers to us: without this the two would wait for the garbage collector.
        close, self._close = self._close, _closed
        return close(self)


def _closed(stream: EventStream) -> None:
    """It is closed already."""


def _lines(block: bytes, beginning: bytes) -> int:
    """Lines of the block that begin so."""
    return block.count(b"\n" + beginning) + block.startswith(beginning)


def _events(block: bytes) -> list[bytes]:
    """The events of a block, each with its blank line."""
    end = b"\n\n" if b"\n\n" in block else b"\r\n\r\n"
    parts = block.split(end)
    return [part + end for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
