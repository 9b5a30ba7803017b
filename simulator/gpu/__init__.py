"""A simulated NVIDIA GPU: a board file with the true energy curve, and an NVML library that shows it."""
