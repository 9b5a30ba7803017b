"""Faults of the database, the disk and joulegate itself, caused for real under load (`benchmarks.chaos`).

- `load.py`    clients that note what they got and how long it took
- `system.py`  a simulated engine, a joulegate and its database; what must hold after a fault
- `cases.py`   the faults
- `kills.py`   SIGKILL at random moments, of everything there is
- `keys.py`    keys with budgets, and whether these are right
- `disk.py`    a small disk that can be filled
- `delay.py`   a socket between joulegate and its database that makes it slow
"""
