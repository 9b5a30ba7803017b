"""How every command ends whose settings cannot be used: with status 2 and a line for each fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from proxy.settings import SettingsError


class UnusableSettings(click.ClickException):
    exit_code = 2


@contextmanager
def usable_settings() -> Iterator[None]:
    """Raises UnusableSettings for a SettingsError."""
    try:
        yield
    except SettingsError as error:
        raise UnusableSettings(str(error)) from error
