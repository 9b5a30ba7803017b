"""Pictures and videos made on the fly: sized, seeded, valid files of a few kilobytes. Pure.

What they show is coarse blocks of random colours: no two are alike, so no cache of an engine can help, and
they compress well, so that making and sending them is cheap. PNG after its specification (W3C, third
edition); the video is an AVI (Microsoft's "AVI RIFF File Reference") whose frames are PNG files, codec MPNG,
which FFmpeg and so OpenCV, vLLM's video reader, decode.
"""

from __future__ import annotations

import base64
import random
import struct
import zlib

import numpy as np

BLOCKS = 16
"""Blocks of one colour across and down."""


def png(width: int, height: int, pick: random.Random) -> bytes:
    """An RGB picture of width x height pixels."""
    down, across = min(BLOCKS, height), min(BLOCKS, width)
    coarse = np.frombuffer(pick.randbytes(down * across * 3), np.uint8).reshape(down, across, 3)
    pixels = coarse[np.arange(height) * down // height][:, np.arange(width) * across // width]
    # Every line begins with the number of its filter: 0, none.
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(name, data) for name, data in parts)


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def avi(width: int, height: int, frames: int, fps: int, pick: random.Random) -> bytes:
    """A video of `frames` frames without sound."""
    pictures = [png(width, height, pick) for _ in range(frames)]
    largest = max(map(len, pictures))
    has_index = 0x10
    main = struct.pack(
        "<14I",
        1_000_000 // fps,
        largest * fps,
        0,
        has_index,
        frames,
        0,
        1,
        largest,
        width,
        height,
        0,
        0,
        0,
        0,
    )
    stream = struct.pack(
        "<4s4sIHHIIIIIIII4H",
        b"vids",
        b"MPNG",
        0,
        0,
        0,
        0,
        1,
        fps,
        0,
        frames,
        largest,
        0,
        0,
        0,
        0,
        width,
        height,
    )
    size = width * height * 3
    bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MPNG", size, 0, 0, 0, 0)
    streams = _list(b"strl", _riff(b"strh", stream), _riff(b"strf", bitmap))
    movie, index, at = [], [], 4
    for picture in pictures:
        key_frame = 0x10
        index.append(struct.pack("<4sIII", b"00dc", key_frame, at, len(picture)))
        movie.append(_riff(b"00dc", picture))
        at += len(movie[-1])
    parts = [_list(b"hdrl", _riff(b"avih", main), streams), _list(b"movi", *movie)]
    body = b"AVI " + b"".join(parts) + _riff(b"idx1", b"".join(index))
    return _riff(b"RIFF", body)


def _riff(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _list(name: bytes, *parts: bytes) -> bytes:
    return _riff(b"LIST", name + b"".join(parts))


def data_url(kind: str, content: bytes) -> str:
    """`kind` is a media type such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
