"""Diffusion models on the simulator: fits, virtual runs through the ledger, and the comparison."""
