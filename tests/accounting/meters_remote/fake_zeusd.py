"""A zeusd as ml-energy/zeus 75a8b93 has it: routes, shapes, errors and the order of its checks.

zeusd/src/routes/{gpu,mod,server}.rs, src/auth.rs, src/error.rs, src/devices/gpu/power.rs. Where the daemon
polls power at 20 Hz, so does this one; it sends a sample when the value has changed, and to a new subscriber
nothing before the first change after its coming, except that polling anew forgets the last value.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import time
from collections.abc import Iterator
from pathlib import Path

from tests.accounting.meters_remote.fake_gpus import FakeGpu
from tests.accounting.meters_remote.server import Question, Reply, Server

POLL_S = 0.05


def issue_token(key: bytes, scopes: list[str], expires_at: int | None = None) -> str:
    """What `zeusd token issue` gives: HS256, with sub, scopes and exp."""
    claims: dict[str, object] = {"sub": "tester", "scopes": scopes}
    if expires_at is not None:
        claims["exp"] = expires_at
    head = _part(json.dumps({"typ": "JWT", "alg": "HS256"}).encode())
    signed = f"{head}.{_part(json.dumps(claims).encode())}"
    return f"{signed}.{_part(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unpart(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class FakeZeusd:
    """`counters`: whether each GPU has one. `skew_s`: how far its clock is ahead."""

    def __init__(
        self,
        gpus: list[FakeGpu],
        *,
        counters: list[bool] | None = None,
        key: bytes | None = None,
        unix: Path | None = None,
        skew_s: float = 0.0,
        groups: tuple[str, ...] = ("gpu-control", "gpu-read", "cpu-read"),
    ) -> None:
        self.gpus, self.skew_s, self.groups = gpus, skew_s, groups
        self._counters, self._key = counters or [True] * len(gpus), key
        self._subscribers: list[queue.Queue[bytes | None]] = []
        self.server = Server(self._answer, unix)

    @property
    def url(self) -> str:
        return self.server.url

    def close(self) -> None:
        self.server.stop()

    def _ms(self) -> int:
        return int((time.time() + self.skew_s) * 1000)

    def _answer(self, asked: Question) -> Reply:
        if asked.path.startswith("/gpu/") and "gpu-read" not in self.groups:
            return _json(404, {"error": "API group 'gpu-read' is not enabled on this server."})
        if asked.path == "/discover":
            return _json(200, self._discovery())
        if asked.path == "/time":
            return _json(200, {"timestamp_ms": self._ms()})
        if (refusal := self._refusal(asked)) is not None:
            return refusal
        routes = {
            "/gpu/get_cumulative_energy": self._energy,
            "/gpu/get_power_limit": self._limits,
            "/gpu/get_power": self._power,
            "/gpu/stream_power": self._stream,
        }
        if asked.path not in routes:
            return Reply(404)
        given = asked.query.get("gpu_ids")
        ids = [int(i) for i in given.split(",")] if given is not None else list(range(len(self.gpus)))
        if bad := [i for i in ids if i >= len(self.gpus)]:
            return _json(400, {"error": f"GPU {bad[0]} not found"})
        return routes[asked.path](sorted(set(ids)))

    def _discovery(self) -> object:
        gpus = [
            {
                "id": i,
                "name": "NVIDIA A40",
                "pci_address": f"0000:{i + 1:02x}:00.0",
                "cumulative_energy_available": counted,
            }
            for i, counted in enumerate(self._counters)
        ]
        return {
            "gpus": gpus,
            "cpus": [{"id": 0, "dram_available": True}],
            "enabled_api_groups": list(self.groups),
            "auth_required": self._key is not None,
        }

    def _refusal(self, asked: Question) -> Reply | None:
        if self._key is None:
            return None
        given = asked.headers.get("authorization", "")
        if not given.startswith("Bearer "):
            return _json(
                401, {"error": "Authentication required. Provide an Authorization: Bearer <token> header."}
            )
        try:
            signed, _, signature = given.removeprefix("Bearer ").rpartition(".")
            right = hmac.new(self._key, signed.encode(), hashlib.sha256).digest()
            if not hmac.compare_digest(right, _unpart(signature)):
                raise ValueError("InvalidSignature")
            claims = json.loads(_unpart(signed.partition(".")[2]))
        except ValueError as error:
            return _json(401, {"error": f"Invalid token: {error}"})
        if claims.get("exp", time.time() + 1) < time.time():
            return _json(401, {"error": "Token has expired."})
        if "gpu-read" not in claims["scopes"]:
            return _json(403, {"error": "Token for user 'tester' lacks required scope 'gpu-read'."})
        return None

    def _errors(self, ids: list[int], *, counter: bool) -> Reply | None:
        errors = {str(i): f"NVML error: {self.gpus[i].fault}" for i in ids if self.gpus[i].fault}
        if errors:
            return _json(500, {"errors": errors})
        lacking = {str(i): "NVML error: not supported" for i in ids if counter and not self._counters[i]}
        return _json(400, {"errors": lacking}) if lacking else None

    def _energy(self, ids: list[int]) -> Reply:
        return self._errors(ids, counter=True) or _json(
            200, {str(i): {"energy_mj": self.gpus[i].energy_mj()} for i in ids}
        )

    def _limits(self, ids: list[int]) -> Reply:
        return _json(200, {str(i): {"power_limit_mw": 300_000} for i in ids})

    def _power(self, ids: list[int]) -> Reply:
        return self._errors(ids, counter=False) or _json(
            200, {"timestamp_ms": self._ms(), "power_mw": {str(i): self.gpus[i].power_mw for i in ids}}
        )

    def _stream(self, ids: list[int]) -> Reply:
        return Reply(200, kind="text/event-stream", stream=self._samples(ids))

    def _samples(self, ids: list[int]) -> Iterator[bytes]:
        last: dict[int, int] = {}
        while True:
            for i in ids:
                power_mw = self.gpus[i].power_mw
                if last.get(i) != power_mw:
                    last[i] = power_mw
                    sample = {"timestamp_ms": self._ms(), "gpu_id": i, "power_mw": power_mw}
                    yield f"data: {json.dumps(sample, separators=(',', ':'))}\n\n".encode()
            time.sleep(POLL_S)


def _json(status: int, body: object) -> Reply:
    return Reply(status, json.dumps(body, separators=(",", ":")).encode())
