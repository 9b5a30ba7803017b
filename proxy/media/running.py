"""Brings up what looks after jobs, beside the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI
from sqlalchemy import Engine

from accounting.service import Accountant
from accounting.store.queries import StoreReader
from proxy.backends import Backends
from proxy.background import background
from proxy.media.jobs import Jobs
from proxy.media.poller import Poller
from proxy.observers import Observers
from proxy.settings import Settings


@asynccontextmanager
async def jobs_running(
    app: FastAPI,
    settings: Settings,
    accountant: Accountant,
    backends: Backends,
    engine: Engine,
    listener: Observers,
) -> AsyncIterator[None]:
    """`app.state.jobs` and `.media_client` are there for the routes. Follows `accountant.recover`."""
    jobs = Jobs(accountant, backends, StoreReader(engine))
    poller = Poller(jobs, settings.media)
    jobs.began = poller.began
    listener.add(jobs)
    jobs.recovered()
    for job in jobs.open:
        poller.began(job)
    app.state.jobs = jobs
    async with httpx.AsyncClient(timeout=httpx.Timeout(30.0, read=600.0)) as client:
        app.state.media_client = client
        async with background(poller.run()):
            yield
