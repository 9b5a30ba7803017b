"""The paper's sweeps on the simulator: fits, virtual runs through the ledger, and the comparison."""
