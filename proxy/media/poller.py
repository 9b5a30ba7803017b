"""Asks servers how their jobs stand, so that an end is known though no client asks.

The time between two looks grows with a job's age, up to a bound: the end of a long one is known late by a
small part of its length. A server that cannot be reached is asked again, for `give_up_s`.
"""

from __future__ import annotations

import asyncio
import logging

import httpx

from proxy.media import video
from proxy.media.jobs import Job, Jobs
from proxy.media.video import Video
from proxy.settings_media import Media

log = logging.getLogger(__name__)

PART_OF_AGE = 0.02
MOST_BYTES = 1_000_000


class Poller:
    def __init__(self, jobs: Jobs, settings: Media) -> None:
        self._jobs, self._settings = jobs, settings
        self._wanted: asyncio.Queue[Job] = asyncio.Queue()

    def began(self, job: Job) -> None:
        self._wanted.put_nowait(job)

    async def run(self) -> None:
        """Runs until cancelled."""
        timeout = self._settings.timeout_s
        async with httpx.AsyncClient(timeout=timeout) as client, asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._follow(client, await self._wanted.get()))

    async def _follow(self, client: httpx.AsyncClient, job: Job) -> None:
        loop = asyncio.get_running_loop()
        began_s = heard_s = loop.time()
        fault = ""
        while True:
            now_s = loop.time()
            age_s = now_s - began_s
            wait_s = min(max(age_s * PART_OF_AGE, self._settings.poll_first_s), self._settings.poll_most_s)
            await asyncio.sleep(wait_s)
            if not job.open:
                return
            try:
                found = await self._look(client, job)
            except (httpx.HTTPError, ValueError) as error:
                now_fault = str(error) or type(error).__name__
                if now_fault != fault:
                    fault = now_fault
                    log.warning("job %s at backend %s cannot be asked for: %s", job.id, job.backend, fault)
                if loop.time() - heard_s > self._settings.give_up_s:
                    why = f"its server could not be asked for {self._settings.give_up_s:g} s: {fault}"
                    self._jobs.ended(job, None, job.seen_us, why=why)
                    return
                continue
            heard_s, fault = loop.time(), ""
            if found is None:
                self._jobs.ended(job, None, job.seen_us, why="its server does not know it any more")
                return
            self._jobs.seen(job, found)

    async def _look(self, client: httpx.AsyncClient, job: Job) -> Video | None:
        """How it stands; None where the server does not know it. Raises httpx.HTTPError, ValueError."""
        backend = self._jobs.backend(job)
        if backend is None:
            raise ValueError("the backend is not configured any more")
        url = str(backend.target(f"/v1/videos/{job.id}", b""))
        answer = await client.get(url, headers=backend.credentials())
        if answer.status_code in (404, 410):
            return None
        answer.raise_for_status()
        found = video.parse(answer.content[:MOST_BYTES])
        if found is None:
            raise ValueError("the server's description of it cannot be read")
        return found
