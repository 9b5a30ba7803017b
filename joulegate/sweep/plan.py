"""What a sweep asks of every level. Times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

TASKS = {
    "chat": "Chat",
    "reasoning": "ProblemSolving",
    "code": "CodeCompletion",
    "image-chat": "ImageChat",
    "video-chat": "VideoChat",
    "text-to-image": "TextToImage",
    "text-to-video": "TextToVideo",
}
"""Each task and the Locust user that sends it (loadgen/taskfile.py)."""

CLOSED = "closed"
CONFIDENCE = 0.95


class SweepError(RuntimeError):
    """The sweep cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Two sweeps with the same plan ask the same, whatever their levels.

    A level is a number of requests in flight (`arrivals` "closed") or a rate per second (all others; of a
    file with times: how many times as fast). It ends after `seconds`, or when `requests` are sent (0: no such
    end), or when joules per token are known to `precision` (half the 95 % interval, as a share; 0: no such
    end). Then what is in flight has `drain_s` to end. `warm_up_s` None: found from the data.
    """

    url: str
    model: str
    task: str
    arrivals: str = CLOSED
    like: str = ""
    seconds: float = 60.0
    requests: int = 0
    precision: float = 0.0
    warm_up_s: float | None = None
    drain_s: float = 60.0
    longest: int = 32_768
    shorter: float = 1.0
    seed: int = 1
    workers: int = 1
    slo_ttft_ms: float = 1000.0
    slo_tpot_ms: float = 100.0
    load_options: tuple[str, ...] = ()
    """Passed on to loadgen/taskfile.py as they are."""

    @property
    def closed(self) -> bool:
        return self.arrivals == CLOSED
