"""Gates for tests: a clock that the test moves, one key of a project, requests and what they cost."""

from __future__ import annotations

from collections.abc import Callable

from accounting.access.keys import Key, Keyring, Limits, Secret, digest
from accounting.records import RequestRecord
from accounting.store.sums import DAY_US
from proxy.access.expected import Expected, Size
from proxy.access.gate import Gate
from proxy.access.holder import Holder
from proxy.ask import Ask, understand
from tests.accounting.store.examples import record

MONDAY_US = 20_780 * DAY_US
SECRET, ADMIN_SECRET = b"sk-jg-of-a-test", b"the admin's secret"
CHAT = "/v1/chat/completions"
MILLION = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.us = MONDAY_US

    def now_us(self) -> int:
        return self.us


MakeGate = Callable[..., Gate]


def make_gate(
    clock: Clock, limits: Limits | None = None, first_uj: int | None = None, **fields: object
) -> Gate:
    """`limits` are those of the project, `fields` the key's."""
    made = Gate(clock.now_us, Expected(), admin=digest(ADMIN_SECRET), output_tokens=100, first_uj=first_uj)
    key = Key(**{"id": "key_1", "name": "k", "hint": "", "created_us": 0, "project": "p", **fields})  # type: ignore[arg-type]
    secret = Secret(hash=digest(SECRET), key=key.id, created_us=0)
    made.use(Keyring(version=1, keys=[key], secrets=[secret], limits={"project/p": limits or Limits()}))
    return made


def known(gate: Gate) -> Holder:
    return gate.know([(b"authorization", b"Bearer " + SECRET)])


def ask(body: bytes = b'{"model":"tiny","max_tokens":10}', path: str = CHAT, method: str = "POST") -> Ask:
    return understand(method, path, b"", [(b"content-type", b"application/json")], body)


def settled(uj: int | None, **fields: object) -> RequestRecord:
    parts = {"energy_uj": uj, "prefill_uj": 0, "decode_uj": uj} if uj is not None else {}
    nothing = dict.fromkeys(("energy_uj", "prefill_uj", "decode_uj"))
    return record(1, **{"completion_tokens": 11, "uncertainty_uj": 0, **nothing, **parts, **fields})


def teach(gate: Gate, uj: int, times: int = 60) -> int:
    """Requests like `ask()` cost this; returns what one is then expected to cost."""
    size = Size(CHAT, "tiny", 32, 10, 1)
    for _ in range(times):
        gate.expected.learn(size, settled(uj))
    expected = gate.expected.uj(size)
    assert expected is not None
    return expected
