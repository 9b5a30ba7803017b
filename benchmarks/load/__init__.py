"""A made-up load for the ledger alone, in virtual time: many streams in flight, coming and going.

- `streams.py`  the load, with the CPU time that each kind of event cost
- `memory.py`   resident memory of this process
"""
