"""The settings of all that measures: this machine's GPUs, those of others, the host, the building."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from accounting.meters.rapl import POWERCAP
from proxy.settings_base import Group


class Meter(Group):
    source: Literal["nvml", "none"] = Field(
        "nvml", description="How this machine's GPUs are measured; none: nothing is measured anywhere."
    )
    library: Path | None = Field(
        None, description="Path of libnvidia-ml.so.1, where the system's loader does not find it."
    )
    busy_period_s: float = Field(
        0.03, ge=0.005, le=1.0, description="Time between reads of the counter while requests run."
    )
    idle_period_s: float = Field(
        1.0, ge=0.05, le=4.0, description="Time between reads of the counter when nothing runs."
    )
    counter_lag_ms: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="How far the energy counter trails the truth, as the GPU check found it (gpu-check.md);"
        " taken as 0 when left out.",
    )


class MeterSource(Group):
    """One of several meters. docs/remote-meters.md has examples."""

    source: Literal["nvml", "joulegate", "zeusd", "dcgm"] = Field(
        description="This machine's GPUs as under meter; `joulegate meter` on another node; a zeusd; a DCGM"
        " exporter."
    )
    url: str | None = Field(
        None,
        description="Where it listens: http://node1:8090, http://node1:4938, http://node1:9400/metrics; for"
        " zeusd on this machine unix:/run/zeusd/zeusd.sock. Not for nvml.",
    )
    token_env: str | None = Field(None, min_length=1, description="Environment variable with a bearer token.")
    token_file: Path | None = Field(None, description="Or a file with it, read at each connection.")
    gpus: dict[str, str] = Field(
        {},
        description="zeusd: UUIDs of its GPUs, by PCI address (0000:01:00.0) or index, as it tells none."
        " A GPU not named here is called node/address.",
    )
    node: str | None = Field(
        None,
        min_length=1,
        description="zeusd: name of its machine in such names (the url's host when left out). dcgm: take only"
        " rows with this host name.",
    )
    update_s: float = Field(
        30.0, ge=0.1, le=300, description="dcgm: how often the exporter collects (its --collect-interval)."
    )
    timeout_s: float = Field(2.0, ge=0.1, le=60, description="For an answer.")

    @field_validator("url")
    @classmethod
    def _usable(cls, url: str | None) -> str | None:
        if url is None or (url.startswith("unix:/") and len(url) > len("unix:/")):
            return url
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"not a URL: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise ValueError("give http://host:port, https://host:port or unix:/path/of/socket")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("only scheme, host, port and path; a token goes into token_env or token_file")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _fits(self) -> MeterSource:
        remote = self.source != "nvml"
        if remote and self.url is None:
            raise ValueError(f"{self.source} needs a url")
        if not remote and (self.url or self.token_env or self.token_file):
            raise ValueError("nvml takes no url and no token: it reads this machine")
        if self.url is not None and self.url.startswith("unix:") and self.source != "zeusd":
            raise ValueError("only zeusd listens on a socket of its machine")
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("give token_env or token_file, not both")
        if self.gpus and self.source != "zeusd":
            raise ValueError("gpus is for zeusd only; the others tell UUIDs themselves")
        return self


class Host(Group):
    source: Literal["none", "auto", "rapl", "estimate"] = Field(
        "none",
        description="How the energy of processors and memory is found: not at all; RAPL, or the estimate"
        " where it cannot be read; only RAPL; only the estimate.",
    )
    name: str | None = Field(
        None, min_length=1, description="The host is called host:name; its own name when left out."
    )
    idle_w: float | None = Field(None, ge=0, description="Estimate: watts of the idle host without its GPUs.")
    busy_w: float = Field(0.0, ge=0, description="Estimate: watts more when all its processors are busy.")
    powercap: Path = Field(POWERCAP, description="Directory of the kernel's powercap files.")

    @model_validator(mode="after")
    def _fits(self) -> Host:
        if self.source == "estimate" and self.idle_w is None:
            raise ValueError("an estimate needs idle_w")
        return self
