"""What a route does, in the words of OpenTelemetry's conventions for generative AI (`gen_ai.operation.name`).

The well-known names are chat, text_completion and embeddings; for what they have no name the route's own last
word is used, as the conventions allow. The set is bounded: a route that is not known here is `other`.
"""

from __future__ import annotations

_KNOWN = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/audio/transcriptions": "transcriptions",
    "/v1/audio/translations": "translations",
}
_WORDS = ("pooling", "classify", "score", "rerank")


def operation_of(route: str) -> str:
    """The operation of a path, such as `chat`."""
    known = _KNOWN.get(route)
    if known is not None:
        return known
    last = route.rstrip("/").rpartition("/")[2]
    return last if last in _WORDS else "other"
