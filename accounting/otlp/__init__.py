"""What engines tell in traces: an OTLP receiver for the spans that vLLM sends when a request is done.

- `spans.py`      bytes of an export to the times in it
- `directory.py`  which request a span speaks of
- `receiver.py`   the two tied together: spans in, `RequestTimes` events out, and what became of them counted
- `serve.py`      the two ways in: gRPC and HTTP

OpenTelemetry sends spans in batches, every 5 s by default: vLLM's came 3 to 5 s after the end of their
request, when its record is final already. `OTEL_BSP_SCHEDULE_DELAY=200` (milliseconds) in the engine's
environment is OpenTelemetry's way to have them sooner.
"""


class OtlpError(Exception):
    """The receiver cannot be started; the message says why."""
