"""The set of backends: which may have a request, what looks at them tell, what a reload changes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from proxy import settings
from proxy.backends import Backend, Backends
from proxy.errors import BackendUnavailable, BadRequest, NotFound
from proxy.retry import Fault
from proxy.settings_routing import Health, Retry, Routing


def configured(name: str, url: str = "", models: list[str] | None = None) -> settings.Backend:
    given = {"id": name, "url": url or f"http://{name}.test:8000", "models": models, "gpus": [f"GPU-{name}"]}
    return settings.Backend.model_validate(given)


def backends(*names: str, models: list[str] | None = None, **retry: float) -> Backends:
    """All up, serving `m` if not told otherwise."""
    made = [Backend.of(configured(name, models=models or ["m"]), [f"GPU-{name}"]) for name in names]
    for backend in made:
        backend.up = True
    return Backends(made, Routing(affinity=[]), Health(), Retry.model_validate(retry))


def test_a_lone_backend_gets_everything_also_while_it_is_down() -> None:
    lone = backends("a")
    lone.all[0].up = False
    assert lone.choose(None) is lone.choose("whatever") is lone.all[0]


def test_among_several_a_model_has_to_be_named_and_known() -> None:
    several = backends("a", "b")
    with pytest.raises(BadRequest):
        several.choose(None)
    with pytest.raises(NotFound):
        several.choose("other")


def test_a_model_that_an_engine_still_loading_may_serve_is_not_said_to_be_missing() -> None:
    several = backends("a", "b")
    several.all[1].models, several.all[1].up = {}, None
    with pytest.raises(BackendUnavailable) as caught:
        several.choose("other")
    assert caught.value.retry_after_s is not None


def test_one_that_was_not_looked_at_yet_is_asked_only_where_none_is_known_to_be_up() -> None:
    several = backends("a", "b")
    several.all[0].up = None
    assert several.choose("m").id == "b"
    several.all[1].up = False
    assert several.choose("m").id == "a"


def test_with_none_up_the_answer_says_when_to_come_back() -> None:
    several = backends("a", "b")
    for backend in several.all:
        backend.up = False
    with pytest.raises(BackendUnavailable) as caught:
        several.choose("m")
    assert caught.value.headers() == {"retry-after": "1"}


def test_with_all_ejected_those_that_answer_looks_are_asked_all_the_same() -> None:
    several = backends("a", "b")
    for backend in several.all:
        for _ in range(Health().failures):
            backend.begin()
            backend.end(False)
        assert backend.passive.ejections == 1
    assert several.choose("m") in several.all


def test_a_failed_try_goes_on_to_each_other_replica_once() -> None:
    several = backends("a", "b", "c", tries=10)
    tried = [several.choose("m")]
    while (other := several.again(Fault.REFUSED, tried, "m")) is not None:
        tried.append(other)
    assert sorted(backend.id for backend in tried) == ["a", "b", "c"]
    assert [backend.retried for backend in tried] == [1, 1, 0]


def test_retries_of_a_storm_stay_within_the_budget() -> None:
    several = backends("a", "b", ratio=0.1, burst=5)
    tries = [several.again(503, [several.choose("m")], "m") for _ in range(200)]
    assert sum(other is not None for other in tries) <= 5 + 200 * 0.1
    assert several.budget.refused > 150


def test_a_reload_keeps_what_is_the_same_and_lets_go_of_what_is_not_when_it_has_drained() -> None:
    several = backends("a", "b", "c")
    a, b, c = several.all
    b.begin(10)
    new = [
        configured("a", models=["m"]),
        configured("b", "http://elsewhere:1"),
        configured("c", models=["n"]),
    ]
    changes = several.apply(new, {one.id: [f"GPU-{one.id}"] for one in new})
    assert several.all[0] is a
    assert several.all[2] is c
    assert (changes.removed, changes.changed) == ([b], [c])
    assert [backend.id for backend in changes.added] == ["b"]
    assert list(c.models) == ["n"]
    gone: list[Backend] = []
    several.drained = gone.append
    several.forget_drained()
    assert (several.leaving, gone) == ([b], [])
    b.end(True, work=10)
    several.forget_drained()
    assert (several.leaving, gone) == ([], [b])


def test_a_newcomer_does_not_get_all_turns_until_it_has_caught_up() -> None:
    several = backends("a")
    several.use(Routing(policy="round_robin"), Health(), Retry())
    several.all[0].turns = 1000
    new = [configured("a", models=["m"]), configured("b", models=["m"])]
    several.apply(new, {one.id: [] for one in new})
    several.all[1].up = True
    chosen = []
    for _ in range(6):
        backend = several.choose("m")
        backend.begin()
        chosen.append(backend.id)
    assert chosen.count("a") == 3


class Engine:
    """Answers looks as it is told to: the models it lists, the status of its /health."""

    def __init__(self) -> None:
        self.models, self.health = ["m"], 200
        self.url = ""


@contextmanager
def engine() -> Iterator[Engine]:
    told = Engine()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"data": [{"id": model} for model in told.models]}).encode()
            self.send_response(told.health if self.path == "/health" else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()


def watched(url: str, *steps: Callable[[Backend], bool]) -> None:
    """Look at a backend until each condition in turn holds."""
    health = Health(interval_s=0.02, interval_down_s=0.02, looks=2)
    one = Backends([Backend.of(configured("a", url), [])], health=health)

    async def run() -> None:
        watching = asyncio.create_task(one.watch())
        async with asyncio.timeout(20):
            for step in steps:
                while not step(one.all[0]):
                    assert not watching.done(), watching
                    await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(run())


def test_models_that_an_engine_loads_or_unloads_are_known_with_the_next_look() -> None:
    with engine() as told:

        def first(backend: Backend) -> bool:
            if list(backend.models) != ["m"]:
                return False
            told.models = ["m", "lora"]
            return True

        def second(backend: Backend) -> bool:
            if list(backend.models) != ["m", "lora"]:
                return False
            told.models = ["lora"]
            return True

        watched(told.url, first, second, lambda backend: list(backend.models) == ["lora"])


def test_an_engine_whose_core_died_is_down_though_it_lists_its_models() -> None:
    with engine() as told:

        def up(backend: Backend) -> bool:
            if not backend.up:
                return False
            told.health = 503
            return True

        watched(told.url, up, lambda backend: backend.up is False)


def test_a_server_without_health_is_judged_by_its_models() -> None:
    with engine() as told:
        told.health = 404
        watched(told.url, lambda backend: backend.up is True)
