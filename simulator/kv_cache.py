"""KV cache blocks: how many are held, and which full ones can be shared by equal prefixes. Pure.

A block holds `BLOCK_TOKENS` tokens. A full block has a key: the hash of its tokens chained to the key of the
block before it, so that equal keys mean equal prefixes. Keyed blocks that nobody holds stay until their room
is needed; the one unused longest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from simulator.cards import BLOCK_TOKENS


def chain(previous: int, tokens: Sequence[int]) -> int:
    """Key of a full block of `tokens` after the block with key `previous` (0 for the first)."""
    return hash((previous, *tokens))


def prefix_keys(tokens: Sequence[int]) -> list[int]:
    """Keys of the full blocks of `tokens`, first to last."""
    keys: list[int] = []
    key = 0
    for end in range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS):
        key = chain(key, tokens[end - BLOCK_TOKENS : end])
        keys.append(key)
    return keys


def blocks_for(tokens: int) -> int:
    """Blocks that `tokens` tokens take."""
    return -(-tokens // BLOCK_TOKENS)


class KvCache:
    """`total` blocks, of which some are held (open or keyed) and some keyed ones are kept for later."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ValueError("a KV cache needs at least one block")
        self.total = total
        self._open = 0
        self._holders: dict[int, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def held(self) -> int:
        """Blocks that running requests hold."""
        return self._open + len(self._holders)

    @property
    def free(self) -> int:
        """Blocks that can be had now, kept ones included."""
        return self.total - self.held

    @property
    def usage(self) -> float:
        """Share of the blocks that is held, 0 to 1."""
        return self.held / self.total

    def match(self, keys: Sequence[int]) -> int:
        """How many leading `keys` are present."""
        for count, key in enumerate(keys):
            if key not in self._holders and key not in self._kept:
                return count
        return len(keys)

    def cost_of(self, keys: Sequence[int]) -> int:
        """How many free blocks holding the present `keys` takes: those that are only kept."""
        return sum(1 for key in keys if key not in self._holders)

    def hold(self, keys: Sequence[int]) -> None:
        """Take part in blocks that are present. Raises KeyError for one that is not."""
        for key in keys:
            if key in self._holders:
                self._holders[key] += 1
            else:
                del self._kept[key]
                self._holders[key] = 1

    def open(self, count: int) -> None:
        """Take `count` blocks to write. Raises ValueError when fewer are free."""
        if count > self.free:
            raise ValueError(f"{count} KV blocks wanted, {self.free} free")
        self._open += count
        while self.held + len(self._kept) > self.total:
            self._kept.popitem(last=False)

    def fill(self, key: int) -> None:
        """One open block is full and has this key; if another request filled the same, both now share it."""
        self._open -= 1
        self._kept.pop(key, None)
        self._holders[key] = self._holders.get(key, 0) + 1

    def release(self, keys: Sequence[int], opened: int) -> None:
        """Give back held `keys` and `opened` blocks. The prefix's end is forgotten before its beginning."""
        self._open -= opened
        for key in reversed(keys):
            if self._holders[key] > 1:
                self._holders[key] -= 1
            else:
                del self._holders[key]
                self._kept[key] = None
