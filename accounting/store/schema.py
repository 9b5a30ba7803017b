"""The tables: one row per request, per share of a GPU, per correction, per book entry, per backend and
minute; their sums by hour and day (`rollups.py` reads them); virtual keys and their limits; and how far each
journal is stored.

Energies are integer microjoules and times integer UTC microseconds, both 64 bits wide. NULL means "not
known", as None does in the records. A change here needs a migration in `migrations/versions/`; a test
compares the two.
"""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import BigInteger, ForeignKey, Index, MetaData, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

TEXT_LIMIT = 512
"""Longest text, in characters, in a column that is part of an index.

PostgreSQL refuses an index row above 2704 bytes (a third of a page); 512 characters of UTF-8 stay below.
"""


def stored_text(text: str, limit: int = TEXT_LIMIT) -> str:
    """`text` as the tables hold it: cut to `limit`, without what a database refuses.

    PostgreSQL takes no NUL and neither database takes half a surrogate pair; both can stand in a client's
    JSON. Look-ups must pass their keys through here too.
    """
    if text.isascii() and "\0" not in text:
        return text[:limit]
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")[:limit]


class Base(DeclarativeBase):
    """Base of all tables. Constraints get fixed names, so that a migration can drop them on any database."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map: ClassVar = {int: BigInteger, str: Text}


class StoredRequest(Base):
    """A `RequestRecord` without its shares, its correction added."""

    __tablename__ = "requests"

    uid: Mapped[str] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(index=True)
    backend: Mapped[str | None]
    model: Mapped[str | None]
    route: Mapped[str]
    tenant: Mapped[str | None]
    streamed: Mapped[bool]
    status: Mapped[str]
    http_status: Mapped[int | None]
    error: Mapped[str | None]
    started_us: Mapped[int]
    scheduled_us: Mapped[int | None]
    first_token_us: Mapped[int | None]
    finished_us: Mapped[int]
    prompt_tokens: Mapped[int | None]
    cached_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    tokens_from: Mapped[str | None]
    energy_uj: Mapped[int | None]
    prefill_uj: Mapped[int | None]
    decode_uj: Mapped[int | None]
    dynamic_uj: Mapped[int | None]
    uncertainty_uj: Mapped[int | None]
    quality: Mapped[float | None]
    unmeasured_us: Mapped[int]
    method: Mapped[str]
    meter: Mapped[str]
    simulated: Mapped[bool]
    state: Mapped[str]
    host_uj: Mapped[int | None]
    host_method: Mapped[str | None]
    host_unmeasured_us: Mapped[int | None]
    project: Mapped[str | None]
    user_id: Mapped[str | None]
    api_key: Mapped[str | None]
    job: Mapped[str | None]
    media_kind: Mapped[str | None]
    media_count: Mapped[int | None]
    media_width: Mapped[int | None]
    media_height: Mapped[int | None]
    media_steps: Mapped[int | None]
    media_frames: Mapped[int | None]
    media_fps: Mapped[float | None]

    # Lists come newest first, often of one tenant, model or backend: each index ends in the list's order.
    # Where no keys are used, those of keys hold nothing and cost nothing.
    __table_args__ = (
        Index(None, "finished_us", "uid"),
        Index(None, "tenant", "finished_us", "uid"),
        Index(None, "model", "finished_us", "uid"),
        Index(None, "backend", "finished_us", "uid"),
        *(
            Index(None, name, "finished_us", "uid", sqlite_where=given, postgresql_where=given)
            for name in ("project", "user_id", "api_key")
            for given in [text(f"{name} IS NOT NULL")]
        ),
        Index(None, "job", sqlite_where=text("job IS NOT NULL"), postgresql_where=text("job IS NOT NULL")),
    )


class StoredShare(Base):
    """A `GpuShare` of a request."""

    __tablename__ = "request_shares"

    uid: Mapped[str] = mapped_column(ForeignKey("requests.uid", ondelete="CASCADE"), primary_key=True)
    gpu: Mapped[str] = mapped_column(primary_key=True)
    prefill_uj: Mapped[int]
    decode_uj: Mapped[int]


class StoredCorrection(Base):
    """A `Correction` without its shares. Rows are added and never changed; `requests` has its sum already."""

    __tablename__ = "corrections"

    uid: Mapped[str] = mapped_column(ForeignKey("requests.uid", ondelete="CASCADE"), primary_key=True)
    corrected_us: Mapped[int]
    prefill_uj: Mapped[int]
    decode_uj: Mapped[int]
    dynamic_uj: Mapped[int | None]
    uncertainty_uj: Mapped[int | None]
    scheduled_us: Mapped[int | None]
    first_token_us: Mapped[int | None]


class StoredCorrectionShare(Base):
    """A `GpuShare` of a correction."""

    __tablename__ = "correction_shares"

    uid: Mapped[str] = mapped_column(ForeignKey("corrections.uid", ondelete="CASCADE"), primary_key=True)
    gpu: Mapped[str] = mapped_column(primary_key=True)
    prefill_uj: Mapped[int]
    decode_uj: Mapped[int]


class StoredBook(Base):
    """A `BookEntry`."""

    __tablename__ = "books"

    gpu: Mapped[str] = mapped_column(primary_key=True)
    t0_us: Mapped[int] = mapped_column(primary_key=True, index=True)
    t1_us: Mapped[int]
    covered_us: Mapped[int]
    measured_uj: Mapped[int | None]
    requests_uj: Mapped[int]
    idle_uj: Mapped[int]
    unobserved_uj: Mapped[int]
    unmeasured_uj: Mapped[int]
    requests: Mapped[int]
    method: Mapped[str]
    simulated: Mapped[bool]


class UsageKey(Base):
    """What the requests of a sum have in common. `key` is made of the other columns (`sums.usage_key`)."""

    __tablename__ = "usage_keys"

    key: Mapped[str] = mapped_column(primary_key=True)
    backend: Mapped[str | None]
    model: Mapped[str | None]
    route: Mapped[str]
    tenant: Mapped[str | None]
    project: Mapped[str | None]
    user_id: Mapped[str | None]
    api_key: Mapped[str | None]
    status: Mapped[str]
    simulated: Mapped[bool]
    media_kind: Mapped[str | None]
    media_size: Mapped[str | None]


class UsageSum(Base):
    """The requests of one key that finished in one hour or day of UTC, summed, corrections in them.

    A `with_` column counts the requests of which the figure is known: where it is 0 the sum is not known.
    """

    __tablename__ = "usage_sums"

    width_us: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    bucket_us: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(ForeignKey("usage_keys.key"), primary_key=True)
    requests: Mapped[int]
    prompt_tokens: Mapped[int]
    with_prompt: Mapped[int]
    cached_tokens: Mapped[int]
    with_cached: Mapped[int]
    completion_tokens: Mapped[int]
    with_completion: Mapped[int]
    energy_uj: Mapped[int]
    prefill_uj: Mapped[int]
    decode_uj: Mapped[int]
    with_energy: Mapped[int]
    dynamic_uj: Mapped[int]
    with_dynamic: Mapped[int]
    host_uj: Mapped[int]
    with_host: Mapped[int]
    unmeasured_us: Mapped[int]
    with_unmeasured: Mapped[int]
    images: Mapped[int]
    videos: Mapped[int]
    video_us: Mapped[int]


class BookSum(Base):
    """The entries of one GPU or host that begin in one hour or day of UTC, summed.

    `unbalanced` counts those that do not balance, `with_measured` those that measured anything.
    """

    __tablename__ = "book_sums"

    width_us: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    bucket_us: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    gpu: Mapped[str] = mapped_column(primary_key=True)
    t0_us: Mapped[int]
    t1_us: Mapped[int]
    length_us: Mapped[int]
    covered_us: Mapped[int]
    measured_uj: Mapped[int]
    with_measured: Mapped[int]
    requests_uj: Mapped[int]
    idle_uj: Mapped[int]
    unobserved_uj: Mapped[int]
    unmeasured_uj: Mapped[int]
    intervals: Mapped[int]
    unbalanced: Mapped[int]


class StoredFacts(Base):
    """A `BackendFacts`. Lists are JSON: names of GPUs, and a figure for each of the work model's features."""

    __tablename__ = "backend_facts"

    backend: Mapped[str] = mapped_column(primary_key=True)
    t0_us: Mapped[int] = mapped_column(primary_key=True, index=True)
    gpus: Mapped[str]
    simulated: Mapped[bool]
    settled_us: Mapped[int]
    busy_us: Mapped[int]
    request_us: Mapped[int]
    arrived: Mapped[int]
    arriving_us: Mapped[int]
    requests_uj: Mapped[int]
    idle_uj: Mapped[int]
    unobserved_uj: Mapped[int]
    peak_w: Mapped[float]
    static_w: Mapped[float | None]
    retries: Mapped[int]
    retried_uj: Mapped[int]
    learnt_us: Mapped[int]
    learnt_uj: Mapped[int]
    tokens: Mapped[float]
    work: Mapped[str]
    prices: Mapped[str]
    times: Mapped[str]
    price_error: Mapped[float | None]
    time_error: Mapped[float | None]
    looks: Mapped[int]
    running: Mapped[float | None]
    waiting: Mapped[float | None]
    most_running: Mapped[int | None]
    looks_waiting: Mapped[int]
    seats: Mapped[int | None]
    kv_used: Mapped[float | None]
    kv_most: Mapped[float | None]
    preemptions: Mapped[int | None]
    gpu_looks: Mapped[int]
    limit_w: Mapped[float | None]
    default_limit_w: Mapped[float | None]
    sm_clock_mhz: Mapped[float | None]
    capped: Mapped[float | None]
    throttled: Mapped[float | None]


class BillingPeriod(Base):
    """A month whose invoices are final, and the terms (JSON) by which they were made."""

    __tablename__ = "billing_periods"

    period: Mapped[str] = mapped_column(primary_key=True)
    closed_us: Mapped[int]
    terms: Mapped[str]


class BilledCharge(Base):
    """A charge (JSON) on the invoices of a closed period. Rows are added and never changed.

    `corrects` is the earlier period that the charge corrects, None for the period's own.
    """

    __tablename__ = "billed_charges"

    period: Mapped[str] = mapped_column(ForeignKey("billing_periods.period"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    corrects: Mapped[str | None] = mapped_column(index=True)
    charge: Mapped[str]


class JournalProgress(Base):
    """How far a journal is stored: all that its segments before `segment` produce is in the tables.

    `outputs` is how many were stored in all, `seen_us` when the last were. `needed_us` is the newest time
    that the segments before `segment` tell of: what is still to come, or to come again, is hardly older.
    """

    __tablename__ = "journal_progress"

    journal: Mapped[str] = mapped_column(primary_key=True)
    segment: Mapped[int]
    outputs: Mapped[int] = mapped_column(server_default="0")
    needed_us: Mapped[int | None]
    seen_us: Mapped[int | None]


class Deleted(Base):
    """Rows of `what` (requests, books, facts) older than `before_us` were deleted for their age. Their sums
    stay."""

    __tablename__ = "deleted"

    what: Mapped[str] = mapped_column(primary_key=True)
    before_us: Mapped[int]


class AccessKey(Base):
    """A virtual key (`access.keys.Key`). Rows are never deleted: requests name them."""

    __tablename__ = "access_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    hint: Mapped[str]
    project: Mapped[str]
    team: Mapped[str | None]
    user_id: Mapped[str | None]
    models: Mapped[str | None]
    any_tenant: Mapped[bool]
    created_us: Mapped[int]
    expires_us: Mapped[int | None]
    revoked_us: Mapped[int | None]


class AccessSecret(Base):
    """The hash of a secret of a key; of a secret that was replaced, until when it is still good."""

    __tablename__ = "access_secrets"

    hash: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(ForeignKey("access_keys.id"))
    created_us: Mapped[int]
    expires_us: Mapped[int | None]


class AccessLimit(Base):
    """The limits on a key, a project or a team (`access.keys.Limits`); `scope` says which."""

    __tablename__ = "access_limits"

    scope: Mapped[str] = mapped_column(primary_key=True)
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None]
    parallel_requests: Mapped[int | None]
    uj_per_day: Mapped[int | None]
    uj_per_month: Mapped[int | None]


class AccessVersion(Base):
    """One row, `id` 1, that grows with every change of keys and limits: a look at it tells of them."""

    __tablename__ = "access_version"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int]
