"""Methods of attribution side by side on one trace, and how wrong each is.

- `ours.py`       the ledger itself, fed the events
- `seen.py`       the same events as arrays, for the others
- `baselines.py`  four simpler methods
- `score.py`      errors against the truth, balance of the books, aims
- `report.py`     the table, for a terminal and for the docs; `plot.py` the picture
"""
