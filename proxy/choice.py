"""Which of several replicas gets a request: the rules, as functions of what is known of the replicas.

- least work: the fewest tokens in flight. Requests differ a thousandfold in length: their number says little;
- round robin: each in turn, for comparisons;
- pack: the busiest replica that still keeps the latency bounds, so that the others stay idle. A step of an
  engine reads all weights once, whoever many requests decode in it: eight requests on one GPU cost little
  more energy than four, and the other GPU draws its idle power meanwhile;
- affinity: a key (session, prefix) belongs to the replica with the highest hash of key and replica
  (rendezvous hashing, Thaler and Ravishankar 1998): a replica that comes or goes moves only its own share of
  the keys. Where that replica is overloaded the next highest takes over, as in consistent hashing with
  bounded loads (arXiv 1608.01350).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar

from proxy.settings_routing import Routing


class Replica(Protocol):
    """What the rules look at."""

    @property
    def id(self) -> str: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def work(self) -> int: ...
    @property
    def turns(self) -> int: ...
    def itl_s(self, now_s: float) -> float | None: ...
    def ttft_s(self, now_s: float) -> float | None: ...


R = TypeVar("R", bound=Replica)


def pick(
    replicas: Sequence[R], routing: Routing, now_s: float, *, session: str | None, prefix: bytes | None
) -> R:
    """The replica for a request. `replicas` are those that may have it, at least one."""
    if len(replicas) == 1:
        return replicas[0]
    for kind in routing.affinity:
        key = prefix if kind == "prefix" else None if session is None else session.encode()
        if key and (home := at_home(replicas, key, routing)) is not None:
            return home
    if routing.policy == "pack":
        return packed(replicas, routing, now_s)
    if routing.policy == "round_robin":
        return min(replicas, key=_turns)
    return min(replicas, key=_work)


def _turns(replica: Replica) -> int:
    return replica.turns


def _work(replica: Replica) -> tuple[int, int, int]:
    return replica.work, replica.in_flight, replica.turns


def score(key: bytes, replica: str) -> bytes:
    """The weight of a replica for a key: the same in every process and at every start."""
    return hashlib.blake2b(key, digest_size=8, key=replica.encode()[:64]).digest()


def at_home(replicas: Sequence[R], key: bytes, routing: Routing) -> R | None:
    """The replica that a key belongs to, or the next that is not overloaded; None where all are."""
    most_work = routing.affinity_load * sum(replica.work for replica in replicas) / len(replicas)
    for replica in sorted(replicas, key=lambda replica: score(key, replica.id), reverse=True):
        if replica.in_flight < routing.affinity_requests or replica.work <= most_work:
            return replica
    return None


def full(replica: Replica, routing: Routing, now_s: float) -> bool:
    """Whether one more request would break the bounds of packing. What is not known of late breaks none."""
    if replica.in_flight >= routing.pack_in_flight:
        return True
    itl_s, ttft_s = replica.itl_s(now_s), replica.ttft_s(now_s)
    return (itl_s is not None and itl_s * 1e3 > routing.pack_itl_ms) or (
        ttft_s is not None and ttft_s * 1e3 > routing.pack_ttft_ms
    )


def packed(replicas: Sequence[R], routing: Routing, now_s: float) -> R:
    """The busiest that is not full; where all at work are full an idle one; else that with the least work.

    Among the idle the first by name, always: so that it is the same ones that stay idle.
    """
    warm = [replica for replica in replicas if not full(replica, routing, now_s)]
    if not warm:
        return min(replicas, key=_work)
    return min(warm, key=lambda replica: (-replica.in_flight, replica.id))
