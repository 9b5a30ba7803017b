"""docs/meters.md tells of every fault what an operator really reads."""

from __future__ import annotations

import re
from pathlib import Path

from accounting.meters.faults import ADVICE, BEGINS_ANEW, GONE, NEEDS_NEW_PROCESS, Fault

PAGE = (Path(__file__).parents[3] / "docs" / "meters.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in PAGE.partition("## Faults")[2].splitlines()
    if re.match(r"\|[^-]", line)
][1:]


def test_every_code_has_a_row_and_every_row_with_a_code_says_its_words() -> None:
    coded = {row[3].strip("`"): row[4] for row in ROWS if row[3].startswith("`")}
    assert set(coded) == set(ADVICE)
    for code, words in coded.items():
        assert words in ADVICE[code], code


def test_every_fault_of_a_group_has_its_advice() -> None:
    assert set(ADVICE) >= NEEDS_NEW_PROCESS
    assert set(ADVICE) >= BEGINS_ANEW
    assert GONE - {"GPU_NOT_FOUND"} <= set(ADVICE)


def test_an_error_that_nvml_may_have_one_day_is_told_by_its_name() -> None:
    assert str(Fault("SOMETHING_NEW", "field 186")) == "NVML error SOMETHING_NEW (field 186)"
