"""Check a GPU, or rehearse on the simulated one: `scripts/gpu-check` is the command (docs/gpu-check.md).

    python -m benchmarks.gpucheck --out docs/measurements      every step; writes DATE-GPU.json there
    python -m benchmarks.gpucheck --rehearse --out /tmp        simulated board, tiny model on CPU

The last line is one JSON object: where the report is, and which steps failed. Exit status 1 where one did.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import pynvml

from benchmarks.gpucheck import show, steps


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory for the report.")
@click.option("--rehearse", is_flag=True, help="On the simulated GPU. Its figures say nothing of a real one.")
@click.option("--only", multiple=True, type=click.Choice(steps.NAMES), help="Only these steps.")
def main(out: Path, rehearse: bool, only: tuple[str, ...]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"gpu-check-{datetime.now(UTC):%H%M%S}.json"
    try:
        report = steps.run(only, rehearse, partial)
    except pynvml.NVMLError as error:
        raise click.ClickException(
            f"no NVIDIA GPU can be read here: {error} (--rehearse needs none)"
        ) from error
    name = re.sub(r"[^a-z0-9]+", "-", report["machine"]["gpu"].lower()).strip("-")
    path = partial.replace(out / f"{report['machine']['date']}-{name}.json")
    show.show(report)
    failed = {
        name: show.last_line(step["error"]) for name, step in report["steps"].items() if "error" in step
    }
    print(json.dumps({"benchmark": "gpucheck", "rehearsal": rehearse, "report": str(path), "failed": failed}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
