"""What all groups of settings have in common: unknown names are refused, values do not change."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

SHORT_NAME = r"^[A-Za-z0-9._-]{1,64}$"
CURRENCY = r"^[A-Z]{3}$"
ONE_LINE = r"^[^\x00-\x1f]*$"

PATTERNS = {
    SHORT_NAME: "give 1 to 64 letters of A to Z, digits, dots, underscores and hyphens",
    ONE_LINE: "give text of one line, without control characters",
    CURRENCY: "give three capital letters, such as EUR",
}
"""What to do, where a text does not match one of these."""


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
