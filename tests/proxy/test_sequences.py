"""How many sequences a request makes the engine decode."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.ask import understand

JSON = [(b"content-type", b"application/json")]


@pytest.mark.parametrize(
    ("body", "sequences"),
    [
        ({"prompt": "one"}, 1),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": ["one", "two"]}, 2),
        ({"prompt": [[1, 2], [3], [4]]}, 3),
        ({"prompt": ["one", "two"], "n": 3}, 6),
        ({"prompt": []}, 1),
        ({"messages": [], "n": 4}, 4),
        ({"messages": [], "n": 0}, 1),
        ({"messages": [], "n": "4"}, 1),
        ({"messages": [], "n": 10**9}, 1),
    ],
)
def test_sequences_are_n_times_the_prompts(body: dict[str, Any], sequences: int) -> None:
    ask = understand("POST", "/v1/completions", b"", JSON, json.dumps({"model": "m", **body}).encode())
    assert ask.sequences == sequences
