"""Benchmarks, each a module run as `python -m benchmarks.NAME`; `make bench` runs all in their quick form."""
