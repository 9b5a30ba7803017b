"""Which paths go to an engine, and which are joulegate's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import unquote

from fastapi import FastAPI

from proxy.backends import Backends
from proxy.media.ask import is_media

_ENGINE_TOOLS = ("/tokenize", "/detokenize", "/version", "/ping", "/load")
_ENGINE_WORK = ("/pooling", "/classify", "/score", "/rerank", "/v2/rerank")
RELAYED = frozenset((*_ENGINE_TOOLS, *_ENGINE_WORK))
"""Engine routes outside /v1 that pass through. Others may administer the engine and are not offered."""

OWN = ("/v1/energy", "/v1/organization", "/v1/keys", "/v1/limits", "/v1/access")
"""With all that is below them: engines have nothing there, and would record what was mistyped."""


def own_paths(app: FastAPI) -> list[str]:
    """The application's own paths under /v1, with their parameters in braces."""
    return [path for path in app.openapi()["paths"] if path.startswith("/v1/")]


def relayed(own: Sequence[str], backends: Backends) -> Callable[[str, str], bool]:
    """Whether a method and path go to an engine: its own routes under /v1 and a few others, less `own` and
    all of `OWN`.

    The models of a lone engine are told by the engine itself.
    """
    exact = frozenset((*OWN, *(path for path in own if "{" not in path)))
    below = tuple(f"{path}/" for path in OWN)
    others = {path[: path.index("{")] for path in own if "{" in path and not path.startswith(below)}
    beginnings = (*below, *sorted(others))

    def decide(method: str, path: str) -> bool:
        if "%" in path:
            path = unquote(path)
        if "/.." in path:  # what stands before an engine might take it for another path
            return False
        if is_media(method, path):  # to begin one is an engine's work, to look after it is ours
            return True
        if method == "OPTIONS" and path.startswith("/v1/"):
            return path not in OWN and not path.startswith(below)
        if path.startswith("/v1/"):
            if path.startswith("/v1/models") and len(backends.all) == 1:
                return True
            return path not in exact and not path.startswith(beginnings)
        return path in RELAYED

    return decide
