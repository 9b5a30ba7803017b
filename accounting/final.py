"""Each request once, with its final figures: records wait for their corrections."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from accounting.records import BackendFacts, Booked, Correction, Output, RequestRecord, corrected

WAIT_US = 600_000_000
"""A correction comes within minutes of its request's end, as intervals are kept for five (`history.py`)."""


def final(outputs: Iterable[Output]) -> Iterator[Booked]:
    """The same outputs without the facts, records held back until their correction is in them or there can be
    none.

    Records keep their order among themselves. Held are those that ended within WAIT_US of the newest time
    seen, so memory is bounded; a correction that comes later than that, or whose record came before the first
    output, is given as it is.
    """
    held: OrderedDict[str, RequestRecord] = OrderedDict()
    now_us = 0
    for output in outputs:
        if isinstance(output, BackendFacts):
            continue
        if isinstance(output, RequestRecord):
            held[output.uid] = output
            now_us = max(now_us, output.finished_us)
        elif isinstance(output, Correction) and output.uid in held:
            held[output.uid] = corrected(held[output.uid], output)
        else:
            if not isinstance(output, Correction):
                now_us = max(now_us, output.t1_us)
            yield output
        while held and next(iter(held.values())).finished_us + WAIT_US < now_us:
            yield held.popitem(last=False)[1]
    yield from held.values()
