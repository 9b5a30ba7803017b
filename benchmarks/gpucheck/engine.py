"""A small OpenAI-compatible server on transformers' continuous batching, over random weights.

    python -m benchmarks.gpucheck.engine --size 8b --device cuda

Real batching of real forward passes, and nothing to download: prompts are lists of token ids, the answer's
text is the ids again. `POST /v1/completions` (also streamed, with usage), `GET /v1/models`, `GET /health`.
Prints "engine ready on URL" once it serves; ends with its standard input.

With --board it writes IDLE power and so much per running sequence onto a simulated GPU, for rehearsals.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
from aiohttp import web

from benchmarks.gpucheck import model as models
from simulator.gpu.board import Board, monotonic_us

READY = "engine ready on "
NAME = "random-llama"

BASE_W, SEQUENCE_W, MOST_W = 150.0, 25.0, 600.0
"""Above idle, on a simulated board: for working at all, for each running sequence, and at most."""

BOARD_STEP_US = 10_000


class Running:
    """How many requests are at work; writes the simulated power where there is a board."""

    def __init__(self, board: Board | None) -> None:
        self.now = 0
        if board is not None:
            threading.Thread(target=self._draw, args=(board,), daemon=True).start()

    def _draw(self, board: Board) -> None:
        """Every step says what is drawn until the next: the counter never shows a moment not yet written."""
        end_us = monotonic_us()
        while True:
            begin_us = max(monotonic_us(), end_us)
            end_us = begin_us + BOARD_STEP_US
            if running := self.now:
                idle_w = 110.0
                power_w = idle_w + min(BASE_W + SEQUENCE_W * running, MOST_W)
                board.extend(0, begin_us, board.energy_uj(0, begin_us))
                board.extend(0, end_us, board.last(0)[1] + round(power_w * BOARD_STEP_US))
            time.sleep(max(end_us - monotonic_us(), 0) / 1e6)


class Server:
    def __init__(self, manager: Any, running: Running, vocabulary: int) -> None:
        self._manager, self._running, self._vocabulary = manager, running, vocabulary

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**24)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": NAME, "object": "model"}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        prompt, most = asked["prompt"], int(asked.get("max_tokens", 16))
        wrong = not isinstance(prompt, list) or not all(isinstance(t, int) for t in prompt)
        if wrong or not prompt or max(prompt) >= self._vocabulary or most < 1:
            error = {"message": "prompt must be a list of token ids, max_tokens at least 1"}
            return web.json_response({"error": error}, status=400)
        head: dict[str, Any] = {
            "id": f"cmpl-{uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
        }
        head["model"] = NAME
        streamed = bool(asked.get("stream"))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        if streamed:
            await response.prepare(request)
        tokens: list[int] = []
        async for fresh in self._generate(head["id"], prompt, most):
            tokens += fresh
            if streamed:
                await _send(response, {**head, "choices": [_choice(fresh, len(tokens) >= most)]})
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(tokens)}
        usage["total_tokens"] = sum(usage.values())
        if not streamed:
            return web.json_response({**head, "choices": [_choice(tokens, True)], "usage": usage})
        if (asked.get("stream_options") or {}).get("include_usage"):
            await _send(response, {**head, "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _generate(self, name: str, prompt: list[int], most: int) -> Any:
        """New token ids as they come. Raises RuntimeError where the model failed."""
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._manager.register_result_handler(name, queue.put_nowait)
        self._running.now += 1
        sent, ended = 0, False
        try:
            self._manager.add_request(prompt, request_id=name, max_new_tokens=most, streaming=True)
            while not ended:
                result = await queue.get()
                if result.error is not None:
                    raise RuntimeError(result.error)
                fresh = list(result.generated_tokens[sent:])
                sent, ended = sent + len(fresh), result.is_finished()
                if fresh:
                    yield fresh
        finally:
            self._running.now -= 1
            if not ended:
                self._manager.cancel_request(name)


def _choice(tokens: list[int], ended: bool) -> dict[str, object]:
    text = "".join(f" {token}" for token in tokens)
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": "length" if ended else None}


async def _send(response: web.StreamResponse, value: object) -> None:
    await response.write(b"data: " + json.dumps(value).encode() + b"\n\n")


def _manager(model: Any, device: str) -> Any:
    """transformers' batching, its settings as far as this version of transformers has them."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    wanted: dict[str, object] = {
        "max_memory_percent": 0.6,
        "allow_block_sharing": False,  # every prompt is to cost what it costs
        "auto_switch_to_flash": False,  # its kernels may have to be downloaded
        "max_requests_per_batch": 64,
    }
    if device == "cpu":
        wanted |= {"num_blocks": 512, "max_batch_tokens": 1024, "use_cuda_graph": False}
    known = {field.name for field in fields(ContinuousBatchingConfig)}
    config = ContinuousBatchingConfig(**{name: value for name, value in wanted.items() if name in known})
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=16)
    return model.init_continuous_batching(generation_config=greedy, continuous_batching_config=config)


async def _serve(server: Server, port: int) -> None:
    runner = web.AppRunner(server.app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    address = runner.addresses[0]
    print(f"{READY}http://127.0.0.1:{address[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    await runner.cleanup()


@click.command()
@click.option("--size", type=click.Choice(list(models.SHAPES)), default="8b")
@click.option("--device", default="cuda")
@click.option("--port", default=0)
@click.option("--board", type=click.Path(path_type=Path), help="Simulated board to draw power on.")
def main(size: models.Size, device: str, port: int, board: Path | None) -> None:
    model = models.build(size, device)
    manager = _manager(model, device)
    manager.start()
    try:
        running = Running(Board.attach(board) if board is not None else None)
        asyncio.run(_serve(Server(manager, running, model.config.vocab_size), port))
    finally:
        manager.stop(block=True, timeout=20.0)


if __name__ == "__main__":
    main()
