"""The directory of a sweep. A level is written as soon as it is done; a later run goes on from there.

    sweep.json      the plan, versions, and the figures of every level
    levels.csv      the same figures, a line per level
    requests.csv    every request: the client's times, joulegate's joules
    seconds.csv     power, tokens and requests in flight over time
    report.html     all of it to look at
    level-N/        what Locust wrote, and level.json: everything of this level

Where pyarrow is installed (extra `export`) the three tables are there as Parquet, too.
"""

from __future__ import annotations

import csv
import json
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from joulegate.files import replacing
from joulegate.sweep.figures import Second, Seen
from joulegate.sweep.level import Level, Ran
from joulegate.sweep.page import page
from joulegate.sweep.plan import Plan, SweepError
from joulegate.sweep.proof import Proof
from joulegate.sweep.spread import Interval
from simulator.profiles import Point

FORMAT = 1
INTERVALS = [field.name for field in fields(Level) if field.name.endswith("_interval")]
Table = list[dict[str, Any]]


def versions(served: str | None = None) -> dict[str, str]:
    """Of what measures. `served` is the version of the joulegate that answers."""
    found = {"joulegate": served} if served else {}
    for name, label in (("joulegate", "sweep by joulegate"), ("locust", "Locust")):
        try:
            found[label] = version(name)
        except PackageNotFoundError:
            continue
    return {**found, "Python": platform.python_version(), "on": f"{platform.system()} {platform.machine()}"}


class Results:
    """What is in the directory. Raises SweepError for the results of another plan or format.

    A plan of which no level was ever done is no obstacle to another.
    """

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.directory, self.plan = directory, plan
        self.ran: dict[float, Ran] = {}
        directory.mkdir(parents=True, exist_ok=True)
        found, ran = load(directory) if (directory / "sweep.json").exists() else (None, [])
        if not ran:
            self._write(directory / "sweep.json", {"format": FORMAT, "plan": asdict(plan), "levels": []})
            return
        if found != plan:
            different = [f.name for f in fields(Plan) if getattr(found, f.name) != getattr(plan, f.name)]
            other = f"another plan ({', '.join(different)} differ)"
            raise SweepError(f"{directory} has the results of {other}: take another --out")
        self.ran = {one.level.level: one for one in ran}

    def level_directory(self, level: float) -> Path:
        return self.directory / f"level-{level:g}"

    def add(self, ran: Ran) -> None:
        """Keep a level that is done. It is there wholly or not at all."""
        level = ran.level.level
        found = {"level": asdict(ran.level), "seen": [asdict(s) for s in ran.seen]}
        found["seconds"] = [asdict(s) for s in ran.seconds]
        self._write(self.level_directory(level) / "level.json", found)
        self.ran[level] = ran

    def publish(self, about: dict[str, str], paper: Sequence[Point]) -> None:
        """Write everything that is made of the levels."""
        ran = [self.ran[level] for level in sorted(self.ran)]
        levels = [asdict(one.level) for one in ran]
        told = {"format": FORMAT, "plan": asdict(self.plan), "versions": about, "written_at": time.time()}
        self._write(self.directory / "sweep.json", {**told, "levels": levels})
        tables: dict[str, Table] = {
            "levels": [flat(level) for level in levels],
            "requests": [{"level": one.level.level, **asdict(seen)} for one in ran for seen in one.seen],
            "seconds": [
                {"level": one.level.level, **asdict(second)} for one in ran for second in one.seconds
            ],
        }
        for name, table in tables.items():
            write_csv(self.directory / f"{name}.csv", table)
            write_parquet(self.directory / f"{name}.parquet", table)
        (self.directory / "report.html").write_text(page(self.plan, ran, paper, about))

    def _write(self, path: Path, document: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps(document, indent=1) + "\n")


def load(directory: Path) -> tuple[Plan, list[Ran]]:
    """The plan and the levels of a directory. Raises SweepError for what is no sweep."""
    if not (directory / "sweep.json").is_file():
        raise SweepError(f"{directory} does not hold a sweep: there is no sweep.json in it")
    try:
        told = json.loads((directory / "sweep.json").read_text())
        if told.get("format") != FORMAT:
            raise SweepError(f"{directory} was written by another version of joulegate")
        plan = Plan(**{**told["plan"], "load_options": tuple(told["plan"]["load_options"])})
        ran = [_read(path) for path in directory.glob("level-*/level.json")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SweepError(f"{directory} does not hold a sweep: {error}") from error
    return plan, sorted(ran, key=lambda one: one.level.level)


def _read(path: Path) -> Ran:
    found = json.loads(path.read_text())
    level = dict(found["level"])
    for name in INTERVALS:
        level[name] = None if level[name] is None else Interval(*level[name])
    level["proof"] = Proof(**level["proof"])
    return Ran(Level(**level), [Seen(**s) for s in found["seen"]], [Second(**s) for s in found["seconds"]])


def flat(level: dict[str, Any]) -> dict[str, Any]:
    """A level as one line: ttft_ms_p50, joules_per_token_low, proof_records_uj, ..."""
    row: dict[str, Any] = {}
    for name, value in level.items():
        if name.endswith("_interval"):
            low, high = value or (None, None)
            row |= {name.replace("_interval", "_low"): low, name.replace("_interval", "_high"): high}
        elif name.endswith("_ms") and name.split("_")[0] in ("ttft", "itl", "tpot", "e2e"):
            row |= {f"{name}_{part}": (value or {}).get(part) for part in ("p50", "p90", "p99")}
        elif isinstance(value, dict):
            row |= {f"{name}_{key}": inner for key, inner in value.items()}
        else:
            row[name] = value
    return row


def write_csv(path: Path, table: Iterable[dict[str, Any]]) -> None:
    rows = list(table)
    with path.open("w", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def write_parquet(path: Path, table: Table) -> bool:
    """False where pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        return False
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    return True
