"""Writes requests into a database as the writer does, asks for usage, migrates down and up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from alembic import command
from sqlalchemy import Engine, text

from accounting.store.engine import alembic_config, migrate, writing
from accounting.store.partitions import make_ahead
from accounting.store.queries import RequestFilter, StoreReader
from accounting.store.retention import keep
from accounting.store.rollups import UsageReader, from_requests
from accounting.store.statements import write
from accounting.store.sums import DAY_US
from benchmarks.storage.rows import DAYS, batches

ROUNDS = 5
BEFORE_SUMS = "0003"


@dataclass
class Figures:
    """Of one database. Times of questions are the best of some: the machine does other things as well."""

    database: str
    requests: int
    core_per_s: float
    """Requests, each with a share and its sums, that one core would write in a second: over CPU time."""
    client_us: float
    """CPU time of this process per request."""
    server_us: float
    """CPU time of the database's own processes per request."""
    wall_per_s: float
    """Requests written per second of wall time, beside whatever else the machine did."""
    usage_sums_ms: float
    """Thirty days by model and key, from the sums."""
    usage_rows_ms: float
    """The same from the requests."""
    by_uid_ms: float
    """One request by joulegate's id."""
    by_request_id_ms: float
    """One by its x-request-id, which PostgreSQL has to look for in every partition."""
    page_ms: float
    """The newest hundred requests of a project."""
    bytes_per_request: float
    deleted_per_s: float
    """Requests of the oldest ten days deleted, over the time that takes."""
    down_s: float
    """To the schema before there were sums."""
    up_s: float
    """From there: the sums are computed from the rows, on PostgreSQL the partitions are made."""


def measure(engine: Engine, count: int, now_us: int, server_cpu_s: Callable[[], float]) -> Figures:
    """The database has to be empty. `server_cpu_s` tells the CPU time of its own processes so far."""
    migrate(engine)
    _partitions(engine, now_us)
    before_s = server_cpu_s()
    wall_s, cpu_s, some_id = _write(engine, count, now_us)
    server_s = server_cpu_s() - before_s
    start_us = (now_us // DAY_US - DAYS) * DAY_US
    reader, usage = StoreReader(engine), UsageReader(engine)
    sums_ms = _timed(lambda: usage.usage(start_us, now_us, None, ["model", "api_key"]))

    def from_rows() -> None:
        with engine.connect() as connection:
            from_requests(connection, start_us, now_us, None, ["model", "api_key"])

    rows_ms = _timed(from_rows, rounds=2)
    by_request_id_ms = _timed(lambda: reader.request(some_id))
    found = reader.request(some_id)
    assert found is not None
    uid = found.uid
    by_uid_ms = _timed(lambda: reader.request(uid))
    page_ms = _timed(lambda: reader.requests(RequestFilter(tenant="project-3"), 100))
    size = _bytes(engine)
    begun_s = time.perf_counter()
    _alembic(engine, "downgrade", BEFORE_SUMS)
    down_s = time.perf_counter() - begun_s
    begun_s = time.perf_counter()
    _alembic(engine, "upgrade", "head")
    up_s = time.perf_counter() - begun_s
    deleted_per_s = _delete(engine, now_us)
    return Figures(
        database=engine.dialect.name,
        requests=count,
        core_per_s=count / (cpu_s + server_s),
        client_us=cpu_s / count * 1e6,
        server_us=server_s / count * 1e6,
        wall_per_s=count / wall_s,
        usage_sums_ms=sums_ms,
        usage_rows_ms=rows_ms,
        by_uid_ms=by_uid_ms,
        by_request_id_ms=by_request_id_ms,
        page_ms=page_ms,
        bytes_per_request=size / count,
        deleted_per_s=deleted_per_s,
        down_s=down_s,
        up_s=up_s,
    )


def _partitions(engine: Engine, now_us: int) -> None:
    with engine.begin() as connection:
        for day in range(-DAYS - 1, 1, 7):
            make_ahead(connection, now_us + day * DAY_US)


def _write(engine: Engine, count: int, now_us: int) -> tuple[float, float, str]:
    """Wall and CPU seconds, without making the records; a request id from the middle."""
    wall_s = cpu_s = 0.0
    done, some_id = 0, ""
    for batch in batches(count, now_us):
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        with writing(engine) as connection, connection.begin():
            write(connection, batch, anew=True)
        wall_s += time.perf_counter() - begun_s
        cpu_s += time.process_time() - begun_cpu_s
        done += len(batch)
        if not some_id and done >= count / 2:
            some_id = batch[0].request_id
    return wall_s, cpu_s, some_id


def _timed(ask: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The best, in ms."""
    took = []
    for _ in range(rounds):
        begun_s = time.perf_counter()
        ask()
        took.append((time.perf_counter() - begun_s) * 1e3)
    return min(took)


def _bytes(engine: Engine) -> int:
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))
            query = "SELECT pg_database_size(current_database())"
        else:
            query = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        return int(connection.execute(text(query)).scalar_one())


def _alembic(engine: Engine, step: str, revision: str) -> None:
    config = alembic_config()
    with writing(engine) as connection, connection.begin():
        config.attributes["connection"] = connection
        getattr(command, step)(config, revision)


def _delete(engine: Engine, now_us: int) -> float:
    with engine.connect() as connection:
        before = connection.execute(text("SELECT count(*) FROM requests")).scalar_one()
    begun_s = time.perf_counter()
    keep(engine, {"requests": DAYS - 10}, now_us)
    took_s = time.perf_counter() - begun_s
    with engine.connect() as connection:
        after = connection.execute(text("SELECT count(*) FROM requests")).scalar_one()
    return float((before - after) / took_s)
