"""`joulegate meter`: this machine's GPUs, measured for a joulegate on another one."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import click
import uvicorn

from accounting.clock import Clock
from accounting.meters.meter import MeterError, NvmlMeter, list_gpus
from accounting.meters.remote_http import RemoteError, Token
from proxy.meter_server import create_meter_app
from proxy.settings_access import is_loopback


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8090, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.option("--token-env", metavar="NAME", help="Environment variable with the bearer token to ask for.")
@click.option("--token-file", type=click.Path(path_type=Path), help="Or a file with it.")
@click.option("--gpu", "gpus", multiple=True, metavar="UUID", help="A GPU to read; all when left out.")
@click.option(
    "--library", type=click.Path(path_type=Path), help="Path of libnvidia-ml.so.1, if it is unusual."
)
@click.option("--node", help="Name of this machine; its own when left out.")
def command(
    host: str,
    port: int,
    token_env: str | None,
    token_file: Path | None,
    gpus: tuple[str, ...],
    library: Path | None,
    node: str | None,
) -> None:
    """Measure the GPUs of this machine for a joulegate on another one.

    The other one has this machine among its `meters`: {source: joulegate, url: http://THIS:8090, token_env:
    NAME}. A token is needed wherever more than this machine can connect; put TLS before it where the network
    is not trusted.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    token = _token(token_env, token_file)
    if token is None and not is_loopback(host):
        raise click.UsageError(f"{host} can be reached from elsewhere: give --token-env or --token-file")
    try:
        found = list_gpus(library)
    except MeterError as error:
        raise click.ClickException(str(error)) from error
    clock = Clock.anchored_now()
    meter = NvmlMeter(clock, gpus=gpus or None, library=library)
    app = create_meter_app(meter, clock, node=node or socket.gethostname(), token=token)
    listener = _listen(host, port)
    server = uvicorn.Server(
        uvicorn.Config(app, ws="none", log_config=None, access_log=False, server_header=False)
    )
    click.echo(f"joulegate meter listens on http://{_shown(host)}:{listener.getsockname()[1]}")
    for gpu in found:
        wanted = not gpus or gpu.uuid in gpus
        click.echo(
            f"  GPU {gpu.uuid or gpu.index}: {gpu.name or gpu.problem}" + ("" if wanted else " (not read)")
        )
    click.echo(
        "  asks for a token" if token is not None else "  for this machine only: no token is asked for"
    )
    server.run(sockets=[listener])
    if not server.started:
        raise click.ClickException("the meter cannot start: see above")


def _token(env: str | None, file: Path | None) -> str | None:
    if env is not None and file is not None:
        raise click.UsageError("give --token-env or --token-file, not both")
    try:
        return Token(env, file).read()
    except RemoteError as error:
        raise click.ClickException(str(error)) from error


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.listen(128)
    return listener
