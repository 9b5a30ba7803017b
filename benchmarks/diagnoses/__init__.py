"""What `python -m benchmarks.diagnosis` is made of."""
