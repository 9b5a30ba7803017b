"""Energy over known windows, ours beside Zeus; and what reading eight GPUs costs.

- `course.py`    the true power of each GPU: requests of known length, power and distance
- `ours.py`      joulegate's meter and curve; `peer.py` Zeus on the same counters at the same time
- `zeus_run.py`  what runs in Zeus's own environment
- `sampler.py`   CPU and cadence of the sampler
- `report.py`    tables for a terminal and for the docs
"""
