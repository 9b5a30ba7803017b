"""`joulegate sweep` and `joulegate compare`: what a task costs at several loads, and what changed.

- `plan.py`      what is asked of every level
- `load.py`      one level's load: Locust processes, watched and ended
- `api.py`       what joulegate says of it: records, books, the meter
- `steady.py`    where warm-up ends
- `spread.py`    confidence intervals by bootstrap
- `level.py`     one level: load, figures, proof
- `proof.py`     that its energies add up
- `figures.py`   the figures of a level from requests and books
- `results.py`   the directory of a sweep
- `page.py`      the report, of `plots.py` and `tables.py`
- `compare.py`   two sweeps
"""
