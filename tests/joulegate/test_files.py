"""Files that are there whole or not at all."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from joulegate.files import replacing

MOST_BYTES = 1_000_000


def test_a_file_takes_the_place_of_another_once_it_is_whole(tmp_path: Path) -> None:
    output = tmp_path / "report.md"
    output.write_text("old")
    with replacing(output) as file:
        file.write("new")
        file.flush()
        assert output.read_text() == "old"
    assert output.read_text() == "new"
    assert list(tmp_path.iterdir()) == [output]


def test_where_there_is_no_room_the_old_one_stays_and_nothing_is_left(tmp_path: Path) -> None:
    output = tmp_path / "report.bin"
    output.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, hard))  # Python ignores its signal
    try:
        with pytest.raises(OSError, match="too large"), replacing(output, binary=True) as file:
            file.write(bytes(2 * MOST_BYTES))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert output.read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


def test_what_cannot_be_written_is_named_as_it_was_given(tmp_path: Path) -> None:
    output = tmp_path / "nowhere" / "report.md"
    with pytest.raises(FileNotFoundError) as raised, replacing(output):
        pytest.fail("it cannot be opened")
    assert raised.value.filename == str(output)
