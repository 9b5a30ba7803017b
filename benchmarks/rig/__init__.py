"""What `python -m benchmarks.relay` measures with: systems side by side behind the same load.

- `rig.h`, `*.c`   load and mock engine in one process (compiled at first use by `build.py`)
- `driver.py`      the rig's commands from Python
- `processes.py`   CPU time and memory of a process with its children
- `peers.py`       other proxies: where they come from; `systems.py` how each is started, joulegate among them
- `measure.py`     the figures of one system
- `report.py`      aims, the table, docs/relay.md
"""
