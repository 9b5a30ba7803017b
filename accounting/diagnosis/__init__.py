"""Where do the joules go, and what would change it: facts and sums in, findings out.

    window.py    what is known of a stretch of time        reading.py   reads it from the store
    project.py   the same work served another way          causes/      one rule each
    diagnose.py  all rules, ranked                         serving.py, capacity.py   what fits into a budget

Everything but reading.py is pure. Each rule is explained in docs/diagnosis.md.
"""

from accounting.diagnosis.diagnose import Diagnosis, diagnose
from accounting.diagnosis.window import Window

__all__ = ["Diagnosis", "Window", "diagnose"]
