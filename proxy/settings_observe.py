"""The settings of what operators see: metrics, the access log, spans."""

from __future__ import annotations

from pathlib import Path

from pydantic import AnyHttpUrl, Field

from proxy.settings_base import Group


class Metrics(Group):
    max_models: int = Field(
        20, ge=1, description="Models that get a label of their own at /metrics; the rest are `other`."
    )
    max_tenants: int = Field(50, ge=1, description="The same for tenants.")


class AccessLog(Group):
    enabled: bool = Field(
        False, description="Whether to write a line of JSON per request, once its joules are final."
    )
    path: Path | None = Field(
        None, description="File to append to, opened again at SIGHUP; standard output when left out."
    )
    sample: float = Field(
        1.0, ge=0, le=1, description="Share of the requests written that went well; others always are."
    )


class Telemetry(Group):
    """Spans that joulegate sends. Those that engines send to joulegate are `otlp`."""

    enabled: bool = Field(False, description="Whether to send a span per request by OTLP (HTTP, JSON).")
    endpoint: AnyHttpUrl = Field(
        AnyHttpUrl("http://127.0.0.1:4318"),
        description="Where the collector listens, without /v1/traces. Headers that it wants are taken from"
        " OTEL_EXPORTER_OTLP_HEADERS in the environment.",
    )
    sample: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the requests without a traceparent that get a span. One with a traceparent is"
        " sampled as that says.",
    )
    wait_s: float = Field(
        3.0,
        ge=0,
        le=60,
        description="How long a span waits for its joules to become final before it is sent.",
    )
    service_name: str = Field("joulegate", description="service.name of the spans.")
    provider_name: str = Field("vllm", description="gen_ai.provider.name of the spans.")
