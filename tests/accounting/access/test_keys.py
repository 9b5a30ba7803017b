"""Keys in the store, and the files beside the journal."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from accounting.access import snapshot
from accounting.access.keys import Keyring, Limits, digest, new_secret
from accounting.access.store import AccessStore, NoSuchKey
from tests.accounting.store.databases import Database

NOW_US = 1_790_000_000_000_000
LIMITS = Limits(requests_per_minute=5, uj_per_day=7)


def store_of(database: Database) -> AccessStore:
    return AccessStore(database.engine, lambda: NOW_US)


def test_a_key_is_found_again_by_the_hash_of_its_secret_with_all_that_was_said(database: Database) -> None:
    store = store_of(database)
    key, secret = store.create(
        "a", project="p", team="t", user_id="u", models=["x*"], expires_us=NOW_US + 1, limits=LIMITS
    )
    ring = store.keyring()
    assert (ring.keys, ring.limits) == ([key], {f"key/{key.id}": LIMITS})
    assert [(s.hash, s.key, s.expires_us) for s in ring.secrets] == [(digest(secret.encode()), key.id, None)]
    assert (key.project, key.team, key.user_id, key.models) == ("p", "t", "u", ["x*"])
    assert key.usable(NOW_US)
    assert not key.usable(NOW_US + 1)


def test_no_table_holds_the_secret(database: Database) -> None:
    store = store_of(database)
    key, first = store.create("a")
    _, second = store.rotate(key.id)
    with database.engine.connect() as connection:
        tables = inspect(database.engine).get_table_names()
        rows = [str(row) for name in tables for row in connection.execute(text(f"SELECT * FROM {name}"))]
    everything = "\n".join(rows)
    assert key.id in everything
    for secret in (first, second):
        assert secret not in everything
        assert secret.removeprefix("sk-jg-")[:20] not in everything


def test_a_rotated_key_keeps_its_id_and_the_old_secret_for_the_time_of_grace(database: Database) -> None:
    store = store_of(database)
    key, old = store.create("a")
    again, new = store.rotate(key.id, grace_us=10)
    assert again.id == key.id
    ends = {secret.hash: secret.expires_us for secret in store.keyring().secrets}
    assert ends == {digest(old.encode()): NOW_US + 10, digest(new.encode()): None}
    store.rotate(key.id, grace_us=1_000)
    assert store.keyring().secrets[0].expires_us == NOW_US + 10  # grace is never prolonged


def test_a_revoked_key_stays_in_the_list_and_cannot_be_used_or_changed(database: Database) -> None:
    store = store_of(database)
    key, _ = store.create("a")
    revoked = store.revoke(key.id)
    assert not revoked.usable(NOW_US)
    assert store.keyring().keys == [revoked]
    for change in (lambda: store.revoke(key.id), lambda: store.rotate(key.id)):
        with pytest.raises(NoSuchKey):
            change()


def test_every_change_makes_a_newer_version_and_a_failed_one_none(database: Database) -> None:
    store = store_of(database)
    versions = [store.version()]
    key, _ = store.create("a")
    versions.append(store.version())
    store.change(key.id, {"name": "b", "models": ["m"]})
    versions.append(store.version())
    store.set_limits("project/default", LIMITS)
    versions.append(store.version())
    assert versions == sorted(set(versions))
    with pytest.raises(NoSuchKey):
        store.change("nobody", {"name": "c"})
    assert store.version() == versions[-1]
    ring = store.keyring()
    assert (ring.version, ring.keys[0].name, ring.keys[0].models) == (versions[-1], "b", ["m"])
    with pytest.raises(ValueError, match="project"):
        store.change(key.id, {"project": "other"})


def test_limits_are_replaced_as_a_whole(database: Database) -> None:
    store = store_of(database)
    for nobody in ("key/nope", f"key/{store.revoke(store.create('gone')[0].id).id}"):
        with pytest.raises(NoSuchKey):
            store.set_limits(nobody, LIMITS)
    assert store.keyring().limits == {}
    store.set_limits("team/t", LIMITS)
    store.set_limits("team/t", Limits(parallel_requests=0))
    assert store.keyring().limits == {"team/t": Limits(parallel_requests=0)}
    store.set_limits("team/t", Limits())
    assert store.keyring().limits == {}


def test_secrets_differ_and_have_256_bits() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert {len(secret) for secret in secrets} == {len("sk-jg-") + 43}


def test_a_file_beside_the_journal_is_its_owners_only_and_damage_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "new" / "keys.json"
    assert snapshot.read(path, Keyring) is None
    snapshot.save(path, Keyring(version=3, limits={"project/p": LIMITS}))
    assert snapshot.read(path, Keyring) == Keyring(version=3, limits={"project/p": LIMITS})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not caplog.text
    path.write_bytes(path.read_bytes()[:-2])
    assert snapshot.read(path, Keyring) is None
    assert "cannot be read" in caplog.text
