"""Locust load for an OpenAI-compatible endpoint, with joules where a joulegate answers.

- `prompts.py`    seeded prompts and answer lengths
- `stream.py`     reads one streamed answer: TTFT, tokens, joules
- `locustfile.py` the users; run it with `locust -f loadgen/locustfile.py`
"""
