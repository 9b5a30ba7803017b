"""`hear` starts meters, `closing` takes servers; both are closed with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Protocol, TypeVar

import pytest

from accounting.meters import remote
from accounting.meters.contract import Meter
from tests.accounting.meters_remote.hearing import Heard


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_RETRY_S", 0.1)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def hear(stack: ExitStack) -> Callable[[Meter], Heard]:
    def start(meter: Meter) -> Heard:
        stack.callback(meter.close)
        return Heard(meter)

    return start


@pytest.fixture
def closing(stack: ExitStack) -> Callable[[C], C]:
    def take(thing: C) -> C:
        stack.callback(thing.close)
        return thing

    return take
