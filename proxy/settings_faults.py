"""What is wrong with settings, in words: each fault with its place, under the source that it comes from.

Sources, the strongest first: options of the command line, the environment, a file. An environment variable is
named, since whoever reads of `server.port` looks into the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from json import JSONDecodeError
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError as EnvError

from proxy.settings_base import PATTERNS

PREFIX, BETWEEN = "JOULEGATE_", "__"
OPTIONS, ENVIRONMENT = "the options", "the environment"

Place = tuple[str | int, ...]


class Fault(NamedTuple):
    """`place`: the path of the setting; empty where it is of all together."""

    place: Place
    message: str


class Sources(NamedTuple):
    """`given`: values as they were given, by the name of their source, strongest first. `rest`: the name
    under which a fault stands that comes from none of them, or from several.
    """

    given: Sequence[tuple[str, Mapping[str, Any]]]
    rest: str


def faults_of(error: ValidationError) -> list[Fault]:
    """One for each fault that pydantic found. A validator of all settings begins its message with a path."""
    faults = []
    for detail in error.errors(include_url=False):
        place, message = detail["loc"], in_words(detail)
        if not place and (found := re.match(r"([a-z_.]+): ", message)):
            place, message = tuple(found[1].split(".")), message[found.end() :]
        faults.append(Fault(place, message))
    return faults


def in_words(detail: ErrorDetails) -> str:
    """Pydantic's message, or a plainer one where it speaks of how it works inside."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "there is no such setting"
    if kind == "url_scheme" or context.get("error") == "relative URL without a base":
        return "must begin with http:// or https://"
    if kind == "url_parsing":
        return f"is no URL: {context['error']}"
    if kind == "string_pattern_mismatch" and context["pattern"] in PATTERNS:
        return PATTERNS[context["pattern"]]
    if kind == "string_too_short" and context["min_length"] == 1:
        return "must not be empty"
    return detail["msg"].removeprefix("Value error, ")


def told(faults: Iterable[Fault], sources: Sources) -> str:
    """All faults, a line for each, under what cannot be used."""
    lines: dict[str, list[str]] = {sources.rest: [], ENVIRONMENT: [], OPTIONS: []}
    for fault in faults:
        source, line = _line(fault, sources)
        lines[source].append(f"  {line}")
    return "\n".join("\n".join([f"{name} cannot be used:", *found]) for name, found in lines.items() if found)


def not_json(error: EnvError) -> str:
    """Of an environment variable that should hold JSON and does not. Its value may be a secret: not said."""
    cause = error.__cause__
    name = f"a variable that begins with {PREFIX}"
    why = "is not valid JSON"
    if isinstance(cause, JSONDecodeError):
        why += f": {cause.msg}, at character {cause.pos + 1}"
        named = (n for n, v in os.environ.items() if n.upper().startswith(PREFIX) and v == cause.doc)
        name = next(named, name)
    return f"{ENVIRONMENT} cannot be used:\n  {name}: {why}"


def _line(fault: Fault, sources: Sources) -> tuple[str, str]:
    """The source that a fault comes from, and what is said of it there."""
    place = ".".join(str(part) for part in fault.place)
    line = f"{place}: {fault.message}" if place else fault.message
    # What is missing was given by nobody: then it is of whoever gave the group that it is missing in.
    for length in range(len(fault.place), 0, -1):
        found = [(name, _given(values, fault.place[:length])) for name, values in sources.given]
        whole = [name for name, how in found if how == "whole"]
        some = whole[:1] or list(dict.fromkeys(name for name, how in found if how == "part"))
        if not some:
            continue
        if ENVIRONMENT not in some:
            return (some[0] if len(some) == 1 else sources.rest), line
        names = _variables(fault.place)
        if len(some) > 1:
            return sources.rest, f"{line} (with {', '.join(names)} from the environment)"
        exact = [BETWEEN.join((PREFIX + place.upper()).split("."))] == [name.upper() for name in names]
        return ENVIRONMENT, f"{', '.join(names)}{'' if exact else f' ({place})'}: {fault.message}"
    return sources.rest, line


def _given(values: Mapping[str, Any], place: Place) -> Literal["whole", "part", "not"]:
    """Whether the setting at `place` is in these values: all of it, or something of a group."""
    here: Any = values
    for part in place:
        if not isinstance(here, Mapping):
            break
        if part not in here or here[part] is None:
            return "not"
        here = here[part]
    return "part" if isinstance(here, Mapping) else "whole"


def _variables(place: Place) -> list[str]:
    """Environment variables that give the setting, or something of it."""
    wanted = [str(part).upper() for part in place]
    above: list[tuple[int, str]] = []
    below: list[str] = []
    for name in os.environ:
        if not name.upper().startswith(PREFIX):
            continue
        parts = name.upper().removeprefix(PREFIX).split(BETWEEN)
        if parts == wanted[: len(parts)]:
            above.append((len(parts), name))
        elif parts[: len(wanted)] == wanted:
            below.append(name)
    return [max(above)[1]] if above else sorted(below)
