"""Pictures and videos are files that a reader of the format accepts."""

from __future__ import annotations

import random
import struct
import zlib

import pytest

from loadgen import media


def chunks(png: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG, their checksums compared."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = {}, 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        name, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert int.from_bytes(png[at + 8 + length : at + 12 + length], "big") == zlib.crc32(name + data)
        found[name] = data
        at += 12 + length
    return found


@pytest.mark.parametrize(("width", "height"), [(512, 384), (64, 64), (5, 7), (1, 1)])
def test_a_picture_has_the_size_asked_for(width: int, height: int) -> None:
    found = chunks(media.png(width, height, random.Random(1)))
    assert list(found) == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">II", found[b"IHDR"][:8]) == (width, height)
    lines = zlib.decompress(found[b"IDAT"])
    assert len(lines) == height * (1 + 3 * width)
    assert set(lines[:: 1 + 3 * width]) == {0}


def test_a_seed_gives_the_same_picture_again_and_the_next_is_another() -> None:
    pick = random.Random(1)
    first, second = media.png(64, 64, pick), media.png(64, 64, pick)
    assert first == media.png(64, 64, random.Random(1))
    assert first != second
    assert len(media.png(1024, 1024, pick)) < 100_000


def test_a_video_holds_its_frames_where_its_index_says() -> None:
    clip = media.avi(32, 24, 5, 8, random.Random(1))
    assert clip[:4] == b"RIFF"
    assert clip[8:12] == b"AVI "
    assert struct.unpack("<I", clip[4:8])[0] == len(clip) - 8
    movie = clip.index(b"movi")
    index = clip.index(b"idx1")
    count = struct.unpack("<I", clip[index + 4 : index + 8])[0] // 16
    assert count == 5
    for number in range(count):
        name, _, at, size = struct.unpack_from("<4sIII", clip, index + 8 + 16 * number)
        assert clip[movie + at : movie + at + 4] == name == b"00dc"
        frame = clip[movie + at + 8 : movie + at + 8 + size]
        assert struct.unpack(">II", chunks(frame)[b"IHDR"][:8]) == (32, 24)
