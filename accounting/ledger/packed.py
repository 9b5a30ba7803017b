"""Arrays of numbers as compressed bytes, for the written state."""

from __future__ import annotations

import zlib
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Number = TypeVar("_Number", np.int64, np.float64, np.bool_)


def pack(array: NDArray[np.generic]) -> bytes:
    return zlib.compress(np.ascontiguousarray(array).tobytes(), 1)


def unpack(packed: bytes, kind: type[_Number]) -> NDArray[_Number]:
    return np.frombuffer(zlib.decompress(packed), kind).copy()
