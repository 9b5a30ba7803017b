"""What requests cost in the end: joulegate's final records, corrections included, read over REST.

An answer's own figure is provisional: the GPU's counter has not caught up when it ends.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

PATH = "/v1/energy/requests"
WAIT_S = 30.0
POLL_S = 0.25


def joules(
    url: str, ids: Collection[str], since_s: float, get: Callable[[str], dict[str, Any]] | None = None
) -> dict[str, float | None] | None:
    """Final joules of the requests with these x-request-ids, sent after `since_s` (unix seconds), once all
    are there or `WAIT_S` are over. None where the server is no joulegate. Raises OSError where it cannot be
    asked.
    """
    fetch = get or _get
    wanted = set(ids)
    deadline = time.monotonic() + WAIT_S
    while True:
        found: dict[str, float | None] = {}
        query: dict[str, Any] = {"start_time": since_s, "limit": 1000}
        while True:
            try:
                page = fetch(f"{url}{PATH}?{urlencode(query)}")
            except HTTPError as error:
                if error.code == 404:
                    return None
                raise
            for record in page["data"]:
                if record["request_id"] in wanted and record["state"] == "final":
                    found[record["request_id"]] = record["energy_joules"]
            if not page["has_more"]:
                break
            query["after"] = page["next_page"]
        if len(found) == len(wanted) or time.monotonic() > deadline:
            return found
        time.sleep(POLL_S)


def authorization() -> dict[str, str]:
    """The header with the key of OPENAI_API_KEY; empty without one."""
    key = os.environ.get("OPENAI_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _get(url: str) -> dict[str, Any]:
    with urlopen(Request(url, headers=authorization()), timeout=30.0) as answer:
        loaded: dict[str, Any] = json.load(answer)
    return loaded
