"""Traces with known truth: an engine that batches continuously in virtual time, and what joulegate sees.

- `scenario.py`  what is run: model, GPUs, load, and what is odd about it
- `demand.py`    the requests that arrive
- `step.py`      time and energy of one engine step, and every request's part of it (the truth)
- `engine.py`    steps one after the other, from the arrivals to the last token
- `counter.py`   the GPU's energy counter above it, as a meter reads it
- `telling.py`   the events that the live service would say
- `trace.py`     all of it together

Everything follows from the scenario and its seed. Nothing is read or written.
"""
