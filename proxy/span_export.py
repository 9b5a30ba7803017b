"""Sends spans to an OpenTelemetry collector: OTLP over HTTP, in its JSON form.

JSON because it needs no package beyond those that are there, and because it is cheap: some 40 us a span, made
a few spans at a time between the loop's other work (a thread would hold the interpreter's lock for longer).
Ids are hexadecimal and 64-bit integers are strings, as the OTLP specification says of its JSON form.
Failures that may pass (no connection, 429, 5xx) are tried again later; what the collector refuses otherwise
is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import httpx
import msgspec

from accounting.records import RequestRecord
from proxy.energy import attribution_method
from proxy.operations import operation_of
from proxy.settings_observe import Telemetry as Settings
from proxy.telemetry import Span, Telemetry

log = logging.getLogger(__name__)

EVERY_S = 0.5
BATCH = 512
SLICE = 8
"""Spans made in one go: the relay waits no longer than that takes."""

TIMEOUT_S = 10.0
LONGEST_PAUSE_S = 30.0
STOP_S = 3.0
"""At a stop the collector gets this long for what is left."""

SERVER = 2
ERROR = 2
"""Numbers of SPAN_KIND_SERVER and STATUS_CODE_ERROR in OTLP."""

HEADERS_VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"

Attribute = dict[str, Any]


class CollectorAway(Exception):
    """It did not take them this time."""


class CollectorRefused(Exception):
    """It will never take these."""


@asynccontextmanager
async def exporting(telemetry: Telemetry, settings: Settings, version: str) -> AsyncIterator[None]:
    """Spans are sent meanwhile; at the end what is left, within `STOP_S`."""
    async with httpx.AsyncClient(timeout=TIMEOUT_S, headers=headers_from(os.environ)) as client:
        exporter = Exporter(telemetry, settings, version, client)
        task = asyncio.create_task(exporter.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            try:
                async with asyncio.timeout(STOP_S):
                    await exporter.send(telemetry.take(all_of_them=True))
            except (CollectorAway, TimeoutError) as error:
                log.warning("the last spans were not sent: %s", error)


def headers_from(environment: Mapping[str, str]) -> dict[str, str]:
    """`a=b,c=d` of the variable that OpenTelemetry's own exporters use, values percent-encoded."""
    pairs = [pair.partition("=") for pair in environment.get(HEADERS_VARIABLE, "").split(",")]
    return {name.strip(): unquote(value.strip()) for name, is_pair, value in pairs if is_pair}


class Exporter:
    def __init__(
        self, telemetry: Telemetry, settings: Settings, version: str, client: httpx.AsyncClient
    ) -> None:
        self._telemetry, self._settings, self._client = telemetry, settings, client
        self._url = str(settings.endpoint).rstrip("/") + "/v1/traces"
        self._resource = _attributes({"service.name": settings.service_name, "service.version": version})
        self._scope = {"name": "joulegate", "version": version}

    async def run(self) -> None:
        """Send what is ready, again and again; runs until cancelled."""
        pause_s = EVERY_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self.send(self._telemetry.take())
            except CollectorAway as error:
                if pause_s == EVERY_S:
                    log.warning("no spans can be sent to %s: %s", self._url, error)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                pause_s = EVERY_S

    async def send(self, spans: list[Span]) -> None:
        """All of them, batch by batch. Raises CollectorAway; what is left then goes back to be sent later."""
        while spans:
            batch = spans[:BATCH]
            try:
                await self._post(await self.encode(batch))
            except CollectorRefused as error:
                self._telemetry.dropped += len(batch)
                log.warning("%d spans are lost: %s", len(batch), error)
            except (CollectorAway, asyncio.CancelledError):
                self._telemetry.give_back(spans)
                raise
            else:
                self._telemetry.sent += len(batch)
            spans = spans[BATCH:]

    async def _post(self, body: bytes) -> None:
        headers = {"content-type": "application/json"}
        try:
            answer = await self._client.post(self._url, content=body, headers=headers)
        except httpx.HTTPError as error:
            raise CollectorAway(f"{type(error).__name__}: {error}") from error
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            raise CollectorAway(f"it answers {answer.status_code}")
        if answer.status_code >= 300:
            raise CollectorRefused(f"{self._url} answers {answer.status_code}: {answer.text[:200]}")

    async def encode(self, spans: Sequence[Span]) -> bytes:
        """An ExportTraceServiceRequest."""
        shown = []
        for number, span in enumerate(spans, 1):
            if span.record is not None:
                shown.append(msgspec.Raw(msgspec.json.encode(self._span(span, span.record))))
            if number % SLICE == 0:
                await asyncio.sleep(0)
        scope = {"scope": self._scope, "spans": shown}
        resource = {"attributes": self._resource}
        return msgspec.json.encode({"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]})

    def _span(self, span: Span, record: RequestRecord) -> dict[str, Any]:
        operation = operation_of(record.route)
        shown: dict[str, Any] = {
            "traceId": span.trace_id,
            "spanId": span.span_id,
            "parentSpanId": span.parent_id,
            "flags": span.flags,
            "name": f"{operation} {record.model}" if record.model else operation,
            "kind": SERVER,
            "startTimeUnixNano": str(record.started_us * 1000),
            "endTimeUnixNano": str(record.finished_us * 1000),
            "attributes": _attributes(self._facts(span, record, operation)),
        }
        if record.first_token_us is not None:
            shown["events"] = [
                {"name": "first token", "timeUnixNano": str(record.first_token_us * 1000), "attributes": []}
            ]
        if record.status in ("engine_error", "lost") or (record.http_status or 0) >= 500:
            shown["status"] = {"code": ERROR}
        return shown

    def _facts(self, span: Span, record: RequestRecord, operation: str) -> dict[str, object]:
        """Attributes; those that are None are left out."""
        return {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": self._settings.provider_name,
            "gen_ai.request.model": record.model,
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
            "http.request.method": "POST",
            "http.response.status_code": record.http_status,
            "http.request.resend_count": span.tries - 1 or None,
            "url.path": record.route,
            "error.type": None if record.status == "ok" else record.status,
            "joulegate.request.id": record.request_id,
            "joulegate.request.uid": record.uid,
            "joulegate.request.streamed": record.streamed,
            "joulegate.backend": record.backend,
            "joulegate.tenant": record.tenant,
            "joulegate.energy.state": record.state,
            "joulegate.energy.joules": _joules(record.energy_uj),
            "joulegate.energy.prefill_joules": _joules(record.prefill_uj),
            "joulegate.energy.decode_joules": _joules(record.decode_uj),
            "joulegate.energy.uncertainty_joules": _joules(record.uncertainty_uj),
            "joulegate.energy.unmeasured_seconds": record.unmeasured_us / 1e6 or None,
            "joulegate.energy.method": attribution_method(record),
        }


def _joules(energy_uj: int | None) -> float | None:
    return None if energy_uj is None else energy_uj / 1e6


def _attributes(facts: Mapping[str, object]) -> list[Attribute]:
    return [{"key": key, "value": _value(value)} for key, value in facts.items() if value is not None]


def _value(value: object) -> dict[str, object]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": str(value)}
