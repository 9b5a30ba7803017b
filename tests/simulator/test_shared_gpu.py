"""A language model and a diffusion server, two processes on one GPU: turns, and energies that add up."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx

from simulator.gpu.board import H100, Board
from simulator.process import SimulatedEngine


def test_both_get_their_turns_and_their_energies_make_up_the_curve(tmp_path: Path) -> None:
    curve = Board.create(tmp_path / "board", [H100])
    share = {"board": tmp_path / "board", "options": ["--share-gpu"], "library": False}
    with (
        SimulatedEngine(tmp_path / "chats", model="llama-3.1-8b", **share) as chats,  # type: ignore[arg-type]
        SimulatedEngine(tmp_path / "images", model="tiny-image", **share) as images,  # type: ignore[arg-type]
    ):
        chat = {
            "model": "llama-3.1-8b",
            "messages": [{"role": "user", "content": "hello"}],
            "ignore_eos": True,
        }
        image = {"prompt": "fox", "num_inference_steps": 40}
        post(chats, "/v1/chat/completions", {**chat, "max_tokens": 2})
        post(images, "/v1/images/generations", {**image, "num_inference_steps": 1})
        before = [truth(engine) for engine in (chats, images)]
        before_uj = curve.last(0)[1]
        asked = [
            threading.Thread(target=post, args=(chats, "/v1/chat/completions", {**chat, "max_tokens": 60})),
            threading.Thread(target=post, args=(images, "/v1/images/generations", image)),
        ]
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join()
        after = [truth(engine) for engine in (chats, images)]
        drawn_uj = curve.last(0)[1] - before_uj
    one, other = (told["data"][-1] for told in after)
    assert one["energy_uj"] > 0
    assert other["energy_uj"] > 0
    # They ran at the same time, each with the GPU for itself in its turns.
    assert one["scheduled_us"] < other["finished_us"]
    assert other["scheduled_us"] < one["finished_us"]
    parts = ("requests_uj", "idle_uj")
    gained_uj = sum(new[part] - old[part] for new, old in zip(after, before, strict=True) for part in parts)
    assert gained_uj == drawn_uj


def post(engine: SimulatedEngine, path: str, body: dict[str, Any]) -> None:
    answer = httpx.post(f"{engine.url}{path}", json=body, timeout=60.0)
    assert answer.status_code == 200, answer.text


def truth(engine: SimulatedEngine) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{engine.url}/simulator/truth", timeout=10.0).json()
    return found
