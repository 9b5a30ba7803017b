"""`joulegate demo`: the whole of joulegate on a simulated GPU, in under a minute."""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from joulegate.demo import load, report
from joulegate.process import ProxyNotReady, ProxyProcess
from joulegate.reporting.looking import console as as_wide_as_there_is_room
from simulator.gpu.library import LibraryError
from simulator.process import EngineNotReady, SimulatedEngine

MODEL = "llama-3.1-8b"
IN_FLIGHT = 16


@click.command()
@click.option(
    "--keep", type=click.Path(path_type=Path), help="Keep journal, store and logs in this directory."
)
@click.option(
    "--requests",
    default=load.USUAL,
    show_default=True,
    type=click.IntRange(6, 1000),
    help="How many to send.",
)
@click.option("--stay", is_flag=True, help="Leave engine and proxy running until Enter is pressed.")
def command(keep: Path | None, requests: int, stay: bool) -> None:
    """Send a mixed load through the proxy to a simulated vLLM on a simulated H100, and show what each request
    cost in joules, and that the books balance.
    """
    console = as_wide_as_there_is_room()
    where: AbstractContextManager[str] = (
        tempfile.TemporaryDirectory(prefix="joulegate-demo-") if keep is None else nullcontext(str(keep))
    )
    with where as name:
        directory = Path(name)
        console.print(
            "[bold]joulegate demo[/bold]: a simulated H100 with a simulated vLLM, the real proxy and meter"
        )
        try:
            with (
                console.status("starting the engine") as status,
                SimulatedEngine(directory / "engine", model=MODEL, options=["--max-num-seqs", "8"]) as engine,
            ):
                status.update("starting joulegate")
                settings = {
                    "backends": [{"id": "simulated-vllm", "url": engine.url}],
                    "meter": {"library": str(engine.library)},
                }
                with ProxyProcess(directory / "joulegate", settings) as proxy:
                    status.stop()
                    sent = _send(console, proxy.url, requests)
                    report.show(console, proxy.url, engine.url, sent)
                    if stay:
                        console.print(
                            f"\nRunning at {proxy.url} (OpenAI base URL: {proxy.url}/v1). Enter ends it."
                        )
                        sys.stdin.readline()
        except (EngineNotReady, ProxyNotReady, LibraryError) as error:
            raise click.ClickException(str(error)) from error
        if keep is not None:
            console.print(
                f"\nKept in {directory}; compute it again: joulegate replay {directory}/joulegate/data"
            )


def _send(console: Console, url: str, requests: int) -> list[load.Sent]:
    """Send the load, showing progress."""
    asks = load.mixed(requests)
    columns = (TextColumn("sending requests"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    sent = []
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(IN_FLIGHT) as pool:
        bar = progress.add_task("", total=len(asks))
        for future in as_completed([pool.submit(load.send, url, MODEL, ask) for ask in asks]):
            sent.append(future.result())
            progress.advance(bar)
    return sent
