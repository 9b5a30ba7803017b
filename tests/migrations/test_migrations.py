"""The migrations make the schema of the models, keep the data, and happen wholly or not at all."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, inspect, select, text

import migrations
from accounting.records import BookEntry, Correction, GpuShare, RequestRecord, corrected
from accounting.store.engine import StoreError, alembic_config, connect, migrate, writing
from accounting.store.media import MEDIA_FIELDS
from accounting.store.partitions import is_compared, is_partition
from accounting.store.queries import StoreReader
from accounting.store.schema import (
    Base,
    BookSum,
    StoredBook,
    StoredCorrection,
    StoredRequest,
    UsageKey,
    UsageSum,
)
from accounting.store.writer import StoreWriter
from tests.accounting.store.databases import Database
from tests.accounting.store.examples import book, correction, record

TABLES = set(Base.metadata.tables)


def tables(engine: Engine) -> set[str]:
    names = set(inspect(engine).get_table_names()) - {"alembic_version"}
    return {name for name in names if not is_partition(name)}


def alembic(connection: Connection, step: str, revision: str) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    getattr(command, step)(config, revision)


def test_the_migrated_schema_is_that_of_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": is_compared})
        assert compare_metadata(context, Base.metadata) == []


def test_primary_and_foreign_keys_are_those_of_the_models(database: Database) -> None:
    found = inspect(database.engine)
    for name, table in Base.metadata.tables.items():
        assert found.get_pk_constraint(name)["constrained_columns"] == [c.name for c in table.primary_key]
    owners = {"request_shares": "requests", "corrections": "requests", "correction_shares": "corrections"}
    for name, owner in owners.items():
        keys = [key for key in found.get_foreign_keys(name) if not is_partition(key["referred_table"])]
        (key,) = keys
        assert (key["referred_table"], key["referred_columns"]) == (owner, ["uid"])
        assert key["options"] == {"ondelete": "CASCADE"}


def test_the_tables_have_a_column_for_every_field() -> None:
    def columns(table: type[Base]) -> set[str]:
        return set(inspect(table).columns.keys())

    joined = {"shares", "corrected_us", "correction_uj", "media"}
    own = set(RequestRecord.__struct_fields__) - joined
    assert columns(StoredRequest) == own | set(MEDIA_FIELDS)
    assert columns(StoredCorrection) == set(Correction.__struct_fields__) - {"shares", "request_id"}
    assert columns(StoredBook) == set(BookEntry.__struct_fields__)


def test_migrating_again_keeps_the_data(database: Database) -> None:
    writer = StoreWriter(database.engine, "journal-1")
    writer.put([record(1), book(1)], segment=4)
    assert writer.close(timeout_s=20)
    migrate(database.engine)
    reader = StoreReader(database.engine)
    assert reader.request("uid-000001") == record(1)
    assert len(reader.books().rows) == 1


def test_a_store_without_corrections_gets_the_table_for_them_and_keeps_its_records(
    database: Database,
) -> None:
    with writing(database.engine) as connection, connection.begin():
        alembic(connection, "downgrade", "0001")
    assert tables(database.engine) == {"requests", "request_shares", "books", "journal_progress"}
    store_with(database, f"INSERT INTO requests ({COLUMNS}) VALUES ({VALUES})")
    store_with(database, "INSERT INTO request_shares VALUES ('old', 'GPU-a', 2, 3)")
    migrate(database.engine)
    found = StoreReader(database.engine).request("old")
    assert found is not None
    assert (found.energy_uj, found.corrected_us, found.correction_uj) == (5, None, None)
    writer = StoreWriter(database.engine, "journal-1")
    gained = [GpuShare(gpu="GPU-a", prefill_uj=1, decode_uj=1)]
    late = correction(1, uid="old", prefill_uj=1, decode_uj=1, shares=gained)
    writer.put([late], segment=4)
    assert writer.close(timeout_s=20)
    assert StoreReader(database.engine).request("old") == corrected(found, late)


def test_without_the_table_the_corrected_figures_stay(database: Database) -> None:
    writer = StoreWriter(database.engine, "journal-1")
    writer.put([record(1), correction(1), book(1)], segment=4)
    assert writer.close(timeout_s=20)
    with writing(database.engine) as connection, connection.begin():
        alembic(connection, "downgrade", "0001")
    migrate(database.engine)
    found = StoreReader(database.engine).request("uid-000001")
    assert found is not None
    assert (found.energy_uj, found.corrected_us) == (corrected(record(1), correction(1)).energy_uj, None)


def test_a_store_without_hosts_gets_their_columns_and_keeps_its_records(database: Database) -> None:
    writer = StoreWriter(database.engine, "journal-1")
    known = record(1, host_uj=7, host_method="rapl", host_unmeasured_us=0)
    writer.put([known, book(1)], segment=4)
    assert writer.close(timeout_s=20)
    assert StoreReader(database.engine).request("uid-000001") == known
    with writing(database.engine) as connection, connection.begin():
        alembic(connection, "downgrade", "0002")
    migrate(database.engine)
    assert StoreReader(database.engine).request("uid-000001") == record(1, scheduled_us=None)


def test_a_store_without_identities_gets_their_columns_and_keeps_its_records(database: Database) -> None:
    writer = StoreWriter(database.engine, "journal-1")
    known = record(1, project="p", user_id="u", api_key="key_1")
    writer.put([known, book(1)], segment=4)
    assert writer.close(timeout_s=20)
    assert StoreReader(database.engine).request("uid-000001") == known
    with writing(database.engine) as connection, connection.begin():
        alembic(connection, "downgrade", "0006")
    migrate(database.engine)
    assert StoreReader(database.engine).request("uid-000001") == record(1, scheduled_us=None)


def test_a_store_without_sums_gets_them_from_its_rows(database: Database) -> None:
    writer = StoreWriter(database.engine, "journal-1")
    records = [record(n, tenant=None if n % 2 else "größe", energy_uj=None) for n in range(0, 90_000, 999)]
    writer.put(
        [*records, record(1), correction(1), *(book(n, measured_uj=None) for n in range(9))], segment=4
    )
    assert writer.close(timeout_s=20)

    def sums() -> list[set[tuple[object, ...]]]:
        with database.engine.connect() as connection:
            return [
                {tuple(row) for row in connection.execute(select(table.__table__))}
                for table in (UsageKey, UsageSum, BookSum)
            ]

    kept = sums()
    assert [len(rows) for rows in kept] == [3, 57, 2]
    with writing(database.engine) as connection, connection.begin():
        alembic(connection, "downgrade", "0003")
    migrate(database.engine)
    assert sums() == kept


def store_with(database: Database, statement: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(text(statement))


OLD = {
    "uid": "'old'",
    "request_id": "'req'",
    "route": "'/v1/completions'",
    "streamed": "TRUE",
    "status": "'ok'",
    "started_us": "1",
    "finished_us": "2",
    "energy_uj": "5",
    "prefill_uj": "2",
    "decode_uj": "3",
    "unmeasured_us": "0",
    "method": "'work-model'",
    "meter": "'nvml-counter'",
    "simulated": "TRUE",
    "state": "'final'",
}
"""A row as revision 0001 has them."""

COLUMNS, VALUES = ", ".join(OLD), ", ".join(OLD.values())


def test_every_revision_goes_down_and_up_again_with_data_in_it(database: Database) -> None:
    writer = StoreWriter(database.engine, "journal-1")
    writer.put([record(1), correction(1), book(1)], segment=4)
    assert writer.close(timeout_s=20)
    with writing(database.engine) as connection, connection.begin():
        alembic(connection, "downgrade", "base")
    assert tables(database.engine) == set()
    migrate(database.engine)
    assert tables(database.engine) == TABLES
    assert StoreReader(database.engine).request("uid-000001") is None


def test_a_migration_that_is_interrupted_leaves_nothing_behind(empty_database: Database) -> None:
    class Interrupted(Exception):
        pass

    def stop_half_way() -> None:
        with writing(empty_database.engine) as connection, connection.begin():
            alembic(connection, "upgrade", "head")
            raise Interrupted

    with pytest.raises(Interrupted):
        stop_half_way()
    assert inspect(empty_database.engine).get_table_names() == []
    migrate(empty_database.engine)
    assert tables(empty_database.engine) == TABLES


def test_services_that_start_together_all_find_the_tables(empty_database: Database) -> None:
    together = threading.Barrier(4)
    worked: list[set[str]] = []

    def start() -> None:
        engine = connect(empty_database.url)
        together.wait()
        migrate(engine)
        worked.append(tables(engine))
        engine.dispose()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worked == [TABLES] * 4


def test_a_database_of_a_newer_joulegate_is_refused(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="9999"):
        migrate(database.engine)


def test_a_database_that_is_away_is_said_to_be_so(empty_database: Database) -> None:
    migrate(empty_database.engine)
    with empty_database.away(), pytest.raises(StoreError, match="cannot prepare the store"):
        migrate(empty_database.engine)


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database" * 1_000)
    with pytest.raises(StoreError, match="file is not a database"):
        migrate(connect(f"sqlite:///{tmp_path}/store.db"))


def test_developers_can_use_alembic_itself(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    for arguments in (["upgrade", "head"], ["check"]):
        subprocess.run(
            [
                *(
                    sys.executable,
                    "-m",
                    "alembic",
                    "-c",
                    str(Path(migrations.__file__).with_name("alembic.ini")),
                ),
                *("-x", f"url={url}", *arguments),
            ],
            check=True,
            cwd=tmp_path,
            capture_output=True,
        )
    engine = connect(url)
    assert tables(engine) == TABLES
    engine.dispose()
