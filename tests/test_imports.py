"""Imports point one way: joulegate -> proxy -> accounting; simulator and loadgen know none of them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("joulegate", "proxy", "accounting", "simulator", "loadgen", "migrations", "benchmarks", "tests")

MAY_NOT = {
    "proxy": {"joulegate", "simulator", "loadgen", "benchmarks", "tests"},
    "accounting": {"joulegate", "proxy", "simulator", "loadgen", "benchmarks", "tests"},
    "simulator": {"joulegate", "proxy", "accounting", "loadgen", "migrations", "benchmarks", "tests"},
    "loadgen": {"joulegate", "proxy", "accounting", "simulator", "migrations", "benchmarks", "tests"},
    "joulegate": {"loadgen", "benchmarks", "tests"},
    "migrations": {"joulegate", "proxy", "simulator", "loadgen", "benchmarks", "tests"},
}

PURE = ("events", "records", "ledger")
"""What of accounting computes and does no more. `clock` belongs to it too, but reads the time."""

PURE_MAY = {"__future__", "bisect", "collections", "dataclasses", "enum", "functools", "heapq", "itertools"}
PURE_MAY |= {"fractions", "math", "operator", "typing", "zlib", "msgspec", "numpy", "scipy"}
"""Modules without a side effect. Not in it, on purpose: os, socket, time, random, logging, sqlalchemy."""


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports, wherever in it; relative imports made absolute."""
    package = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def pure_sources() -> list[Path]:
    singles = [ROOT / "accounting" / f"{name}.py" for name in (*PURE, "clock")]
    return [path for path in singles if path.exists()] + sources("accounting/ledger")


def test_every_room_is_known() -> None:
    """A new top-level package has to be given its place above."""
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(ROOMS)


@pytest.mark.parametrize("room", MAY_NOT)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    assert sources(room)
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in sources(room)
        if (bad := {name for name in imports(path) if name.split(".")[0] in MAY_NOT[room]})
    }
    assert not wrong


def test_the_pure_part_of_accounting_imports_nothing_that_does_io() -> None:
    assert len(pure_sources()) > 8
    for path in pure_sources():
        allowed = PURE_MAY | ({"time"} if path.name == "clock.py" else set())
        for name in imports(path):
            top, _, rest = name.partition(".")
            inside = top == "accounting" and rest.split(".")[0] in PURE
            assert inside or top in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_the_search_for_imports_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the tests above against finding nothing."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "room" / "part" / "module.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import os.path\nfrom a.b import c\nfrom . import near\nfrom ..other import far\n"
        "def late():\n    import socket\n"
    )
    assert imports(file) == {"os.path", "a.b.c", "room.part.near", "room.other.far", "socket"}
