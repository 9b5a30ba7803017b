"""Engines whose answers differ from vLLM's defaults: directly and through the proxy they read the same.

- `dialects.py`  what each engine answers, as a function of the request
- `replay.py`    the server that answers so, at once or byte by byte
"""
