"""Locust load for an OpenAI-compatible endpoint, with joules where a joulegate answers.

- `prompts.py`    seeded prompts and answer lengths
- `stream.py`     reads one streamed answer: TTFT, tokens, joules
- `locustfile.py` mixed users; run it with `locust -f loadgen/locustfile.py`
- `taskfile.py`   one of the paper's language tasks, in a closed or an open loop
- `lengths.py`    lengths of prompts and answers in the paper; `lengths.json` its data
- `arrivals.py`   when an open loop sends
"""
