"""The GPU check: what a real GPU's energy counter does, and joulegate's figures beside it, in ten minutes.

- `edges.py`      period and jitter of a counter, out of fast reads; `lag.py` how far it trails the load
- `sampling.py`   whether the counter misses load that comes in step with it
- `reader.py`     the process that reads a counter fast; `calls.py` what every NVML call costs
- `burner.py`     load of a known course, on CUDA or on the simulated board
- `model.py`      a random Llama; `polling.py` its inter-token latency while the counter is polled
- `engine.py`     a small server on transformers' continuous batching; `traffic.py` its clients
- `joules.py`     joulegate in front of it: books, fit of the work model, a controlled A/B
- `machine.py`    hardware and versions; `steps.py` the steps one after the other
"""
