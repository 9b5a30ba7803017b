"""Runs in Zeus's own environment: measures windows with ZeusMonitor at the times it is told.

    zeus_run.py PLAN.json RESULT.json     the plan: [[gpu, t0_us, t1_us], ...] in monotonic microseconds

The result has for each window when Zeus began and ended (the middle of its calls) and the joules it gave.
"""

import json
import sys
import time

from zeus.monitor import ZeusMonitor


def wait_until(t_us: int) -> None:
    left_s = t_us / 1e6 - time.monotonic() - 0.0008
    if left_s > 0:
        time.sleep(left_s)
    while time.monotonic_ns() // 1000 < t_us:
        pass


def main() -> None:
    plan_path, result_path = sys.argv[1:]
    with open(plan_path) as file:
        plan = json.load(file)
    monitors = {gpu: ZeusMonitor(gpu_indices=[gpu], cpu_indices=[]) for gpu in {row[0] for row in plan}}
    print("ready", flush=True)
    moments = sorted(
        [(row[1], i, True) for i, row in enumerate(plan)] + [(r[2], i, False) for i, r in enumerate(plan)]
    )
    times = [[0.0, 0.0] for _ in plan]
    joules = [0.0 for _ in plan]
    for t_us, i, begins in moments:
        gpu = plan[i][0]
        wait_until(t_us)
        before_ns = time.monotonic_ns()
        if begins:
            monitors[gpu].begin_window(str(i), sync_execution=False)
        else:
            joules[i] = monitors[gpu].end_window(str(i), sync_execution=False).gpu_energy[gpu]
        times[i][not begins] = (before_ns + time.monotonic_ns()) / 2000
    with open(result_path, "w") as file:
        json.dump([[t0, t1, joule] for (t0, t1), joule in zip(times, joules, strict=True)], file)


main()
