"""Small valid files in place of what a model would have painted: PNG images of noise, MP4 videos of them."""

from __future__ import annotations

import random
import struct
import zlib
from functools import lru_cache

_LEVEL = 1
FLAT = 16
"""Every so many rows one is noise and the others repeat it: files a few times smaller than all noise."""


@lru_cache(maxsize=32)
def png(width: int, height: int, seed: int = 0) -> bytes:
    """An RGB image of this size."""
    draw = random.Random(seed)
    rows = [b"\0" + draw.randbytes(3 * width) for _ in range((height + FLAT - 1) // FLAT)]
    raw = b"".join(rows[y // FLAT] for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(raw, _LEVEL)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@lru_cache(maxsize=8)
def mp4(width: int, height: int, frames: int, fps: float) -> bytes:
    """A video of so many frames, all the same PNG image (ISO/IEC 14496-12, sample entry `png `)."""
    picture = png(width, height)
    kind = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isommp41")
    scale, step = 90_000, round(90_000 / fps)
    moov = _moov(width, height, frames, len(picture), scale, step, 0)
    begins = len(kind) + len(moov) + 8
    moov = _moov(width, height, frames, len(picture), scale, step, begins)
    # One picture is kept: every frame is a chunk of its own at the same place.
    return kind + moov + _box(b"mdat", picture)


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + kind + content


def _full(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def _moov(width: int, height: int, frames: int, size: int, scale: int, step: int, begins: int) -> bytes:
    length = frames * step
    mvhd = _full(
        b"mvhd",
        struct.pack(">4I", 0, 0, scale, length),
        struct.pack(">IHHII", 0x10000, 0x0100, 0, 0, 0),
        _MATRIX,
        bytes(24),
        struct.pack(">I", 2),
    )
    tkhd = _full(
        b"tkhd",
        struct.pack(">5I", 0, 0, 1, 0, length),
        struct.pack(">2I4H", 0, 0, 0, 0, 0, 0),
        _MATRIX,
        struct.pack(">2I", width << 16, height << 16),
        flags=3,
    )
    mdhd = _full(b"mdhd", struct.pack(">4IHH", 0, 0, scale, length, 0x55C4, 0))
    hdlr = _full(b"hdlr", struct.pack(">I4s3I", 0, b"vide", 0, 0, 0), b"video\0")
    media = _box(
        b"minf", _full(b"vmhd", bytes(8), flags=1), _dinf(), _stbl(width, height, frames, size, step, begins)
    )
    return _box(b"moov", mvhd, _box(b"trak", tkhd, _box(b"mdia", mdhd, hdlr, media)))


def _dinf() -> bytes:
    return _box(b"dinf", _full(b"dref", struct.pack(">I", 1), _full(b"url ", flags=1)))


def _stbl(width: int, height: int, frames: int, size: int, step: int, begins: int) -> bytes:
    entry = _box(
        b"png ",
        bytes(6),
        struct.pack(">H", 1),
        bytes(16),
        struct.pack(">HHIIIH", width, height, 0x480000, 0x480000, 0, 1),
        bytes(32),
        struct.pack(">Hh", 24, -1),
    )
    return _box(
        b"stbl",
        _full(b"stsd", struct.pack(">I", 1), entry),
        _full(b"stts", struct.pack(">3I", 1, frames, step)),
        _full(b"stsc", struct.pack(">4I", 1, 1, 1, 1)),
        _full(b"stsz", struct.pack(">2I", size, frames)),
        _full(b"stco", struct.pack(f">I{frames}I", frames, *[begins] * frames)),
    )
