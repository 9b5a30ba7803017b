"""What the store costs (`benchmarks.store`).

- `rows.py`     requests to store: thirty days of several models and keys
- `measure.py`  writing, asking, migrating; times and sizes
- `report.py`   aims, the table, docs/store-figures.md
"""
