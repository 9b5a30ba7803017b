"""Meters: where the joules come from. `meter.NvmlMeter` is the one to use."""
