"""Locust users for the paper's seven tasks: Chat, ProblemSolving, CodeCompletion, ImageChat, VideoChat,
TextToImage, TextToVideo. Name one (or several, side by side) at the end of the command line:

    locust -f loadgen/taskfile.py --headless -u 16 -r 16 -t 60s -s 60s --host http://127.0.0.1:8080 \\
        --model NAME Chat                                              closed loop: 16 in flight
    locust -f loadgen/taskfile.py --headless -u 1 -t 60s -s 60s --host http://127.0.0.1:8080 \\
        --model NAME --arrivals poisson --rate 5 CodeCompletion        open loop: 5 per second

What is sent: loadgen/asks.py; with --data a real data set: loadgen/real.py. No data is downloaded.

In the open loop one user sends at the times of loadgen/arrivals.py, each request in a greenlet of its own,
and all times count from the intended moment. --arrivals may also be a file with one time in seconds per line,
which is played back --rate times as fast. Where one core is not enough start several, with --share 0/2 and
--share 1/2: each sends its part of the arrivals and of --requests, with users of its own. (Locust's
--processes ends answers in flight after some three seconds.)
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gevent  # type: ignore[import-untyped]
from locust import events, task
from locust.argument_parser import LocustArgumentParser
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_RUNNING

from loadgen import arrivals, real
from loadgen.asks import Ask, Maker, Sizes
from loadgen.user import OpenAIUser

CLOSED = "closed"


def add_options(parser: LocustArgumentParser) -> None:
    add, usual = parser.add_argument, Sizes()
    add("--like", default="", help="Answers as long as this model's in the paper (Hugging Face name)")
    add("--longest", type=int, default=usual.longest, help="Longest answer, in tokens")
    add("--shorter", type=float, default=usual.shorter, help="Prompts and answers so many times as long")
    add("--arrivals", default=CLOSED, help="closed, constant, poisson, bursty, or a file with times")
    add("--rate", type=float, default=1.0, help="Open loop: requests per second; of a file: times as fast")
    add("--requests", type=int, default=0, help="Send no more than so many (0: without an end)")
    add("--picture", default=_text(usual.picture), help="Size of pictures that are sent, WIDTHxHEIGHT")
    add("--clip", default=_text(usual.clip), help="Size of videos that are sent")
    add("--clip-frames", type=int, default=usual.clip_frames, help="Their frames")
    add("--output", default="", help="Size of images or videos to make")
    add("--video-seconds", type=int, default=usual.video_seconds, help="Length of videos to make")
    add("--steps", type=int, default=None, help="Denoising steps (default: the server's)")
    add("--share", default="0/1", help="This process is K of N that send together: K/N, K from 0")
    add("--data", default="", help="Real data: a directory, a file or a data set in the local cache")
    add("--data-config", default=None, help="Its configuration")
    add("--split", default="train", help="Its split")
    add("--column", default=None, help="Its column with the text")
    add("--download", action="store_true", default=False, help="Let `datasets` download --data")


events.init_command_line_parser.add_listener(add_options)  # type: ignore[no-untyped-call]


def _text(size: tuple[int, int]) -> str:
    return "{}x{}".format(*size)


def _size(text: str) -> tuple[int, int]:
    """Raises ValueError for what is no WIDTHxHEIGHT."""
    width, height = (int(part) for part in text.split("x"))
    return width, height


def sizes(options: Any) -> Sizes:
    usual = Sizes()
    return Sizes(
        longest=options.longest,
        shorter=options.shorter,
        picture=_size(options.picture),
        clip=_size(options.clip),
        clip_frames=options.clip_frames,
        output=_size(options.output) if options.output else usual.output,
        video_output=_size(options.output) if options.output else usual.video_output,
        video_seconds=options.video_seconds,
        steps=options.steps,
    )


class PaperUser(OpenAIUser):
    """Sends one of the paper's tasks, in a closed or an open loop."""

    abstract = True
    _data: ClassVar[Any] = None
    _left: ClassVar[int | None] = None

    def on_start(self) -> None:
        super().on_start()
        self._options: Any = self.environment.parsed_options
        share, of = (int(part) for part in self._options.share.split("/"))
        self._share = (share, of)
        if self._options.requests and PaperUser._left is None:
            PaperUser._left = len(range(share, self._options.requests, of))
        maker = Maker(self.kind, self._model, self.pick, self._options.like, sizes(self._options))
        self._asks: Iterator[Ask] = iter(maker.next, None)
        if self._options.data:
            self._asks = real.asked(maker, self._rows(), self._options.column, self._place())

    def _rows(self) -> Any:
        if PaperUser._data is None:
            options = self._options
            PaperUser._data = real.load(options.data, options.split, options.data_config, options.download)
        return PaperUser._data

    def _place(self) -> tuple[int, int]:
        """Users take turns through the data, so that none sends what another has."""
        users = max(1, self._options.num_users or 1)
        return self.number % users * self._share[1] + self._share[0], users * self._share[1]

    @task
    def serve(self) -> None:
        if self._options.arrivals == CLOSED:
            self._next(None)
            return
        began_s, sending = time.perf_counter(), []
        for number, after_s in enumerate(self._times()):
            if number % self._share[1] != self._share[0]:
                continue
            gevent.sleep(max(0.0, began_s + after_s - time.perf_counter()))
            if self._state != LOCUST_STATE_RUNNING:
                break  # the time is over: what is in flight may end
            sending.append(gevent.spawn(self._next, began_s + after_s))
            if number % 1000 == 0:
                sending = [one for one in sending if not one.dead]
        gevent.joinall(sending)
        raise StopUser

    def _times(self) -> Iterator[float]:
        kind, rate = self._options.arrivals, self._options.rate
        if kind in arrivals.KINDS:
            return arrivals.arrivals(kind, rate, random.Random(self._options.seed))
        return (time_s / rate for time_s in arrivals.read_trace(Path(kind)))

    def _next(self, intended_s: float | None) -> None:
        if PaperUser._left is not None:
            if PaperUser._left <= 0:
                raise StopUser
            PaperUser._left -= 1
        self.send(next(self._asks), intended_s)


class Chat(PaperUser):
    """Text conversation (LM Arena)."""

    kind = "chat"


class ProblemSolving(PaperUser):
    """Questions with reasoning (GPQA diamond): long answers."""

    kind = "reasoning"


class CodeCompletion(PaperUser):
    """Fill-in-the-middle of an editor, over the Completions API."""

    kind = "code"


class ImageChat(PaperUser):
    """Talk about a picture."""

    kind = "image-chat"


class VideoChat(PaperUser):
    """Talk about a video."""

    kind = "video-chat"


class TextToImage(PaperUser):
    """Images API."""

    kind = "text-to-image"


class TextToVideo(PaperUser):
    """Videos API: a job, its end, its content."""

    kind = "text-to-video"
