"""The child process that reads the GPUs: `python -m accounting.meters.sampler CONFIG` (see wire.py).

A process of its own, because a thread beside a busy interpreter reads too late, and because NVML must not be
initialised in a process that may fork. In it:

- the main thread listens for the parent, sees to calls that hang, and ends the process when the parent is
  gone, hung calls or not
- one thread reads all GPUs in turn (`rounds.py`)
- one thread per GPU does all that is slow (`minder.py`)
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from accounting.clock import Clock
from accounting.meters.faults import Fault
from accounting.meters.listing import list_gpus
from accounting.meters.minder import EXIT_START_AGAIN, Minder, down
from accounting.meters.nvml import Nvml
from accounting.meters.pace import Pace
from accounting.meters.ring import Ring
from accounting.meters.rounds import Rounds
from accounting.meters.teller import Teller
from accounting.meters.wire import BUSY, Config

EXIT_BUG = 70

WATCH_S = 0.25

PRIORITY = -10
"""Its niceness. It works for less than a hundredth of the time, and late reads blur the counter's steps."""


def sample(config: Config, rounds: Rounds, teller: Teller) -> None:
    """Start a thread for each GPU. Ends the process when NVML cannot be used at all."""
    try:
        nvml = Nvml(Path(config.library) if config.library else None)
        which: Sequence[str | int] = config.gpus if config.gpus is not None else range(nvml.count())
        if not which:
            raise Fault("NOT_FOUND", "the driver lists no GPU")
    except Fault as fault:
        for slot, gpu in enumerate(config.gpus if config.gpus else ["*"]):
            teller.tell(slot, down(rounds.clock, gpu, fault))
        os._exit(EXIT_START_AGAIN)
    for slot, one in enumerate(which):
        Minder(nvml, one, slot, config, rounds, teller.tell).start()


def listen(rounds: Rounds) -> None:
    """Hear the parent until it is gone."""
    stdin = sys.stdin.fileno()
    while True:
        if select.select([stdin], [], [], WATCH_S)[0]:
            command = os.read(stdin, 64)
            if not command:
                return
            rounds.pace.set_busy(command[-1:] == BUSY)
        rounds.watch()


def main() -> None:
    config = msgspec.json.decode(sys.argv[1], type=Config)
    if config.ring_fd is None:
        listing = list_gpus(Path(config.library) if config.library else None, config.patience_s)
        sys.stdout.buffer.write(msgspec.json.encode(listing))
        sys.stdout.flush()
        os._exit(0)  # a call that hangs must not keep the process
    with contextlib.suppress(PermissionError):  # only root may; it then keeps its beat on a busy machine
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us itself
    threading.excepthook = end_on_bug
    out_fd = os.dup(sys.stdout.fileno())
    # Whatever a library prints must not end up among our lines.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    teller = Teller(Ring(config.ring_fd), out_fd)
    rounds = Rounds(Clock(config.offset_us), Pace(config.busy_period_s, config.idle_period_s), teller.read)
    # The main thread must hear the parent from the start: already the library's init can hang.
    threading.Thread(target=sample, args=(config, rounds, teller), daemon=True).start()
    listen(rounds)
    os._exit(0)


def end_on_bug(args: threading.ExceptHookArgs) -> None:
    """A thread that died of a bug would leave a GPU unread for ever; a new process reads it again."""
    trace: TracebackType | None = args.exc_traceback
    sys.__excepthook__(args.exc_type, args.exc_value or args.exc_type(), trace)
    sys.stderr.flush()
    os._exit(EXIT_BUG)


if __name__ == "__main__":
    main()
