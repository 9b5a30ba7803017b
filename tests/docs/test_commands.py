"""Every command of the documents is run for real, or listed with the reason why it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from subprocess import CompletedProcess

import pytest

from tests.docs.blocks import ROOT, Block, blocks, blocks_of
from tests.docs.not_run import NOT_RUN, TARGETS
from tests.docs.workplace import BEFORE, PUT_IN, Workplace, workplace

AT_A_TIME = 3
ALL = blocks()
COMMANDS = [command for block in ALL for command in block.commands]


def to_run() -> dict[str, list[Block]]:
    """By page, without what is listed as not to be run."""
    found: dict[str, list[Block]] = {}
    for block in ALL:
        kept = tuple(command for command in block.commands if command not in NOT_RUN)
        if kept:
            found.setdefault(block.page, []).append(Block(block.page, block.language, kept))
    return found


TO_RUN = to_run()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with workplace(tmp_path_factory.mktemp("workplace")) as one:
        yield one


@pytest.fixture(scope="module")
def outcomes(
    place: Workplace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[CompletedProcess[str]]]]:
    """The pages' commands, some pages at a time, as much of it is waiting; those with most of them first."""
    directory = tmp_path_factory.mktemp("typed")
    pages = sorted(TO_RUN.items(), key=lambda one: sum(len(block.commands) for block in one[1]), reverse=True)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {
            page: pool.submit(place.type, of_page, directory / page.replace("/", "-"))
            for page, of_page in pages
        }


@pytest.mark.parametrize("page", TO_RUN)
def test_the_commands_of_a_page_do_what_they_say(
    outcomes: dict[str, Future[CompletedProcess[str]]], page: str
) -> None:
    done = outcomes[page].result()
    assert done.returncode == 0, f"{page}:\n{done.stdout}"


def test_what_is_put_in_stands_in_the_documents(
    place: Workplace, outcomes: dict[str, Future[CompletedProcess[str]]]
) -> None:
    assert all(outcome.result() for outcome in outcomes.values())
    assert set(PUT_IN) - place.used == set()
    assert set(BEFORE) - set(COMMANDS) == set()


def test_what_is_not_run_stands_in_the_documents_and_has_a_reason() -> None:
    assert set(NOT_RUN) - set(COMMANDS) == set()
    assert all(reason.removeprefix(TARGETS) for reason in NOT_RUN.values())


def test_targets_of_make_are_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for command in COMMANDS if (words := command.split())[0] == "make"}
    assert named
    assert named <= targets


def test_most_commands_are_run() -> None:
    assert len(COMMANDS) > 40
    assert len(NOT_RUN) < len(COMMANDS) / 3


def test_commands_are_found_in_a_page() -> None:
    text = (
        "a\n\n  ```sh\n  # first\n  one --x 1 \\\n    --y 2   # why\n  two '#3'\n  ```\n```yaml\nno: 1\n```\n"
    )
    (block,) = blocks_of(text, "page")
    assert block.commands == ("one --x 1 --y 2", "two '#3'")
