"""What the documents tell people to type: the `sh` and `python` blocks of every page, command by command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^( *)```(sh|python)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"\s+#\s.*$")


@dataclass(frozen=True)
class Block:
    """`commands` of a `python` block is the whole of it."""

    page: str
    language: str
    commands: tuple[str, ...]


def blocks_of(text: str, page: str) -> Iterator[Block]:
    for indent, language, body in BLOCK.findall(text):
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        if language == "python":
            yield Block(page, language, ("\n".join(lines),))
            continue
        joined = "\n".join(lines).replace("\\\n", " ")
        commands = (re.sub(r"\s+", " ", COMMENT.sub("", line)).strip() for line in joined.splitlines())
        yield Block(page, language, tuple(line for line in commands if line and not line.startswith("#")))


def blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page.read_text(), str(page.relative_to(ROOT)))]
