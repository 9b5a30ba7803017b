"""`joulegate sweep`: one task at several numbers in flight, and what each cost.

- `level.py`  one level: Locust beside the proxy, its steady state from joulegate's records and books
- `page.py`   the report: one HTML file with its plots in it
"""
