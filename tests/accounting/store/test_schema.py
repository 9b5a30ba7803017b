"""What a text column holds."""

from __future__ import annotations

import pytest

from accounting.store.schema import TEXT_LIMIT, stored_text


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ("llama-3.1-8b", "llama-3.1-8b"),
        ("modèle 🔋", "modèle 🔋"),
        ("a\0b", "a\\x00b"),
        ("half \ud83d", "half \\ud83d"),
        ("x" * (TEXT_LIMIT + 1), "x" * TEXT_LIMIT),
        ("🔋" * (TEXT_LIMIT + 1), "🔋" * TEXT_LIMIT),
    ],
)
def test_text_is_held_as_given_but_for_what_databases_refuse(given: str, held: str) -> None:
    assert stored_text(given) == held


def test_what_is_held_is_held_alike_when_it_comes_again() -> None:
    for text in ("a\0b", "half \ud83d", "é\0" * TEXT_LIMIT):
        assert stored_text(stored_text(text)) == stored_text(text)
