"""/v1/embeddings: a prefill without decoding, and a vector that depends on the prompt only."""

from __future__ import annotations

import base64
import hashlib
import random
import struct
from array import array
from typing import Any

from starlette.types import Send

from simulator.engine import Engine, Run
from simulator.openai import dumps
from simulator.replies import Reply
from simulator.truth import Account

DIMENSIONS = 256


def vector(tokens: list[int], dimensions: int) -> list[float]:
    """A unit vector, the same for the same tokens."""
    digest = hashlib.blake2b(array("q", tokens).tobytes(), digest_size=8).digest()
    draw = random.Random(int.from_bytes(digest, "little"))
    values = [draw.gauss(0.0, 1.0) for _ in range(dimensions)]
    norm = sum(value * value for value in values) ** 0.5
    return [value / norm for value in values]


class EmbeddingReply(Reply):
    """The vectors of all inputs, once the last prefill is done."""

    def __init__(
        self,
        engine: Engine,
        runs: list[Run],
        account: Account,
        request_id: str,
        head: dict[str, Any],
        dimensions: int | None = None,
        in_base64: bool = False,
    ) -> None:
        super().__init__(engine, runs, account, request_id)
        self._head = head
        self._dimensions = dimensions or DIMENSIONS
        self._base64 = in_base64

    async def answer(self, send: Send) -> None:
        if not await self.all_done():
            return
        data = [
            {"index": run.index, "object": "embedding", "embedding": self._coded(run.sequence.tokens)}
            for run in self.runs
        ]
        tokens = sum(run.sequence.prompt_tokens for run in self.runs)
        usage = {
            "prompt_tokens": tokens,
            "total_tokens": tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        }
        await self.whole(send, dumps({**self._head, "data": data, "usage": usage}))

    def _coded(self, tokens: list[int]) -> list[float] | str:
        values = vector(tokens, self._dimensions)
        if not self._base64:
            return values
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
