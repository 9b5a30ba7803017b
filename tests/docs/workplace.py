"""A place where what the documents say can be typed: a proxy, a simulated engine, a store with a past.

Addresses, names of models, dates and lengths of runs are put in for those of the text (`PUT_IN`); nothing
else of a command is changed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import yaml

from accounting.records import MINUTE_US
from accounting.store.engine import connect, migrate
from accounting.store.writer import StoreWriter
from simulator.process import SimulatedEngine
from tests.accounting.diagnosis.examples import facts
from tests.accounting.store.examples import record
from tests.docs.blocks import ROOT, Block
from tests.proxy.stack import Stack, metered, running

MODEL = "llama-3.1-8b"
REQUEST_ID = "the-request-of-the-documents"
DEADLINE_S = 120

STARTS_A_SERVER = re.compile(r"^(?:\.venv/bin/)?(?:joulegate (?:serve|meter) |python -m simulator serve )")
SHELL = r"""
set -euo pipefail
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid"; done
    for pid in "${pids[@]}"; do wait "$pid" || [ $? = 143 ]; done
}
server() {  # starts a command that serves, and goes on once it does
    local log; log=$(mktemp -p .)
    "$@" > "$log" 2>&1 &
    local pid=$!
    until grep -qE "listens on http|ready on http" "$log"; do
        kill -0 "$pid" || { cat "$log"; return 1; }
        sleep 0.1
    done
    pids+=("$pid")
}
trap finish EXIT
set -x
"""


@dataclass
class Workplace:
    stack: Stack
    engine: SimulatedEngine
    past: Path
    """A data directory with requests of this month and the last, and facts of the last hours."""
    used: set[str] = field(default_factory=set)
    """Of PUT_IN, what was needed."""

    def put_in(self, text: str) -> str:
        """In one pass: what is put in may look like another of the patterns."""
        now = datetime.now(UTC)
        values = {
            "proxy": self.stack.proxy.url,
            "engine": self.engine.url,
            "month": f"{now:%Y-%m}",
            "before": f"{now.replace(day=1) - timedelta(days=1):%Y-%m}",
            "today": f"{now:%Y-%m-%d}",
            "since": f"{now - timedelta(hours=2):%Y-%m-%dT%H:%M}",
            "until": f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M}",
            "then": int(now.timestamp()) // 86_400 * 86_400,
        }

        def instead(found: re.Match[str]) -> str:
            assert found.lastindex is not None
            pattern = list(PUT_IN)[found.lastindex - 1]
            self.used.add(pattern)
            return PUT_IN[pattern].format(**values)

        return re.sub("|".join(f"({pattern})" for pattern in PUT_IN), instead, text)

    def settings(self, data_dir: Path) -> dict[str, Any]:
        backends = [{"id": "engine", "url": self.engine.url}]
        meter = {"library": str(self.engine.library)}
        billing = yaml.safe_load(BILLING)
        return {"backends": backends, "meter": meter, "data_dir": str(data_dir), **billing}

    def type(self, commands: list[Block], directory: Path) -> subprocess.CompletedProcess[str]:
        """Run the commands of a page there, one after the other, in one shell."""
        directory.mkdir()
        for name in (".venv", "loadgen"):
            (directory / name).symlink_to(ROOT / name)
        lines = [SHELL]
        for block in commands:
            lines += self._lines(block, directory)
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(directory),
            "JOULEGATE_SERVER__PORT": "0",
            **self.engine.nvml_environment,
        }
        command = ["bash", "-c", "\n".join(lines)]
        with subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as shell:
            try:
                said, _ = shell.communicate(timeout=DEADLINE_S)
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(command, shell.returncode, said)

    def _lines(self, block: Block, directory: Path) -> Iterator[str]:
        if block.language == "python":
            script = directory / f"block-{len(list(directory.glob('block-*')))}.py"
            script.write_text(self.put_in(block.commands[0]))
            yield f"python {script.name}"
            return
        serves = any(STARTS_A_SERVER.match(line) for line in block.commands)
        if not serves or any("joulegate.yaml" in line for line in block.commands):
            written = "serving.yaml" if serves else "reading.yaml"
            settings = self.settings(directory / "own" if serves else self.past)
            (directory / written).write_text(yaml.safe_dump(settings))
            yield f"cp {written} joulegate.yaml"
        else:
            yield "rm -f joulegate.yaml"
        for line in block.commands:
            yield from BEFORE.get(line, ())
            yield ("server " if STARTS_A_SERVER.match(line) else "") + self.put_in(line)


PUT_IN = {
    r"http://127\.0\.0\.1:8080": "{proxy}",
    r"http://127\.0\.0\.1:8000": "{engine}",
    r"^joulegate sweep": "joulegate sweep --url {proxy}",
    r"--port \d+": "--port 0",
    r"--host 0\.0\.0\.0": "--host 127.0.0.1",
    r"--model (?:NAME|meta-llama/Llama-3\.1-8B-Instruct)": f"--model {MODEL}",
    r"REQUEST_ID": REQUEST_ID,
    r"2026-11-23T08:00": "{since}",
    r"2026-11-23T20:00": "{until}",
    r"2026-11-\d\d": "{today}",
    r"--month 2026-11 --close": "--month {before} --close",
    r"2026-11": "{month}",
    r"1795392000": "{then}",
    r"-u 16 -r 16": "-u 2 -r 2",
    r"-t 120s": "-t 2s",
    r"--seconds 120": "--seconds 4 --shorter 0.02",
    r"--out sweep-code": "--seconds 4 --shorter 0.02 --out sweep-code",
    r"--levels [\d,]+": "--levels 2",
}
"""What stands in the documents, as a pattern without groups, and what is typed for it; the first counts."""

BEFORE = {
    "joulegate compare sweep-before sweep-after": (
        "cp -r sweep-chat sweep-before",
        "cp -r sweep-chat sweep-after",
    ),
}
"""What has to be there before a command."""

BILLING = """
billing:
  issuer: Example Compute
  currency: EUR
"""


def write_past(directory: Path) -> None:
    """Requests of now and of the month before, and facts of the last two hours."""
    now_us = int(datetime.now(UTC).timestamp()) * 1_000_000
    month_us = 31 * 86_400_000_000
    engine = connect(f"sqlite:///{directory}/joulegate.db")
    migrate(engine)
    writer = StoreWriter(engine, "journal-1")
    whose: dict[str, Any] = {"backend": "engine", "model": MODEL, "tenant": "acme", "project": "lab"}
    for n in range(40):
        finished_us = now_us - (5 + n) * 60_000_000 - (month_us if n % 2 else 0)
        times = {"started_us": finished_us - 2_000_000, "finished_us": finished_us}
        writer.put([record(n, prompt_tokens=100, completion_tokens=50, **times, **whose)], segment=0)
    first_us = now_us // MINUTE_US * MINUTE_US - 120 * MINUTE_US
    for n in range(110):
        seen = facts(n, batch=2.0 + n % 30, steps=3_000.0)
        writer.put(
            [msgspec.structs.replace(seen, backend="engine", t0_us=first_us + n * MINUTE_US)], segment=0
        )
    assert writer.close(timeout_s=20)
    engine.dispose()


@contextmanager
def workplace(directory: Path) -> Iterator[Workplace]:
    past = directory / "past"
    past.mkdir(parents=True)
    write_past(past)
    with (
        # A small model under the name of the documents: it answers sooner.
        SimulatedEngine(directory / "engine", options=["--served-model-name", MODEL]) as engine,
        running(directory / "proxy", metered(engine)) as stack,
    ):
        body = {"model": MODEL, "prompt": "A joule is", "max_tokens": 8}
        answer = stack.post(body, "/v1/completions", REQUEST_ID, x_joulegate_tenant="search")
        assert answer.status_code == 200
        stack.stored(1)
        yield Workplace(stack, engine, past)
