from __future__ import annotations

from tests.accounting.store.databases import database, empty_database, postgres

__all__ = ["database", "empty_database", "postgres"]
