"""`joulegate serve`: the proxy in front of one or more engines."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import uvicorn
from fastapi import FastAPI

from accounting.journal import JournalError
from accounting.meters.contract import MeterError
from accounting.otlp import OtlpError
from accounting.store.engine import StoreError
from joulegate import __version__
from joulegate.unusable import usable_settings
from proxy.app import create_app
from proxy.listening import listen, listen_first
from proxy.meters import Found, FoundGpu, look, named
from proxy.settings import Settings, load
from proxy.settings_access import is_loopback
from proxy.startable import missing
from proxy.workers.crew import Crew

DEFAULT_FILE = Path("joulegate.yaml")

SWITCH_S = 0.0005
"""How soon a thread has to let another one in that waits for the interpreter."""

NO_CONFIGURATION = """\
joulegate needs to know the engine it stands in front of. Any one of these will do:

  joulegate serve --backend http://127.0.0.1:8000     one engine, all GPUs of this machine
  joulegate serve --config joulegate.yaml             as written in a file such as

      backends:
        - id: llama
          url: http://127.0.0.1:8000

  joulegate demo                                      no engine at hand: a simulated one, to see it work
"""

NO_GPU = """

Without an NVIDIA GPU there are no joules to measure. You can
  - run joulegate on the machine with the GPUs, next to the engine;
  - name the library in meter.library, if the driver is installed in an unusual place;
  - measure on the machine that has them: `joulegate meter` there, and `meters` in the settings here;
  - name GPUs that come later in the backend's `gpus`;
  - see it work on a simulated GPU: joulegate demo
  - serve all the same, with every energy null: --no-meter (or meter.source: none).
"""

NO_ANSWER = """

A backend wants GPUs that only this meter can tell. See to it, or
  - name the GPUs in the backend's `gpus`: requests are then served until it answers;
  - serve all the same, with every energy null: --no-meter (or meter.source: none).
"""


@click.command()
@click.option("--config", "-c", type=click.Path(path_type=Path), help="YAML file with the settings.")
@click.option("--backend", "-b", "urls", multiple=True, metavar="URL", help="An engine; may be given again.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the journal and the database go.")
@click.option("--no-meter", is_flag=True, help="Serve without measuring; every energy is null.")
def command(
    config: Path | None,
    urls: tuple[str, ...],
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    no_meter: bool,
) -> None:
    """Run the proxy.

    Settings come from --config (or ./joulegate.yaml), from JOULEGATE_ environment variables, and from the
    options here, each over the one before.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with usable_settings():
        load_written = _loader(config, urls, host, port, data_dir, no_meter)
        found = _look(load_written())

        def load_settings() -> Settings:
            return named(load_written(), found)

        settings = load_settings()
    _open_files()
    listener = _listen(settings)
    gpus = list({gpu.gpu: gpu for one in reversed(found) for gpu in one.gpus}.values())
    app = create_app(settings, [gpu.gpu for gpu in gpus], version=__version__, load=load_settings)
    server = _Server(
        app,
        uvicorn.Config(
            app,
            loop="uvloop",
            http=cast(type[asyncio.Protocol], _Front(app)),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=math.ceil(settings.server.drain_s),
        ),
    )
    signals: list[int] = []

    def stop(received: int, _: object) -> None:
        signals.append(received)
        server.should_exit = True  # it may come before uvicorn listens to signals itself

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    async def serve() -> None:
        # The lifespan is entered here and not by uvicorn, so that what fails in it can be told in a line.
        async with app.router.lifespan_context(app), server.workers(*listener.getsockname()[:2]):
            if signals:
                return
            _banner(settings, gpus, listener.getsockname()[1])
            _tune()
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.reload)
            await server.serve(sockets=[listener])

    try:
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(serve())
    except (StoreError, JournalError, MeterError, OtlpError) as error:
        raise click.ClickException(str(error)) from error
    for received in signals[:1]:
        # All is done: end by the signal, as whoever sent it expects. (uvicorn hands it on to us at its end.)
        signal.signal(received, signal.SIG_DFL)
        signal.raise_signal(received)


class _Server(uvicorn.Server):
    """The main process' server, and what the workers have to do with it."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._state = app.state

    @asynccontextmanager
    async def workers(self, host: str, port: int) -> AsyncIterator[None]:
        """The other processes, where there are any, listen meanwhile."""
        crew: Crew | None = self._state.crew
        if crew is None:
            yield
            return
        async with crew.running(host, port, self._connection):
            yield

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self._state.front(self.config, self.server_state, {})
        return made

    def reload(self) -> None:
        """Take in the settings as they are now, everywhere."""
        if self._state.reloader.reload().fault is None and self._state.crew is not None:
            self._state.crew.reload()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """All processes drain at the same time."""
        if self._state.crew is not None:
            self._state.crew.drain()
        await super().shutdown(sockets)


class _Front:
    """What uvicorn makes connections with: the relay's, there only once the application has begun."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def __call__(self, **given: Any) -> asyncio.Protocol:
        made: asyncio.Protocol = self._app.state.front(**given)
        return made


def _tune() -> None:
    """What is there by now stays: the collector need not look through it again and again. The relay makes no
    cycles, so it is rarely needed at all. And the event loop gets the interpreter back soon from the threads
    that write: in Python's default time, 5 ms, ten tokens could pass."""
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _open_files() -> None:
    """Two files per request under way: take as many as the system allows without asking."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loader(
    config: Path | None,
    urls: tuple[str, ...],
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    no_meter: bool,
) -> Callable[[], Settings]:
    """Reads the settings, each time it is called. Ends the program where there is nothing to read."""
    if config is None and not urls and DEFAULT_FILE.exists():
        config = DEFAULT_FILE
    if config is None and not urls and "JOULEGATE_BACKENDS" not in os.environ:
        click.echo(NO_CONFIGURATION, err=True)
        sys.exit(2)
    values: dict[str, object] = {}
    if urls:
        ids = ["engine"] if len(urls) == 1 else [f"engine-{i}" for i in range(1, len(urls) + 1)]
        values["backends"] = [{"id": i, "url": url} for i, url in zip(ids, urls, strict=True)]
    options = {
        "server": {"host": host, "port": port},
        "data_dir": data_dir,
        "meter": {"source": "none" if no_meter else None},
    }
    return partial(load, config, values, options, more=missing)


def _look(settings: Settings) -> list[Found]:
    """What can be measured. Ends the program where a meter tells nothing and the settings want its GPUs."""
    found = look(settings)
    problems = [one.problem for one in found if one.problem is not None]
    if problems and any(isinstance(backend.gpus, str) for backend in settings.backends):
        here = any(one.meter == "nvml" and one.problem is not None for one in found)
        click.echo("\n".join(problems) + (NO_GPU if here else NO_ANSWER), err=True)
        sys.exit(2)
    for problem in problems:
        # GPUs are named: they may come back, and requests are served meanwhile.
        logging.getLogger(__name__).error("not all GPUs can be measured now: %s", problem)
    return found


def _listen(settings: Settings) -> socket.socket:
    server = settings.server
    try:
        if server.workers > 1:
            return listen_first(server.host, server.port)
        return listen(server.host, server.port, shared=False)
    except OSError as error:
        where = f"{server.host}:{server.port}"
        raise click.ClickException(f"cannot listen on {where}: {error.strerror}") from error


def _access(settings: Settings) -> str:
    if settings.access.enabled:
        return "with a key only (joulegate keys create)"
    where = "this machine" if is_loopback(settings.server.host) else "THE NETWORK"
    return f"no key is asked for: whoever reaches {settings.server.host} on {where} may use everything"


def _banner(settings: Settings, gpus: list[FoundGpu], port: int) -> None:
    host = settings.server.host
    base = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    click.echo(f"joulegate listens on {base} (OpenAI base URL: {base}/v1)")
    for backend in settings.backends:
        click.echo(f"  backend {backend.id}: {backend.url}")
    for gpu in gpus:
        click.echo(f"  GPU {gpu.gpu}: {gpu.device}")
    if not gpus:
        click.echo("  no GPU is measured: energies will be null")
    click.echo(f"  access: {_access(settings)}")
    click.echo(f"  journal and store: {settings.data_dir}" + (" and SQL" if settings.database_url else ""))
    click.echo(f"  energy per request: {base}/v1/energy/requests   API: {base}/docs")
