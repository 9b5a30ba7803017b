"""What a start needs beside settings that are sound by themselves: a store that can be, and tokens of meters.

Not with the settings, as commands that only read the store need no token of a meter, and workers no database.
"""

from __future__ import annotations

from collections.abc import Iterator

from accounting.meters.remote_http import RemoteError, Token
from accounting.store.engine import StoreError, read_url
from proxy.meters import sources
from proxy.settings import Settings
from proxy.settings_faults import Fault


def missing(settings: Settings) -> Iterator[Fault]:
    """All that stands in the way of a start, and that can be known without one."""
    if settings.database_url:
        try:
            read_url(settings.database_url)
        except StoreError as error:
            yield Fault(("database_url",), str(error))
    for number, source in enumerate(sources(settings)):
        if source.token_env is not None:
            try:
                Token(source.token_env).read()
            except RemoteError as error:
                yield Fault(("meters", number, "token_env"), str(error))
