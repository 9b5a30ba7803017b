"""Servers that tests and benchmarks start for themselves, on free ports of 127.0.0.1."""
