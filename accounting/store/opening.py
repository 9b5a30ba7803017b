"""Opens the store for writing, whether or not the database can be reached at the moment."""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Engine

from accounting import replay
from accounting.journal import Journal
from accounting.store.engine import StoreAway, migrate
from accounting.store.writer import StoreWriter

log = logging.getLogger(__name__)


def open_writer(engine: Engine, directory: Path, journal: Journal) -> StoreWriter:
    """A writer for this journal; `directory` is for what waits. A database that is away is waited for.

    Raises StoreError where it is there and cannot be used: it is no database, or of a newer joulegate.
    """
    try:
        migrate(engine)
        prepared = True
    except StoreAway as error:
        log.warning("%s; serving all the same, and storing once it can be reached", error)
        prepared = False
    return StoreWriter(
        engine,
        journal.id,
        directory=directory,
        again=lambda segment: replay.again(journal.directory, segment),
        prepared=prepared,
    )
