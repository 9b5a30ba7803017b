"""Says in what two answers differ, after taking away what differs between any two runs of one engine.

Taken away: dates, framing, ids the server made up, creation times, the numbers in `metrics`, and on the
proxied side the proxy's own `energy` object and headers, and a request id where the engine gave none.
Everything else is compared as bytes: the order of keys, spaces and escapes count. Streams are compared as
streams.py tells them.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import Any, Final

from tests.parity.exchange import Answer, Case
from tests.parity.streams import tell

PROXY_HEADERS: Final = ("x-joulegate-",)
"""How the names of the headers start that the proxy may add."""

# Framing and connection headers belong to one hop each (RFC 9110, 7.6.1); a date changes by itself.
_PER_HOP: Final = {"date", "content-length", "transfer-encoding", "connection", "keep-alive"}

_ID: Final = re.compile(
    rb'"(id|item_id)":( ?)"(chatcmpl|cmpl|resp|msg|embd|pooling|modelperm|chatcmpl-tool|call|fc|rs)[-_][^"]*"'
)
_BARE_ID: Final = re.compile(rb'"id":( ?)"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"')
"""As `transformers serve` makes them."""
_TIME: Final = re.compile(rb'"(created|created_at|completed_at)":( ?)[0-9.]+')
_METRIC: Final = re.compile(
    rb'"(time_to_first_token_ms|generation_time_ms|queue_time_ms|mean_itl_ms|tokens_per_second)"'
    rb":( ?)[-+.eE0-9]+"
)
# The second of two equal prompts finds more in the prefix cache than the first.
_CACHED: Final = re.compile(rb'"(cached_tokens|created_cache_tokens)":( ?)[0-9]+')
# The proxy's object, with a comma that joins it to its neighbours. Quotes inside strings are escaped, so text
# that a model wrote cannot look like this.
_OBJECT: Final = rb'"energy":\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})'
_ENERGY: Final = re.compile(rb",\s*" + _OBJECT + rb"|" + _OBJECT + rb",?")


def differences(direct: Answer, proxied: Answer, case: Case) -> list[str]:
    """What a client would notice, as lines to read; empty when nothing."""
    found: list[str] = []
    if direct.status != proxied.status:
        found.append(f"status {direct.status} became {proxied.status}")
    if direct.header("x-request-id") and not proxied.header("x-request-id"):
        found.append("x-request-id is missing")
    found += _diff("headers", _headers(direct, case), _headers(proxied, case))
    before, after = scrub(direct.body, case), scrub(without_energy(proxied.body), case)
    if direct.is_stream and proxied.is_stream:
        found += _diff("stream", tell(before), tell(after))
    else:
        found += _diff("body", _pieces(before), _pieces(after))
    return found


def without_energy(body: bytes) -> bytes:
    """The body without the proxy's `energy` objects."""
    return _ENERGY.sub(b"", body)


def energy_objects(body: bytes) -> list[dict[str, Any]]:
    """The `energy` objects that the proxy added to a body or to the events of a stream, in order."""
    return [json.loads(match[1] or match[2]) for match in _ENERGY.finditer(body)]


def scrub(body: bytes, case: Case) -> bytes:
    """The body without what changes from run to run. Ids that the request named stay, and so do the counts of
    cached tokens where the case was played once before."""
    if not case.own_id:
        body = _BARE_ID.sub(rb'"id":\1"<uuid>"', _ID.sub(rb'"\1":\2"<\3>"', body))
    if not case.repeated:
        body = _CACHED.sub(rb'"\1":\g<2>0', body)
    body = _TIME.sub(rb'"\1":\g<2>0', body)
    return _METRIC.sub(rb'"\1":\g<2>0.0', body)


def _headers(answer: Answer, case: Case) -> list[str]:
    lines = []
    for name, value in sorted(answer.headers):
        if name in _PER_HOP or name.startswith(PROXY_HEADERS):
            continue
        if name == "x-request-id" and not case.own_id:
            continue
        lines.append(f"{name}: {value.replace(answer.base_url, '<server>')}")
    return lines


def _pieces(body: bytes) -> list[str]:
    """The body in pieces short enough to read, cut before keys and elements. Joined they are the body."""
    return re.split(r'(?<=,)(?=\s*["{\[])', body.decode("utf-8", "backslashreplace"))


def _diff(what: str, direct: list[str], proxied: list[str]) -> list[str]:
    lines = difflib.unified_diff(direct, proxied, f"{what}, direct", f"{what}, proxied", n=1, lineterm="")
    return [line if len(line) <= 600 else f"{line[:600]}... ({len(line)} characters)" for line in lines]
