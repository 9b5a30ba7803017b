"""The settings of how a backend is chosen, kept healthy, and replaced by another."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from proxy.settings_base import Group


class Routing(Group):
    """How one of several backends that serve a model is chosen."""

    policy: Literal["least_work", "round_robin", "pack"] = Field(
        "least_work",
        description="The backend with the fewest tokens in flight; each in turn; or the busiest one that is"
        " within the bounds of pack_*, so that the others stay idle.",
    )
    affinity: list[Literal["session", "prefix"]] = Field(
        ["session"],
        description="Keep requests of one session, or with the same beginning of the prompt, on one backend"
        " where its KV cache has it; the first that a request has counts.",
    )
    session_header: str | None = Field("x-session-id", description="Header that names a session.")
    session_fields: list[str] = Field(
        ["prompt_cache_key"],
        description="Fields of the body that name a session where the header is missing, such as"
        " prompt_cache_key, user.",
    )
    prefix_bytes: int = Field(
        1024, ge=16, le=65_536, description="Bytes of the messages or the prompt that make its prefix."
    )
    affinity_load: float = Field(
        1.5,
        ge=1,
        description="Affinity ends where a backend has more than this many times the mean of the work.",
    )
    affinity_requests: int = Field(
        8, ge=1, description="It never ends for a backend with fewer requests in flight than this."
    )
    output_tokens: int = Field(
        256, ge=1, description="Tokens expected of an answer whose request sets no limit."
    )
    pack_in_flight: int = Field(
        64, ge=1, description="pack: a backend with this many requests in flight is full."
    )
    pack_itl_ms: float = Field(
        50.0, gt=0, description="pack: a backend whose time between tokens is longer is full."
    )
    pack_ttft_ms: float = Field(
        2000.0, gt=0, description="pack: a backend whose time to the first token is longer is full."
    )


class Health(Group):
    interval_s: float = Field(
        10.0, gt=0, description="Time between two looks at a backend's /health and /v1/models."
    )
    interval_down_s: float = Field(
        1.0, gt=0, description="The same for one that does not answer: it may be loading, or come back."
    )
    timeout_s: float = Field(5.0, gt=0, description="For an answer to a look.")
    looks: int = Field(
        3,
        ge=1,
        description="Looks in a row without an answer that make a backend down; one whose connection is"
        " refused is down at once.",
    )
    failures: int = Field(5, ge=1, description="Failed requests in a row that eject a backend.")
    failure_rate: float = Field(
        0.5, gt=0, le=1, description="Share of failures among the latest requests that ejects it."
    )
    rate_over: int = Field(20, ge=2, le=10_000, description="How many latest requests that share is of.")
    ejected_s: float = Field(
        5.0, gt=0, description="Time out of an ejected backend; it doubles each time the trial fails."
    )
    ejected_at_most_s: float = Field(300.0, gt=0, description="Longest time out.")


class Retry(Group):
    tries: int = Field(
        3, ge=1, le=10, description="Backends tried for one request; 1 means that nothing is tried again."
    )
    ratio: float = Field(0.2, ge=0, le=1, description="Retries per request, at most, in the long run.")
    burst: int = Field(10, ge=1, description="Retries that may come at once on top of that.")
