"""`python -m simulator serve`: a simulated engine on 127.0.0.1. See `--help`.

Language models are served as by vLLM, diffusion models as by vLLM-Omni.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import click
import uvicorn
from starlette.types import ASGIApp

from simulator import catalog
from simulator.card_file import CardError
from simulator.cards import BLOCK_TOKENS, GPUS
from simulator.catalog import Offer
from simulator.diffusion import catalog as diffusion
from simulator.diffusion.engine import DiffusionEngine
from simulator.diffusion.metrics import DiffusionMetrics
from simulator.diffusion.server import create_app as diffusion_app
from simulator.engine import Engine
from simulator.faults import Faults
from simulator.gpu import board as boards
from simulator.gpu.board import Board
from simulator.gpu.load import Turns
from simulator.metrics import Metrics
from simulator.process import READY
from simulator.profiles import profiles
from simulator.scheduler import Scheduler
from simulator.server import create_app
from simulator.surface import Config

SPECS = {"h100": boards.H100, "b200": boards.B200}


@click.group()
def main() -> None:
    """A vLLM-like engine, or a diffusion server, in real time on simulated GPUs."""


@main.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one"
)
@click.option(
    "--board", type=click.Path(path_type=Path), required=True, help="file with the GPUs' true curves"
)
@click.option("--create-board", is_flag=True, help="make the board, with just the GPUs that are needed")
@click.option("--gpu", type=click.Choice(sorted(GPUS)), default="h100", show_default=True)
@click.option("--gpus", type=click.IntRange(1, 16), default=1, show_default=True, help="tensor-parallel GPUs")
@click.option(
    "--first-gpu", type=click.IntRange(0), default=0, show_default=True, help="its index on the board"
)
@click.option("--model", default="llama-3.1-8b", show_default=True, help="see `models`")
@click.option(
    "--model-card", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="instead of --model"
)
@click.option("--task", default=None, help="whose measurements a measured model follows; default: the first")
@click.option("--served-model-name", default=None, help="default: the model's name")
@click.option("--max-num-seqs", type=click.IntRange(1), default=256, show_default=True)
@click.option("--max-num-batched-tokens", type=click.IntRange(1), default=8192, show_default=True)
@click.option(
    "--max-model-len", type=click.IntRange(2), default=None, help="default: the model's, if it fits"
)
@click.option("--kv-blocks", type=click.IntRange(1), default=None, help="default: what fits into memory")
@click.option(
    "--max-batch-size",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="diffusion: images or videos side by side; 1: one request after the other",
)
@click.option(
    "--share-gpu", is_flag=True, help="take turns on the GPUs with another engine that says so, too"
)
@click.option("--metrics-per-request/--no-metrics-per-request", default=True, show_default=True)
@click.option("--log-iterations", is_flag=True, help="one line per engine step on stderr")
@click.option("--allow-faults", is_flag=True, help="serve POST /simulator/fault")
@click.option(
    "--until-stdin-ends", is_flag=True, help="end when stdin does: with the parent, if it is a pipe"
)
@click.option("--seed", type=int, default=0, show_default=True, help="of the noise on time and energy")
def serve(
    port: int,
    board: Path,
    create_board: bool,
    gpu: str,
    gpus: int,
    first_gpu: int,
    model: str,
    model_card: Path | None,
    task: str | None,
    served_model_name: str | None,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_model_len: int | None,
    kv_blocks: int | None,
    max_batch_size: int,
    share_gpu: bool,
    metrics_per_request: bool,
    log_iterations: bool,
    allow_faults: bool,
    until_stdin_ends: bool,
    seed: int,
) -> None:
    """Serve until SIGTERM. Prints one line when ready."""
    indices = range(first_gpu, first_gpu + gpus)
    turns = Turns(board, indices) if share_gpu else Turns()

    def diffusion_server() -> tuple[ASGIApp, Running]:
        name = served_model_name or model
        offered = _named(lambda: diffusion.offer(model, gpu, gpus))
        media = DiffusionEngine(
            physics=offered.physics,
            curve=_board(board, create_board, gpu, indices),
            gpus=indices,
            metrics=DiffusionMetrics(name),
            max_batch=max_batch_size,
            seed=seed,
            turns=turns,
        )
        return diffusion_app(media, offered.card, name), media

    def language_server() -> tuple[ASGIApp, Running]:
        offer = _offer(model, model_card, gpu, gpus, task)
        card, blocks = offer.card, kv_blocks or offer.kv_blocks
        if blocks < 1:
            raise click.UsageError(f"{card.name} does not fit into the memory of {gpus} x {gpu}")
        length = max_model_len or min(card.max_model_len, blocks * BLOCK_TOKENS)
        if length > blocks * BLOCK_TOKENS:
            raise click.UsageError(f"one request of {length} tokens would not fit into {blocks} KV blocks")
        name = served_model_name or (model if model_card is None else card.name)
        scheduler = Scheduler(
            kv_blocks=blocks, max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens
        )
        metrics = Metrics(name)
        metrics.watch(
            running=lambda: len(scheduler.running),
            waiting=lambda: len(scheduler.waiting),
            kv=lambda: scheduler.cache.usage,
        )
        engine = Engine(
            model=card,
            gpu=GPUS[gpu],
            curve=_board(board, create_board, gpu, indices),
            gpu_indices=indices,
            scheduler=scheduler,
            metrics=metrics,
            physics=offer.physics,
            seed=seed,
            log_iterations=log_iterations,
            turns=turns,
        )
        return create_app(engine, Config(name, card.hf_id, length, metrics_per_request)), engine

    is_media = model_card is None and diffusion.known(model)

    async def serve_both() -> None:
        app, engine = diffusion_server() if is_media else language_server()
        await _serve(Faults(app) if allow_faults else app, engine, port, until_stdin_ends)

    with asyncio.Runner(loop_factory=uvicorn.Config(app="", loop="uvloop").get_loop_factory()) as runner:
        runner.run(serve_both())


class Running(Protocol):
    """An engine."""

    async def run(self) -> None: ...


def _board(path: Path, create: bool, gpu: str, indices: range) -> Board:
    if create:
        curve = Board.create(path, [SPECS[gpu].numbered(n) for n in range(indices.stop)])
    else:
        curve = Board.attach(path)
    if len(curve) < indices.stop:
        raise click.UsageError(f"the board has {len(curve)} GPUs, {indices.stop} are needed")
    return curve


T = TypeVar("T")


def _named(offer: Callable[[], T]) -> T:
    try:
        return offer()
    except KeyError as error:
        raise click.UsageError(error.args[0]) from error


def _offer(model: str, model_card: Path | None, gpu: str, gpus: int, task: str | None) -> Offer:
    if model_card is not None:
        try:
            return catalog.from_file(model_card, gpu, gpus)
        except CardError as error:
            raise click.UsageError(str(error)) from error
    if model not in catalog.names():
        raise click.UsageError(f"no model {model!r}: `python -m simulator models` lists them")
    return _named(lambda: catalog.offer(model, gpu, gpus, task))


@main.command()
def models() -> None:
    """List the models, and on which GPUs and at which tasks the measured ones were measured."""
    for name in catalog.names():
        measured = sorted(key[1:] for key in profiles() if key[0] == name)
        print(name, *(f"{gpus}x{gpu}:{task}" for gpu, gpus, task in measured))
    for name in diffusion.names():
        print(name, *diffusion.measured_on(name))


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.servers:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            print(f"{READY}http://{host}:{port}", flush=True)


async def _serve(app: ASGIApp, engine: Running, port: int, until_stdin_ends: bool) -> None:
    """Serve and run the engine; if either fails the other ends, too."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        http="httptools",
        ws="none",
        lifespan="off",
        proxy_headers=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)

    def look_at_stdin() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin)
            server.should_exit = True

    if until_stdin_ends:
        asyncio.get_running_loop().add_reader(sys.stdin, look_at_stdin)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(engine.run())
        await server.serve()
        task.cancel()


if __name__ == "__main__":
    main()
