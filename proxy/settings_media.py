"""The settings of images and videos."""

from __future__ import annotations

from pydantic import Field

from proxy.settings_base import Group


class Media(Group):
    poll_first_s: float = Field(
        0.25, ge=0.05, le=10, description="Time between the first looks at how a video's job stands."
    )
    poll_most_s: float = Field(
        5.0, ge=0.05, le=600, description="Longest time between two looks; it grows with the age of the job."
    )
    give_up_s: float = Field(
        300.0, gt=0, description="A job whose server cannot be asked for so long is taken to have failed."
    )
    timeout_s: float = Field(10.0, gt=0, description="For a server to answer such a look.")
