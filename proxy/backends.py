"""The engines behind the proxy: which models each serves, whether it answers, which one gets a request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yarl import URL

from proxy import choice, probe, settings
from proxy.errors import BackendUnavailable, BadRequest, NotFound
from proxy.health import Passive
from proxy.hints import Hints, Reader
from proxy.retry import Budget, Fault, may_retry
from proxy.settings_routing import Health, Retry, Routing
from proxy.stream import Fingerprint

log = logging.getLogger(__name__)

ANY_MODEL = "\0any"
"""Stands for the model of what is not about one, such as OPTIONS."""

RECENT_S = 10.0
"""Latencies older than this say nothing of now."""

WEIGHT = 0.3
"""Of the newest latency in the running mean."""


@dataclass(slots=True)
class Mean:
    """Running mean of a latency in seconds, and when it last changed."""

    value_s: float = 0.0
    at_s: float = float("-inf")

    def add(self, value_s: float, now_s: float) -> None:
        old = now_s - self.at_s > RECENT_S
        self.value_s = value_s if old else self.value_s + WEIGHT * (value_s - self.value_s)
        self.at_s = now_s

    def now(self, now_s: float) -> float | None:
        return self.value_s if now_s - self.at_s <= RECENT_S else None


@dataclass(slots=True, eq=False)
class Backend:
    """One engine. `begin` and `end` enclose every try of a request on it."""

    id: str
    url: URL
    gpus: list[str]
    configured_models: list[str] | None
    authorization: bytes | None = field(default=None, repr=False)
    """What the engine wants to see as Authorization."""
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The models it serves, each as it describes it."""
    up: bool | None = None
    """Whether it answers when looked at; None before it was."""
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    passive: Passive = field(default_factory=lambda: Passive(Health()))
    silent_looks: int = 0
    """Looks in a row that it did not answer."""
    in_flight: int = 0
    work: int = 0
    """Tokens in flight: of prompts, and expected of answers."""
    turns: int = 0
    """Requests given to it, since the last replica joined."""
    failed: int = 0
    """Tries that it failed, for metrics."""
    retried: int = 0
    """Of them those that were made again elsewhere."""
    _elsewhere: tuple[int, int] = (0, 0)
    _ttft: Mean = field(default_factory=Mean)
    _itl: Mean = field(default_factory=Mean)

    @classmethod
    def of(cls, configured: settings.Backend, gpus: list[str], health: Health | None = None) -> Backend:
        backend = cls(configured.id, URL(str(configured.url)), gpus, None)
        backend.authorization = configured.authorization()
        backend.passive = Passive(health or Health())
        backend.name_models(configured.models)
        return backend

    def name_models(self, named: list[str] | None) -> None:
        """Take the models from the settings; None: ask the engine."""
        self.configured_models = named
        if named is not None:
            plain = {m: {"id": m, "object": "model", "owned_by": self.id} for m in named}
            self.models = {model: self.models.get(model, card) for model, card in plain.items()}

    def credentials(self) -> dict[str, str]:
        """Headers of a request of our own."""
        return {} if self.authorization is None else {"authorization": self.authorization.decode()}

    def target(self, path: str, query: bytes) -> URL:
        base = str(self.url).rstrip("/")
        return URL(base + path + ("?" + query.decode("latin-1") if query else ""), encoded=True)

    def begin(self, work: int = 1) -> None:
        """A try is sent to it; `work` as in `Hints`."""
        self.in_flight += 1
        self.work += work
        self.turns += 1
        self.passive.taken(time.monotonic())

    def end(
        self, ok: bool | None, latency_s: float | None = None, *, itl_s: float | None = None, work: int = 1
    ) -> None:
        """The try is over. `work` is what `begin` was given.

        `ok`: whether the engine did its part: False where `retry.is_failure` says so or its answer broke off,
        None where the client left. `latency_s` is the time to the first token of a stream, `itl_s` the mean
        time between its tokens; None where not known.
        """
        now_s = time.monotonic()
        self.in_flight -= 1
        self.work -= work
        if latency_s is not None:
            self._ttft.add(latency_s, now_s)
        if itl_s is not None:
            self._itl.add(itl_s, now_s)
        self.failed += ok is False
        if self.passive.record(ok, now_s):
            until_s = self.passive.until_s
            assert until_s is not None
            log.warning("backend %s failed too often: for %.0f s others are asked", self.id, until_s - now_s)

    def elsewhere(self, in_flight: int, work: int) -> None:
        """So much of what is in flight on it was sent by other processes."""
        was_in_flight, was_work = self._elsewhere
        self.in_flight += in_flight - was_in_flight
        self.work += work - was_work
        self._elsewhere = in_flight, work

    @property
    def load(self) -> tuple[int, int]:
        """Requests in flight and their work, of those that this process sent."""
        return self.in_flight - self._elsewhere[0], self.work - self._elsewhere[1]

    def unreachable(self) -> None:
        """It refused the connection: down until it answers a look, and it is looked at often from now on."""
        self.up = False

    def ttft_s(self, now_s: float) -> float | None:
        """Time to the first token of late."""
        return self._ttft.now(now_s)

    def itl_s(self, now_s: float) -> float | None:
        """Time between tokens of late."""
        return self._itl.now(now_s)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a reload did to the backends, by id."""

    added: list[Backend]
    removed: list[Backend]
    changed: list[Backend]
    """Same engine, other GPUs, models or key."""


class Backends:
    """All of them. `watch` keeps what is known of them fresh."""

    def __init__(
        self,
        backends: Sequence[Backend],
        routing: Routing | None = None,
        health: Health | None = None,
        retry: Retry | None = None,
    ) -> None:
        self.all = list(backends)
        self.leaving: list[Backend] = []
        """Taken out of the settings, with requests still in flight."""
        self.drained: Callable[[Backend], None] = lambda _: None
        """Called with each that left, once it has nothing in flight."""
        self.budget = Budget(retry or Retry())
        self.use(routing or Routing(), health or Health(), retry or Retry())

    def use(self, routing: Routing, health: Health, retry: Retry) -> None:
        """Go by these settings from now on."""
        self.routing, self.health, self._retry = routing, health, retry
        self._reader = Reader(routing)
        self.budget.use(retry)
        for backend in self.all:
            backend.passive.use(health)

    def use_settings(self, new: settings.Settings) -> None:
        """The same, from the whole of the settings."""
        self.use(new.routing, new.health, new.retry)

    def hints(
        self, headers: Sequence[tuple[bytes, bytes]], body: bytes | bytearray, *, length: int | None = None
    ) -> Hints:
        """What `choose` and `begin` want to know of a request; nothing is looked for without a choice.

        `body` may be only its beginning; `length` is then the bytes of the whole.
        """
        return Hints() if len(self.all) == 1 else self._reader.read(headers, body, length=length)

    def choose(
        self,
        model: str | None,
        *,
        session: str | None = None,
        prefix: bytes | None = None,
        avoid: Collection[Backend] = (),
    ) -> Backend:
        """The backend for a model's request. A lone one gets everything and judges for itself.

        Raises BadRequest where there are several and no model is named, NotFound where none serves it,
        BackendUnavailable where none of those that do is up, or all are to be avoided.
        """
        if not avoid:
            self.budget.earn()
            if len(self.all) == 1:
                return self.all[0]
        now_s = time.monotonic()
        serving = [backend for backend in self._serving(model) if backend not in avoid]
        up = [backend for backend in serving if backend.up]
        up = up or [backend for backend in serving if backend.up is None]  # not looked at yet: they may be
        if not up:
            which = ", ".join(backend.id for backend in serving) or "none is left"
            message = f"no backend that serves the model `{model}` answers ({which})"
            raise BackendUnavailable(message, retry_after_s=self.health.interval_down_s)
        # Where all are ejected, those that answer when looked at are better than none.
        able = [backend for backend in up if backend.passive.may_take(now_s)] or up
        return choice.pick(able, self.routing, now_s, session=session, prefix=prefix)

    def _serving(self, model: str | None) -> list[Backend]:
        if len(self.all) == 1 or model == ANY_MODEL:
            return self.all
        if model is None:
            raise BadRequest("you must provide a model parameter", param="model")
        serving = [backend for backend in self.all if model in backend.models]
        if serving:
            return serving
        if unknown := [backend.id for backend in self.all if not backend.models]:
            # Not yet asked, or still loading: it may be the one, so this is not the client's mistake.
            which = ", ".join(unknown)
            raise BackendUnavailable(
                f"no backend is known to serve the model `{model}`, but it is not known what {which} serves",
                retry_after_s=self.health.interval_down_s,
            )
        raise NotFound(f"The model `{model}` does not exist.", param="model", code="model_not_found")

    def again(
        self,
        failure: Fault | int,
        tried: Sequence[Backend],
        model: str | None,
        *,
        session: str | None = None,
        prefix: bytes | None = None,
        answered: bool = False,
    ) -> Backend | None:
        """The backend for another try, or None where the failure stands.

        `failure` is a fault, or the HTTP status of the answer; `tried` are the backends so far, in order, the
        last of which failed; `answered`: the client already has a byte.
        """
        if len(self.all) == 1 or not may_retry(
            failure, tries=len(tried), answered=answered, retry=self._retry
        ):
            return None
        try:
            other = self.choose(model, session=session, prefix=prefix, avoid=tried)
        except BackendUnavailable:
            return None
        if not self.budget.spend():
            return None
        tried[-1].retried += 1
        return other

    def apply(self, configured: Sequence[settings.Backend], gpus: Mapping[str, list[str]]) -> Changes:
        """Make these the backends; `gpus` by id. One that is gone gets no new requests and drains.

        A backend with the same id and another URL is another engine: the old one drains.
        """
        known = {(backend.id, str(backend.url)): backend for backend in self.all}
        changes = Changes([], [], [])
        now = []
        for one in configured:
            backend = known.pop((one.id, str(URL(str(one.url)))), None)
            if backend is None:
                backend = Backend.of(one, gpus[one.id], self.health)
                changes.added.append(backend)
            elif (backend.gpus, backend.configured_models, backend.authorization) != (
                *(gpus[one.id], one.models, one.authorization()),
            ):
                backend.gpus, backend.authorization = gpus[one.id], one.authorization()
                backend.name_models(one.models)
                changes.changed.append(backend)
            now.append(backend)
        changes.removed.extend(known.values())
        self.leaving += changes.removed
        if changes.added:
            for backend in now:  # a newcomer must not get all requests until it has had as many as the others
                backend.turns = 0
        self.all[:] = now
        return changes

    def forget_drained(self) -> None:
        """Let go of those that left and have nothing in flight any more."""
        for backend in [backend for backend in self.leaving if not backend.in_flight]:
            log.info("backend %s at %s has drained", backend.id, backend.url)
            self.leaving.remove(backend)
            self.drained(backend)

    async def watch(self) -> None:
        """Look at every backend, again and again; runs until cancelled."""
        await probe.watch(self)
