"""The ledger: a pure function from events and counter reads to joules per request.

- `ledger.py`     hears events, settles intervals, concludes records
- `curve.py`      the staircase of counter reads made a curve of cumulative energy
- `flights.py`    the open requests, in columns
- `booking.py`    when a request's work was done: prefill windows, tokens
- `features.py`   what was done in one interval
- `model.py`      what each kind of work costs, learnt; `priors.py` where it starts
- `settle.py`     one interval shared: idle, unobserved, unmeasured, requests; `apportion.py` exactly
- `jobs.py`       images and videos: their work; `jobs_queue.py` which ran when, `jobs_news.py` told late,
                  `jobs_open.py` those in flight, `jobs_state.py` what is remembered
- `hosts.py`      the machines around the GPUs: their energy split in the same proportion
- `groups.py`     which GPUs and backends belong together
- `record.py`, `provisional.py`  what is known of a request at the end, and before
- `state.py`      all of the ledger's memory, in one serialisable value
"""

from accounting.ledger.ledger import Ledger
from accounting.ledger.state import LedgerState

__all__ = ["Ledger", "LedgerState"]
