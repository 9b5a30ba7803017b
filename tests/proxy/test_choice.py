"""The rules by which a replica is chosen, on replicas as plain values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from proxy.choice import at_home, pick
from proxy.settings_routing import Routing

NOW_S = 100.0


@dataclass
class Replica:
    id: str
    in_flight: int = 0
    work: int = 0
    turns: int = 0
    itl: float | None = None
    ttft: float | None = None

    def itl_s(self, now_s: float) -> float | None:
        assert now_s == NOW_S
        return self.itl

    def ttft_s(self, now_s: float) -> float | None:
        assert now_s == NOW_S
        return self.ttft


def chosen(replicas: list[Replica], routing: Routing, session: str | None = None, prefix: bytes = b"") -> str:
    return pick(replicas, routing, NOW_S, session=session, prefix=prefix or None).id


def homes(ids: list[str], keys: int = 2000) -> dict[int, str]:
    replicas = [Replica(name) for name in ids]
    found = {key: at_home(replicas, b"session %d" % key, Routing()) for key in range(keys)}
    return {key: home.id for key, home in found.items() if home is not None}


def test_the_fewest_tokens_in_flight_count_and_not_the_fewest_requests() -> None:
    long, short = Replica("long", in_flight=1, work=30_000), Replica("short", in_flight=5, work=2_000)
    assert chosen([long, short], Routing()) == "short"


def test_round_robin_gives_everyone_a_turn() -> None:
    replicas = [Replica(name, work=work) for name, work in (("a", 0), ("b", 9_000), ("c", 5))]
    got = []
    for _ in range(6):
        got.append(chosen(replicas, Routing(policy="round_robin")))
        next(r for r in replicas if r.id == got[-1]).turns += 1
    assert got == ["a", "b", "c"] * 2


def test_packing_fills_the_busiest_and_leaves_the_others_idle() -> None:
    replicas = [Replica("a"), Replica("b", in_flight=3, work=900), Replica("c", in_flight=1, work=300)]
    assert chosen(replicas, Routing(policy="pack")) == "b"


def test_packing_begins_with_the_same_one_each_time() -> None:
    replicas = [Replica("b"), Replica("a"), Replica("c")]
    assert chosen(replicas, Routing(policy="pack")) == "a"


@pytest.mark.parametrize(
    "full",
    [Replica("b", in_flight=64), Replica("b", in_flight=3, itl=0.051), Replica("b", in_flight=3, ttft=2.1)],
    ids=["many in flight", "slow tokens", "slow first token"],
)
def test_packing_goes_on_where_the_latency_bound_is_kept(full: Replica) -> None:
    assert chosen([Replica("a"), full], Routing(policy="pack")) == "a"


def test_packing_with_all_full_falls_back_to_the_least_work() -> None:
    replicas = [Replica("a", in_flight=70, work=900), Replica("b", in_flight=80, work=800)]
    assert chosen(replicas, Routing(policy="pack")) == "b"


def test_a_session_stays_where_it_is_whatever_the_order_and_the_load() -> None:
    routing = Routing()
    first = chosen([Replica("a"), Replica("b"), Replica("c")], routing, session="s1")
    busy = [Replica("c", 3, 300), Replica("b", 3, 300), Replica("a", 3, 300)]
    next(r for r in busy if r.id == first).work = 900
    assert chosen(busy, routing, session="s1") == first


def test_sessions_spread_evenly() -> None:
    count = Counter(homes(["a", "b", "c", "d"]).values())
    assert len(count) == 4
    assert all(400 < n < 600 for n in count.values()), count


def test_a_replica_that_joins_takes_its_share_and_moves_nothing_else() -> None:
    before, after = homes(["a", "b", "c"]), homes(["a", "b", "c", "d"])
    moved = {key for key in before if before[key] != after[key]}
    assert {after[key] for key in moved} == {"d"}
    assert 400 < len(moved) < 600  # a quarter of 2000


def test_a_replica_that_leaves_moves_its_own_sessions_only() -> None:
    before, after = homes(["a", "b", "c"]), homes(["a", "c"])
    assert all(after[key] == home for key, home in before.items() if home != "b")


def test_an_overloaded_home_hands_on_to_the_next_and_always_the_same() -> None:
    routing = Routing()
    replicas = [Replica(name, in_flight=10, work=1_000) for name in "abc"]
    home = at_home(replicas, b"key", routing)
    assert home is not None
    home.work = 9_000
    second = at_home(replicas, b"key", routing)
    assert second is not None
    assert second is not home
    assert second is at_home(list(reversed(replicas)), b"key", routing)


def test_a_prefix_counts_only_where_it_is_asked_for_and_a_session_before_it() -> None:
    replicas = [Replica(name) for name in "abcdefgh"]
    prefixes = [b"prompt %d" % n for n in range(40)]
    assert {chosen(replicas, Routing(), prefix=prefix) for prefix in prefixes} == {"a"}  # all idle: the first
    both = Routing(affinity=["session", "prefix"])
    assert len({chosen(replicas, both, prefix=prefix) for prefix in prefixes}) > 4
    assert len({chosen(replicas, both, session="s", prefix=prefix) for prefix in prefixes}) == 1
