"""Images and videos: what a job is in work, and what was done of it in one interval.

A job is one request for images or a video, worked off by a diffusion server. Its work is known as a whole
from what it asks for (n images, width x height pixels, s steps, f frames):

    launch     s                    what a step costs however large; shared by the jobs of a batch
    text       1                    the text encoder
    outputs    n                    each image or video made
    vae        n w h f              decoding to pixels
    denoise    n s w h f'           a step's arithmetic, f' = 1 + (f - 1) / 4
    attention  n s (w h f')^2       its attention

Video models work on latent frames, as a rule a quarter of those that are played (Wan 2.1, HunyuanVideo,
CogVideoX: temporal compression 4). There are as many features as of tokens (`model.FEATURES`), in columns of
their own, so one regression learns both where a language model shares the GPU.

When a job runs is found by `jobs_queue.py`. While it does, its work is taken as even, but for time in which
other backends use its GPU (`jobs_pace.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from accounting.events import Media
from accounting.ledger.flights import Flights
from accounting.ledger.jobs_pace import ALONE, Pace
from accounting.ledger.jobs_queue import Window, expected_us, overlaps, windows
from accounting.ledger.jobs_state import JobsState
from accounting.ledger.priors import H100_POWER_W, UNKNOWN_GPU, gpu_of

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FEATURES = ("launch", "text", "outputs", "vae", "denoise", "attention")
FIXED = (1, 2, 3)
"""The features that do not grow with the steps: they are the `prefill` of a job, the others its `decode`."""

PRIOR_J = (3.0, 20.0, 5.0, 3e-5, 4e-5, 1e-11)
"""Joules per unit of each feature on an H100: round figures that come within a factor of 3 of the energies in
arXiv 2601.22076 from SANA 1.6B to HunyuanVideo. What is learnt replaces them."""

LATENT_FRAMES = 4
UNKNOWN_IMAGE = Media(kind="image", width=1024, height=1024, steps=28)
UNKNOWN_VIDEO = Media(kind="video", width=832, height=480, steps=50, frames=81)
"""What is assumed where nobody says it: the usual defaults of pipelines."""


def prior_joules(device: str | None) -> list[float]:
    """Joules per unit of each feature on this GPU, before anything is learnt."""
    gpu = gpu_of(device)
    scale = gpu.power_w / H100_POWER_W * UNKNOWN_GPU.flops / gpu.flops
    return [joules * scale for joules in PRIOR_J]


def features_of(media: Media, usual: Media | None) -> list[float]:
    """The work of a whole job, in the units of FEATURES. What it does not say is as in `usual`, the latest
    job of the backend that said it."""
    default = UNKNOWN_IMAGE if media.kind == "image" else UNKNOWN_VIDEO
    if usual is None or usual.kind != media.kind:
        usual = default
    steps = float(media.steps or usual.steps or default.steps or 1)
    width, height = media.width, media.height
    if width is None or height is None:
        width, height = usual.width, usual.height
    if width is None or height is None:
        width, height = default.width, default.height
    pixels = float((width or 1) * (height or 1))
    frames = float(media.frames or usual.frames or default.frames or 1) if media.kind == "video" else 1.0
    latent = pixels * (1.0 + (frames - 1.0) / LATENT_FRAMES)
    n = float(media.count)
    return [steps, 1.0, n, n * pixels * frames, n * steps * latent, n * steps * latent * latent]


def size_j(media: Media, usual: Media | None) -> float:
    """How large a job is, in joules by the priors: equal for equal jobs."""
    return sum(x * j for x, j in zip(features_of(media, usual), PRIOR_J, strict=True))


@dataclass(slots=True)
class JobWork:
    """What was done of a backend's jobs in one interval. Arrays run over `rows`."""

    rows: Ints
    in_flight_us: Ints
    whole: Floats
    """The features of each job as a whole, shape (jobs, features)."""
    part: Floats
    """Which part of the job was done in this interval."""
    together: float
    """How many ran at once, on average over the time that any did; at least 1."""
    known: NDArray[np.bool_]
    """Whether the part is more than a guess: the job has ended, or one just like it has."""

    @property
    def sure(self) -> bool:
        """Whether the work model may learn from this."""
        return bool((self.known | (self.part == 0)).all())

    def done(self) -> Floats:
        """The features of what was done, by job."""
        done: Floats = self.whole * self.part[:, None]
        done[:, 0] /= self.together
        return done

    def sums(self) -> list[float]:
        sums: list[float] = self.done().sum(axis=0).tolist()
        return sums

    def joules(self, prices: Floats) -> tuple[Floats, Floats]:
        """What each job's fixed part and its steps should have cost."""
        costs = self.done() * prices
        fixed: Floats = costs[:, list(FIXED)].sum(axis=1)
        return fixed, costs.sum(axis=1) - fixed

    def lean(self) -> JobWork:
        """What of it is needed to split its interval anew."""
        return replace(self, rows=np.zeros(0, np.int64), in_flight_us=np.zeros(0, np.int64))


def work_of(
    flights: Flights, state: JobsState, rows: Ints, t0_us: int, t1_us: int, pace: Pace = ALONE
) -> JobWork:
    """The work that the jobs in `rows`, all of one backend, did in [t0_us, t1_us)."""
    start, end = flights.start[rows], flights.end[rows]
    open_end = np.where(end == 0, t1_us, np.minimum(end, t1_us))
    found = windows(flights, state, rows)
    medias = [media_of(flights, row) for row in rows.tolist()]
    whole = np.array([features_of(media, state.usual) for media in medias], np.float64)
    part, together, known = parts(state, medias, found, t0_us, t1_us, pace)
    return JobWork(
        rows=rows,
        in_flight_us=np.maximum(open_end - np.maximum(start, t0_us), 0),
        whole=whole.reshape(-1, len(FEATURES)),
        part=part,
        together=together,
        known=known,
    )


def parts(
    state: JobsState,
    medias: list[Media],
    found: list[Window | None],
    t0_us: int,
    t1_us: int,
    pace: Pace = ALONE,
) -> tuple[Floats, float, NDArray[np.bool_]]:
    """`part`, `together` and `known` of an interval, by job; None is a job that never ran."""
    shares, known = [], []
    for media, window in zip(medias, found, strict=True):
        if window is None or window.begin_us >= t1_us:
            shares.append(0.0)
            known.append(True)
            continue
        until_us = t1_us if window.end_us is None else window.end_us
        inside_us = pace.worth_us(max(window.begin_us, t0_us), min(until_us, t1_us))
        length_us, sure = pace.worth_us(window.begin_us, until_us), True
        if window.end_us is None:
            usual_us, sure = expected_us(state, size_j(media, state.usual))
            length_us *= max(usual_us / (until_us - window.begin_us), 1.0)
        shares.append(inside_us / max(length_us, 1))
        known.append(sure)
    running_us, any_us = overlaps([window for window in found if window is not None], t0_us, t1_us)
    together = max(running_us / any_us, 1.0) if any_us else 1.0
    return np.array(shares, np.float64), together, np.array(known, np.bool_)


def open_joules(
    flights: Flights, state: JobsState, row: int, prices: Floats, settled_us: int, now_us: int
) -> tuple[float, float]:
    """What the part of a job that lies between `settled_us` and now should cost, fixed part and steps."""
    until_us = int(flights.end[row]) or now_us
    if until_us <= settled_us:
        return 0.0, 0.0
    n = flights.rows
    mine = (flights.group[:n] == flights.group[row]) & (flights.column[:n] == flights.column[row])
    work = work_of(flights, state, flights.in_order(np.flatnonzero(mine)), settled_us, until_us)
    fixed, steps = work.joules(prices)
    at = work.rows.tolist().index(row)
    return float(fixed[at]), float(steps[at])


def media_of(flights: Flights, row: int) -> Media:
    media = flights.teller(row).media
    assert media is not None
    return media
