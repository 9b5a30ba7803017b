"""The two keys of a sweep, where joulegate asks for keys: one sends, the admin's sees what it cost.

Both come from the environment, so that they are in no list of processes, and no message has either.
"""

from __future__ import annotations

import os

from joulegate.sweep.plan import SweepError

SENDING, SEEING = "OPENAI_API_KEY", "JOULEGATE_ADMIN_KEY"
"""The books and the meter's counters are of whole GPUs: only the admin may see them, and it may not send."""


def to_see() -> tuple[str, str] | None:
    """The variable whose key is shown when asking what a load cost, and that key; None: there is none.

    Raises SweepError for what cannot be a key.
    """
    for name in (SEEING, SENDING):
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()):  # the HTTP client would show it in its error
                raise SweepError(f"{name} has characters that no key has")
            return name, key
    return None


def refused(status: int, what: str, shown: str | None) -> str:
    """What to do about a 401 or 403 at `what` with the key of the variable `shown`."""
    if shown is None:
        return (
            f"{what} asks for a key: set {SEEING} to the admin's and {SENDING} to one that may send requests"
        )
    if status == 401:
        return f"{what} does not know the key in {shown}"
    if shown == SENDING:
        return f"{what} is for the admin only: set {SEEING} to its key, {SENDING} keeps the one that sends"
    return f"the key in {SEEING} is not the admin's: {what} is for the admin only"


def hint(errors: set[str]) -> str:
    """What to add where nothing was answered, as far as keys may be why."""
    if "status 401" in errors:
        return f": {SENDING} has no key that is good"
    if "status 403" in errors:
        return f": the key in {SENDING} may not send this: it is the admin's, or not for this model"
    return ""


def environment_to_send() -> dict[str, str]:
    """That of the load generator, which has no use for the admin's key."""
    return {name: value for name, value in os.environ.items() if name != SEEING}
