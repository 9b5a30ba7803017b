"""Every setting: its name, default and meaning, in this one place (and settings_*.py, for length).

Read from a YAML file and from the environment (`JOULEGATE_SERVER__PORT=8080`; the environment wins), checked
as a whole: all faults are reported at once, each with its path. docs/settings.md is made from this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AnyHttpUrl,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import (
    SettingsError as EnvError,
)

from proxy.settings_access import Access, is_loopback, read_secret
from proxy.settings_base import SHORT_NAME, Group
from proxy.settings_billing import Billing, Carbon
from proxy.settings_faults import ENVIRONMENT, OPTIONS, Fault, Sources, faults_of, not_json, told
from proxy.settings_media import Media
from proxy.settings_meters import Host, Meter, MeterSource
from proxy.settings_observe import AccessLog, Metrics, Telemetry
from proxy.settings_routing import Health, Retry, Routing


class SettingsError(Exception):
    """The configuration cannot be used. The message lists every fault with its path."""


class Server(Group):
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that relay, the main one included (docs/operations.md); more than one pays"
        " where one core is not enough for the relay.",
    )
    max_body_mb: float = Field(
        100.0, gt=0, description="Largest request body taken, in MB; larger ones get a 413."
    )
    max_head_kb: float = Field(
        64.0, ge=1, description="Largest request head taken, in KB; larger ones get a 431."
    )
    head_s: float = Field(
        30.0, gt=0, description="For a request's head to arrive whole, and for a new connection's first one."
    )
    body_idle_s: float = Field(
        60.0, gt=0, description="Between two pieces of a request's body, or of an answer that a client takes."
    )
    keep_alive_s: float = Field(60.0, gt=0, description="For the next request on a connection.")
    drain_s: float = Field(
        30.0, gt=0, description="At a stop, requests under way get this long to end; then they are cut off."
    )


class ModelCard(Group):
    """What is known of the model. Unknown fields stay empty."""

    name: str = Field(description="Name of the model.")
    total_params: float | None = Field(None, gt=0, description="Parameters.")
    active_params: float | None = Field(None, gt=0, description="Parameters used per token.")
    layers: int | None = Field(None, gt=0, description="Layers.")
    hidden: int | None = Field(None, gt=0, description="Hidden size.")
    kv_bytes_per_token: float | None = Field(None, gt=0, description="KV cache bytes per token.")
    weight_bytes: float | None = Field(None, gt=0, description="Bytes of all weights.")
    experts: int | None = Field(None, gt=0, description="Experts, for a mixture of experts.")
    experts_per_token: int | None = Field(None, gt=0, description="Experts used per token.")


class Backend(Group):
    id: str = Field(pattern=SHORT_NAME, description="Name of the backend in records and metrics.")
    url: AnyHttpUrl = Field(description="Where the engine listens, without /v1.")
    gpus: list[str] | str = Field(
        "all",
        description="UUIDs of the GPUs it runs on, or `all` that the meter finds, or `cuda:` with the "
        "engine's CUDA_VISIBLE_DEVICES, such as `cuda:0,1`. A MIG instance stands for its whole GPU.",
    )
    models: list[str] | None = Field(
        None, description="Models it serves; asked from its /v1/models when left out."
    )
    model_card: ModelCard | None = Field(None, description="What is known of its model.")
    kind: Literal["openai", "xdit"] = Field(
        "openai", description="What it speaks: OpenAI's API, or that of xDiT's HTTP service."
    )
    at_once: int | None = Field(
        None,
        ge=1,
        description="How many images or videos it works on at a time; learnt from it when left out.",
    )
    api_key: SecretStr | None = Field(
        None, description="Key that the engine asks for; it replaces whatever a client sends as its own."
    )
    api_key_file: Path | None = Field(None, description="File with that key.")

    @model_validator(mode="after")
    def _one_key(self) -> Backend:
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("give api_key or api_key_file, not both")
        self.authorization()
        return self

    def authorization(self) -> bytes | None:
        """The header's value, where the engine wants one. Raises ValueError."""
        secret = None if self.api_key is None else self.api_key.get_secret_value()
        if self.api_key_file is not None:
            secret = read_secret(self.api_key_file, "api_key_file")
        if secret is None:
            return None
        if not (secret.isascii() and secret.isprintable()):
            raise ValueError("the engine's key has to be printable ASCII")
        return b"Bearer " + secret.encode()

    @field_validator("gpus", mode="before")
    @classmethod
    def _list_or_all(cls, gpus: object) -> object:
        # Said here, as the union's own complaint would be two lines, one per kind.
        word = gpus == "all" or (isinstance(gpus, str) and gpus.startswith("cuda:"))
        if not word and not (isinstance(gpus, list) and all(isinstance(gpu, str) for gpu in gpus)):
            raise ValueError("give a list of GPU UUIDs, or all, or cuda:0,1 as in CUDA_VISIBLE_DEVICES")
        return gpus

    @field_validator("url")
    @classmethod
    def _no_v1(cls, url: AnyHttpUrl) -> AnyHttpUrl:
        if (url.path or "").rstrip("/").endswith("/v1"):
            raise ValueError("leave out the /v1 at the end")
        return url


class Journal(Group):
    fsync: bool = Field(
        False, description="Wait for the disk at every flush: survives power loss, costs latency."
    )
    keep_segments: int = Field(
        20, ge=1, description="Segments of 64 MB kept for replay after their records are stored."
    )


class Store(Group):
    """How long rows are kept. Their sums by hour and day are kept for ever."""

    requests_days: int | None = Field(
        None, ge=1, description="Days that requests are kept in the store; for ever when left out."
    )
    books_days: int | None = Field(
        7,
        ge=1,
        description="Days that the entries of the books are kept, one per device and half second; null: for"
        " ever.",
    )
    facts_days: int | None = Field(
        90,
        ge=1,
        description="Days that facts for diagnoses are kept, one row per backend and minute; null: for ever.",
    )


class Energy(Group):
    in_streams: Literal["with_usage", "always", "never"] = Field(
        "with_usage",
        description="Which streams get an energy object: those that asked for usage, all, none.",
    )
    in_answers: bool = Field(True, description="Whether answers that are not streamed get an energy object.")


class Timeouts(Group):
    connect_s: float = Field(10.0, gt=0, description="For connecting to an engine.")
    first_byte_s: float = Field(600.0, gt=0, description="For the engine's response headers.")
    idle_s: float = Field(
        600.0,
        gt=0,
        description="Between two pieces of an engine's answer, and for a client that has stopped reading.",
    )
    total_s: float | None = Field(None, gt=0, description="For a whole request; no limit when left out.")


class Otlp(Group):
    """Traces from the engines. They tell when a request was computed, also where its answer does not."""

    enabled: bool = Field(
        False,
        description="Whether to take the traces that engines send (vLLM: --otlp-traces-endpoint, and"
        " OTEL_BSP_SCHEDULE_DELAY=200 in its environment, as otherwise they come up to 5 s late).",
    )
    host: str = Field("127.0.0.1", description="Address to take traces on.")
    grpc_port: int | None = Field(
        4317, ge=0, le=65535, description="Port for gRPC; 0 takes a free one, null none."
    )
    http_port: int | None = Field(
        4318, ge=0, le=65535, description="Port for HTTP, at /v1/traces; 0 takes a free one, null none."
    )

    @model_validator(mode="after")
    def _usable(self) -> Otlp:
        if self.enabled and self.grpc_port is None and self.http_port is None:
            raise ValueError("give a grpc_port or an http_port")
        if self.enabled and not (_installed("grpc") and _installed("opentelemetry.proto")):
            raise ValueError("traces need the extra packages of joulegate[otlp]")
        return self


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even the package it would be in
        return False


class EngineMetrics(Group):
    enabled: bool = Field(
        True, description="Whether to read the counters at /metrics of engines that are vLLM."
    )
    busy_period_s: float = Field(1.0, ge=0.1, le=60, description="Time between reads while requests run.")
    idle_period_s: float = Field(5.0, ge=0.1, le=600, description="Time between reads when nothing runs.")
    timeout_s: float = Field(2.0, gt=0, description="For an engine to answer such a read.")


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix="JOULEGATE_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    server: Server = Server()
    backends: Annotated[list[Backend], Field(min_length=1)] = Field(
        description="The engines behind the proxy."
    )
    meter: Meter = Meter()
    meters: list[MeterSource] = Field(
        [],
        description="Where GPUs are measured, best first, when that is not, or not only, this machine; then"
        " nvml is one of them only if named.",
    )
    host: Host = Host()
    pue: float | None = Field(
        None,
        ge=1,
        description="Power usage effectiveness of the building: a factor on what is measured, kept apart from"
        " it. Unknown when left out.",
    )
    access: Access = Access()
    billing: Billing = Billing()
    carbon: Carbon = Carbon()
    energy: Energy = Energy()
    media: Media = Media()
    timeouts: Timeouts = Timeouts()
    routing: Routing = Routing()
    health: Health = Health()
    retry: Retry = Retry()
    journal: Journal = Journal()
    store: Store = Store()
    otlp: Otlp = Otlp()
    telemetry: Telemetry = Telemetry()
    metrics: Metrics = Metrics()
    access_log: AccessLog = AccessLog()
    engine_metrics: EngineMetrics = EngineMetrics()
    data_dir: Path = Field(
        Path("joulegate-data"), description="Directory of the journal and the SQLite database."
    )
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the store; SQLite in data_dir when left out."
    )

    @model_validator(mode="after")
    def _ids_differ(self) -> Settings:
        ids = [b.id for b in self.backends]
        if twice := sorted({i for i in ids if ids.count(i) > 1}):
            raise ValueError(f"backends: the id {twice[0]!r} is used twice")
        places = [m.url or m.source for m in self.meters]
        if again := sorted({p for p in places if places.count(p) > 1}):
            raise ValueError(f"meters: {again[0]} is named twice")
        return self

    @model_validator(mode="after")
    def _not_open_by_mistake(self) -> Settings:
        access = self.access
        guarded = access.enabled or access.open_to_everyone_on_the_network
        if not guarded and not is_loopback(self.server.host):
            raise ValueError(
                f"server.host: {self.server.host} can be reached from outside, and no key is asked for: set"
                " access.enabled, or access.open_to_everyone_on_the_network if that is what you want"
            )
        return self

    @property
    def store_url(self) -> str:
        return self.database_url or f"sqlite:///{(self.data_dir / 'joulegate.db').absolute()}"


def load(
    path: Path | None = None,
    given: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    more: Callable[[Settings], Iterable[Fault]] = lambda settings: (),
) -> Settings:
    """Settings from a YAML file and `given` values, over them the environment, over all the `options`.

    None among the options means "not given". `more` finds what else is wrong with settings that are sound by
    themselves. Raises SettingsError.
    """
    file = _read(path) if path is not None else {}
    base, over = {**file, **(given or {})}, _given(options or {})
    environment: Mapping[str, Any] = {}

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            nonlocal environment
            environment = env_settings()
            return init_settings, env_settings, InitSettingsSource(settings_cls, base)

    try:
        settings = Loaded(**over)
        faults = list(more(settings))
    except EnvError as error:
        raise SettingsError(not_json(error)) from error
    except ValidationError as error:
        faults = faults_of(error)
    if faults:
        rest = str(path) if path is not None else "the settings"
        sources = ((OPTIONS, over), (ENVIRONMENT, environment), (OPTIONS, given or {}), (rest, file))
        raise SettingsError(told(faults, Sources(sources, rest)))
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path} must hold settings by name, such as `backends:`")
    return loaded


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those that are None."""
    kept = {}
    for name, value in options.items():
        inner = _given(value) if isinstance(value, Mapping) else value
        if inner is not None and inner != {}:
            kept[name] = inner
    return kept
