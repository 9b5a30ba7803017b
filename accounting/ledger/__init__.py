"""The ledger: a pure function from events and counter reads to joules per request.

- `ledger.py`  hears events, settles intervals, concludes records
- `curve.py`   the staircase of counter reads made a curve of cumulative energy
- `rule.py`    the seam: how one interval's energy is shared by the work done in it
- `apportion.py` exact integer division
- `state.py`   all of the ledger's memory, in one serialisable value
"""

from accounting.ledger.ledger import Ledger
from accounting.ledger.state import LedgerState

__all__ = ["Ledger", "LedgerState"]
