"""Keeps the gate's keys up to date; and the files beside the journal, to start without a database."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from accounting.access import snapshot
from accounting.access.keys import Keyring
from accounting.access.store import AccessStore
from accounting.store.engine import StoreError
from proxy.access.gate import Gate
from proxy.access.spending import Spending

log = logging.getLogger(__name__)

KEYS_FILE, NOTE_FILE = "keys.json", "spent.json"
NOTE_EVERY_S = 5.0


class Keeper:
    def __init__(self, store: AccessStore, gate: Gate, directory: Path) -> None:
        """`directory` is that of the files."""
        self.store, self._gate, self._path = store, gate, directory / KEYS_FILE
        self._away = False

    def load(self) -> None:
        """At the start: from the store, or from the file while that is away."""
        try:
            self._use(self.store.keyring())
        except StoreError as error:
            kept = snapshot.read(self._path, Keyring)
            if kept is None:
                log.error(
                    "no keys are known: the store cannot be read, and there is no %s: %s", self._path, error
                )
                return
            log.warning("keys are those of %s, as the store cannot be read: %s", self._path, error)
            self._gate.use(kept)

    async def look(self) -> None:
        """Take in what has changed in the store."""
        try:
            if await asyncio.to_thread(self.store.version) == self._gate.keyring.version:
                self._away = False
                return
            self._use(await asyncio.to_thread(self.store.keyring))
        except StoreError as error:
            if not self._away:
                log.warning("keys stay as they are while the store cannot be read: %s", error)
            self._away = True

    def _use(self, keyring: Keyring) -> None:
        self._gate.use(keyring)
        try:
            snapshot.save(self._path, keyring)
        except OSError as error:
            log.error("keys cannot be kept in %s: %s", self._path, error)

    async def watch(self, every_s: float) -> None:
        """Runs until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await self.look()


async def note(spending: Spending) -> None:
    """Write down what was spent, now and then; runs until cancelled."""
    while True:
        await asyncio.sleep(NOTE_EVERY_S)
        save(spending)


def save(spending: Spending) -> None:
    try:
        spending.save()
    except OSError as error:
        log.error("what was spent cannot be written down: %s", error)
