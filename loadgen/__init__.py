"""Locust load for an OpenAI-compatible endpoint, with joules where a joulegate answers.

- `locustfile.py` mixed users; run it with `locust -f loadgen/locustfile.py`
- `taskfile.py`   the paper's seven tasks, in a closed or an open loop
- `user.py`       the user that all are: sends, reads, notes
- `asks.py`       what a request of each task asks; `prompts.py` that of the mixed users
- `real.py`       requests from a data set that the operator has
- `media.py`      pictures and videos made on the fly
- `lengths.py`    lengths of prompts and answers in the paper; `lengths.json` its data
- `arrivals.py`   when an open loop sends
- `stream.py`     reads one streamed answer: times, tokens, joules
- `rows.py`       one line per request
- `settled.py`    final joules, read back
- `watch.py`      whether the load generator keeps up
"""
