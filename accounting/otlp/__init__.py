"""What engines tell in traces: an OTLP receiver for the spans that vLLM sends when a request is done.

- `spans.py`      bytes of an export to the times in it
- `directory.py`  which request a span speaks of
- `receiver.py`   the two tied together: spans in, `RequestTimes` events out, and what became of them counted
- `serve.py`      the two ways in: gRPC and HTTP
"""
