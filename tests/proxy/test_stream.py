"""EventStream: what goes on to the client and what is learnt, for the streams of several engines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.events import EngineTimes, Usage
from proxy.stream import MAX_HELD_BYTES, EventStream, Fingerprint

ENERGY = b'{"energy_joules":1.5}'
USAGE = {"prompt_tokens": 9, "total_tokens": 12, "completion_tokens": 3}
CLOSED_USAGE = Usage(prompt_tokens=9, completion_tokens=3)
PRINT = "vllm-0.32.0-a"
DONE = b"data: [DONE]\n\n"


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "c", **fields}, separators=(",", ":")).encode() + b"\n\n"


def token(text: str, finish: str | None = None, index: int = 0, **fields: Any) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return event(choices=[choice], **fields)


ROLE = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
TOKENS = ROLE + token("a") + token("b")
END = token("c", "length")
USAGE_CHUNK = event(choices=[], usage=USAGE, system_fingerprint=PRINT)
ASKED = TOKENS + END + USAGE_CHUNK + DONE
"""What vLLM sends when usage was asked for."""
UNASKED = TOKENS + token("c", "length", system_fingerprint=PRINT) + DONE
"""What vLLM sends when it was not."""


@dataclass
class Seen:
    """What came out of a stream, and what `close` saw."""

    out: bytes
    tokens: int
    stream: EventStream
    closes: int


def play(
    pieces: list[bytes],
    *,
    forced: bool = False,
    show: bool | None = None,
    energy: bytes | None = ENERGY,
    known: bytes | None = None,
    broken: bool = False,
) -> Seen:
    closes: list[EventStream] = []

    def close(stream: EventStream) -> bytes | None:
        closes.append(stream)
        return energy

    show_usage = not forced if show is None else show
    stream = EventStream(Fingerprint(known), close, forced=forced, show_usage=show_usage)
    out, tokens = b"", 0
    for piece in pieces:
        out += stream.feed(piece)
        tokens += stream.tokens
    out += stream.abandon() if broken else stream.end()
    return Seen(out, tokens, stream, len(closes))


def with_energy(chunk: bytes) -> bytes:
    return chunk[:-3] + b',"energy":' + ENERGY + b"}\n\n"


def crlf(stream: bytes) -> bytes:
    return stream.replace(b"\n", b"\r\n")


STREAMS = {
    "vllm, asked": (ASKED, False),
    "vllm, forced": (ASKED, True),
    "no usage": (UNASKED, False),
    "crlf": (crlf(ASKED), True),
    "keep-alive comments": (
        b": keep-alive\n\n" + TOKENS + b": keep-alive\n\n" + END + USAGE_CHUNK + DONE,
        True,
    ),
    "no blank line at the end": (ASKED[:-2], False),
    "two choices": (TOKENS + END + token("d", index=1) + token("e", "stop", 1) + USAGE_CHUNK + DONE, True),
    "an error in it": (TOKENS + event(error={"message": "out of memory", "code": 500}) + DONE, True),
    "not UTF-8": (TOKENS + b"data: \xff\xfe\n\n" + END + USAGE_CHUNK + DONE, True),
}


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    name = draw(st.sampled_from(sorted(STREAMS)))
    whole = STREAMS[name][0]
    places = sorted(draw(st.sets(st.integers(1, len(whole) - 1), max_size=12)))
    return name, [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]


@given(cut_streams())
def test_where_the_bytes_are_cut_changes_nothing(cut: tuple[str, list[bytes]]) -> None:
    name, pieces = cut
    whole, forced = STREAMS[name]
    once = play([whole], forced=forced)
    again = play(pieces, forced=forced)
    assert again.out == once.out
    assert (again.stream.usage, again.tokens) == (once.stream.usage, once.tokens)
    assert (again.stream.error, again.stream.finished) == (once.stream.error, once.stream.finished)
    assert again.closes == once.closes == 1


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_byte_by_byte_is_the_same_as_at_once(name: str) -> None:
    whole, forced = STREAMS[name]
    assert (
        play([whole[i : i + 1] for i in range(len(whole))], forced=forced).out
        == play([whole], forced=forced).out
    )


def test_a_stream_without_usage_goes_on_byte_for_byte() -> None:
    seen = play([UNASKED])
    assert seen.out == UNASKED
    assert seen.stream.usage is None
    assert seen.stream.finished


def test_the_usage_chunk_gets_the_energy_and_nothing_else_changes() -> None:
    seen = play([ASKED])
    assert seen.out == ASKED.replace(USAGE_CHUNK, with_energy(USAGE_CHUNK))
    assert seen.stream.usage == CLOSED_USAGE


def test_without_energy_nothing_changes_at_all() -> None:
    assert play([ASKED], energy=None).out == ASKED


@pytest.mark.parametrize("known", [None, PRINT], ids=["unknown", "known"])
def test_forced_usage_is_taken_out_and_the_fingerprint_put_back(known: str | None) -> None:
    seen = play([ASKED], forced=True, known=json.dumps(known).encode() if known else None)
    assert seen.out == UNASKED
    assert seen.stream.usage == CLOSED_USAGE


def test_while_the_fingerprint_is_unknown_only_the_finishing_chunk_waits() -> None:
    stream = EventStream(Fingerprint(), lambda _: ENERGY, forced=True, show_usage=False)
    assert stream.feed(TOKENS) == TOKENS
    assert stream.feed(END) == b""
    assert stream.feed(USAGE_CHUNK) == token("c", "length", system_fingerprint=PRINT)


def test_a_known_fingerprint_makes_nothing_wait() -> None:
    known = Fingerprint(json.dumps(PRINT).encode())
    stream = EventStream(known, lambda _: ENERGY, forced=True, show_usage=False)
    assert stream.feed(END) == token("c", "length", system_fingerprint=PRINT)


def test_a_fingerprint_once_learnt_serves_the_next_stream() -> None:
    shared = Fingerprint()
    for _ in range(2):
        stream = EventStream(shared, lambda _: None, forced=True, show_usage=False)
        assert stream.feed(ASKED) + stream.end() == UNASKED
    assert shared.value == json.dumps(PRINT).encode()


def test_an_engine_without_fingerprints_gets_none() -> None:
    bare = TOKENS + END + event(choices=[], usage=USAGE) + DONE
    seen = play([bare], forced=True)
    assert seen.out == TOKENS + END + DONE


def test_each_choice_of_a_forced_stream_gets_its_fingerprint_back() -> None:
    seen = play([STREAMS["two choices"][0]], forced=True)
    ends = [line for line in seen.out.split(b"\n\n") if b'"system_fingerprint"' in line]
    assert [b'"index":%d' % k in end for k, end in enumerate(ends)] == [True, True]
    assert b'"usage"' not in seen.out


def test_shown_but_not_asked_for_usage_has_the_energy() -> None:
    # energy.in_streams: always
    seen = play([ASKED], forced=False, show=True)
    assert with_energy(USAGE_CHUNK) in seen.out


def test_a_missing_done_is_no_fault() -> None:
    seen = play([TOKENS + END + USAGE_CHUNK], forced=True)
    assert seen.out == TOKENS + token("c", "length", system_fingerprint=PRINT)
    assert seen.stream.finished
    assert seen.closes == 1


def test_a_stream_that_ends_while_a_chunk_waits_loses_nothing() -> None:
    seen = play([TOKENS + END], forced=True)
    assert seen.out == TOKENS + END
    assert seen.closes == 1


def test_done_alone_ends_a_stream_that_gives_no_finish_reason() -> None:
    seen = play([TOKENS + DONE], forced=True)
    assert seen.out == TOKENS + DONE
    assert seen.stream.finished


def test_a_stream_that_just_stops_is_not_finished() -> None:
    seen = play([TOKENS])
    assert seen.out == TOKENS
    assert not seen.stream.finished


def test_an_error_event_passes_and_is_remembered() -> None:
    error = event(error={"message": "out of memory", "type": "InternalServerError", "code": 500})
    seen = play([TOKENS + error + DONE], forced=True)
    assert seen.out == TOKENS + error + DONE
    assert seen.stream.error == ("out of memory", 500)


def test_an_error_that_is_a_string_is_remembered_too() -> None:
    assert play([event(error="no memory")]).stream.error == ('"no memory"', None)


def test_a_torn_event_is_not_passed_on_when_the_engine_breaks_off() -> None:
    seen = play([TOKENS + END[:20]], broken=True)
    assert seen.out == TOKENS


def test_what_waited_is_passed_on_when_the_engine_breaks_off() -> None:
    seen = play([TOKENS + END, USAGE_CHUNK[:30]], forced=True, broken=True)
    assert seen.out == TOKENS + END


def test_keep_alive_comments_pass_at_once_and_are_no_tokens() -> None:
    stream = EventStream(Fingerprint(), lambda _: None, forced=True, show_usage=False)
    assert stream.feed(b": keep-alive\n\n") == b": keep-alive\n\n"
    assert stream.tokens == 0


@pytest.mark.parametrize("forced", [True, False])
def test_tokens_are_the_events_with_content(forced: bool) -> None:
    assert play([ASKED], forced=forced).tokens == 3


def test_text_completions_have_no_role_chunk_to_leave_out() -> None:
    texts = b"".join(event(choices=[{"index": 0, "text": t, "finish_reason": None}]) for t in "ab")
    assert play([texts + DONE]).tokens == 2


def test_crlf_streams_are_understood() -> None:
    seen = play([crlf(ASKED)])
    assert seen.out == crlf(ASKED.replace(USAGE_CHUNK, with_energy(USAGE_CHUNK)))
    assert (seen.tokens, seen.stream.usage) == (3, CLOSED_USAGE)


def test_an_engine_that_forces_usage_on_every_chunk_keeps_it() -> None:
    # vLLM's --enable-force-include-usage: the client sees usage whether it asks or not
    every = (
        b"".join(token(t, usage=USAGE) for t in "ab") + token("c", "length", usage=USAGE) + USAGE_CHUNK + DONE
    )
    seen = play([every], forced=True)
    assert seen.out == every.replace(USAGE_CHUNK, with_energy(USAGE_CHUNK))


def test_usage_on_the_finishing_chunk_gets_the_energy() -> None:
    # `transformers serve`: no usage chunk, no [DONE], an empty fingerprint on every chunk
    start = b"".join(token(t, system_fingerprint="") for t in "ab")
    end = token("", "length", system_fingerprint="", usage=USAGE)
    for forced in (False, True):
        seen = play([start + end], forced=forced)
        assert seen.out == start + with_energy(end)
        assert (seen.stream.usage, seen.stream.finished) == (CLOSED_USAGE, True)


def test_a_space_after_the_colon_is_an_end_too() -> None:
    # llama-cpp-python writes JSON with spaces and gives no usage
    spaced = b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": null}]}\n\n'
    spaced += b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
    seen = play([spaced + DONE], forced=True)
    assert seen.out == spaced + DONE
    assert seen.stream.finished


@pytest.mark.parametrize("forced", [False, True])
def test_json_with_spaces_and_fields_without_one_are_read_alike(forced: bool) -> None:
    # json.dumps writes spaces; the one behind "data:" may be left out (HTML standard, 9.2.6)
    stream = TOKENS + END + USAGE_CHUNK
    spaced = [
        b"data: " + json.dumps(json.loads(one.removeprefix(b"data: "))).encode()
        for one in stream.split(b"\n\n")[:-1]
    ]
    for beginning in (b"data: ", b"data:"):
        events = [beginning + one.removeprefix(b"data: ") + b"\n\n" for one in (*spaced, b"[DONE]")]
        seen = play(events, forced=forced, known=b"")
        *others, usage, done = events
        assert seen.out == b"".join([*others, *([] if forced else [with_energy(usage)]), done])
        assert (seen.stream.usage, seen.tokens, seen.closes) == (CLOSED_USAGE, 3, 1)


def test_the_responses_api_ends_with_an_event_that_gets_the_energy() -> None:
    delta = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n'
    usage = {"input_tokens": 9, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 4}}
    last = {"type": "response.completed", "response": {"id": "r", "error": None, "usage": usage}}
    end = b"event: response.completed\ndata: " + json.dumps(last, separators=(",", ":")).encode() + b"\n\n"
    seen = play([delta + end])
    assert seen.out == delta + with_energy(end)
    assert seen.stream.usage == Usage(prompt_tokens=9, cached_tokens=4, completion_tokens=3)
    assert (seen.tokens, seen.stream.finished) == (1, True)


def test_a_messages_stream_ends_with_message_stop_and_its_usage_is_read() -> None:
    # Anthropic's API, which vLLM serves as well
    def named(kind: str, **fields: Any) -> bytes:
        document = json.dumps({"type": kind, **fields}, separators=(",", ":")).encode()
        return b"event: " + kind.encode() + b"\ndata: " + document + b"\n\n"

    stream = named("message_start", message={"id": "m", "usage": {"input_tokens": 9, "output_tokens": 0}})
    stream += named("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})
    usage = {"input_tokens": 9, "output_tokens": 3}
    stream += named("message_delta", delta={"stop_reason": "end_turn"}, usage=usage) + named("message_stop")
    seen = play([stream])
    assert seen.out == stream
    assert (seen.stream.usage, seen.stream.finished) == (CLOSED_USAGE, True)
    assert seen.closes == 1


def test_engine_times_are_read_from_the_usage_chunk() -> None:
    metrics = {"time_to_first_token_ms": 12.5, "generation_time_ms": 80, "queue_time_ms": 0.25}
    seen = play([TOKENS + END + event(choices=[], usage=USAGE, metrics=metrics) + DONE])
    assert seen.stream.times == EngineTimes(queue_ms=0.25, first_token_ms=12.5, generation_ms=80)


@pytest.mark.parametrize(
    "said",
    ['"finish_reason":"stop"', '"choices":[]', "data: [DONE]", '"error"', '{"error":{"message":"x"}}',
     '"usage":{"prompt_tokens":1}', "message_stop", "error", "\n\ndata: [DONE]\n\n", '"response.completed"'],
)  # fmt: skip
def test_text_that_looks_like_an_end_is_just_text(said: str) -> None:
    seen = play([token(said)])
    assert seen.out == token(said)
    assert (seen.stream.finished, seen.stream.error, seen.stream.usage) == (False, None, None)
    assert seen.tokens == 1


def test_the_last_event_of_the_responses_api_is_read_though_it_holds_all_of_the_answer() -> None:
    said = {
        "status": "completed",
        "output": "x" * 3_000_000,
        "usage": {"input_tokens": 9, "output_tokens": 3},
    }
    last = b"event: response.completed\n" + event(type="response.completed", response=said)
    seen = play([last[at : at + 65_536] for at in range(0, len(last), 65_536)])
    assert seen.stream.usage == CLOSED_USAGE
    assert seen.stream.finished


def test_a_huge_event_is_passed_on_before_it_ends() -> None:
    stream = EventStream(Fingerprint(), lambda _: None, forced=True, show_usage=False)
    start = b'data: {"choices":[{"text":"' + b"x" * MAX_HELD_BYTES
    assert stream.feed(start) == start
    assert stream.feed(b'"}]}\n\n' + END) + stream.end() == b'"}]}\n\n' + END


def test_the_end_is_closed_before_its_bytes_are_handed_over() -> None:
    # the journal must know before the client does
    order: list[str] = []

    def close(_: EventStream) -> bytes:
        order.append("closed")
        return ENERGY

    stream = EventStream(Fingerprint(), close, forced=False, show_usage=True)
    stream.feed(TOKENS)
    assert order == []
    assert stream.feed(END + USAGE_CHUNK)
    order.append("handed over")
    assert order == ["closed", "handed over"]


@given(
    st.lists(
        st.sampled_from(
            ["error", 'a"b', "back\\", '\\"', "", "data: [DONE]", "\n\n", "é🎉", '","x":"', "}]}"]
        )
    )
)
def test_events_of_a_known_form_are_what_they_were_in_a_stream_of_their_own(texts: list[str]) -> None:
    seen = play([TOKENS, *(token(text) for text in texts), END, USAGE_CHUNK, DONE])
    assert (
        seen.out == TOKENS + b"".join(token(text) for text in texts) + END + with_energy(USAGE_CHUNK) + DONE
    )
    assert (seen.tokens, seen.stream.finished, seen.stream.error) == (3 + len(texts), True, None)


def test_an_end_that_follows_events_of_a_known_form_is_seen() -> None:
    inner = b'x"},"finish_reason":null}],"error":{"message":"no"},"choices":[{"index":0,"delta":{"content":"x'
    odd = token("?").replace(b"?", inner)  # it begins and ends as a token does
    seen = play([TOKENS, token("a"), odd])
    assert seen.stream.error == ("no", None)


def test_events_that_come_together_are_counted_one_by_one() -> None:
    def event(text: str) -> bytes:
        return b'data: {"id":"a","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % text.encode()

    stream = EventStream(Fingerprint(b""), lambda _: None, forced=False, show_usage=False)
    assert stream.feed(event("first")) == event("first")
    for texts in (["a", "b", "c"], ["", "x"], ['\\"', "q"], ["a\\\\", "b"], ["\\n", "}", "]"]):
        together = b"".join(map(event, texts))
        assert stream.feed(together) == together
        assert stream.tokens == len(texts)
