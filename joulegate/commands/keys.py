"""`joulegate keys`: makes, lists, limits, rotates and revokes virtual keys, in the store of a proxy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import click
import msgspec
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from accounting.access.keys import DEFAULT_PROJECT, NO_LIMITS, Key, Limits, scope_name
from accounting.access.store import AccessStore, NoSuchKey
from accounting.store.engine import StoreError, absent, connect, migrate, must_be_store
from joulegate.key_options import Span, checked, limit_options
from joulegate.unusable import usable_settings
from proxy.key_views import LimitsView, Name, NewKey, Rotation
from proxy.settings import load

DEFAULT_FILE, DEFAULT_DIRECTORY = Path("joulegate.yaml"), Path("joulegate-data")
Place = tuple[Path | None, Path | None, str | None]


@click.group()
@click.option("--config", "-c", type=click.Path(path_type=Path), help="YAML file with the proxy's settings.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="The proxy's data_dir, without --config.")
@click.option("--database", metavar="URL", help="The store, without --config, where it is not in data_dir.")
@click.pass_context
def command(ctx: click.Context, config: Path | None, data_dir: Path | None, database: str | None) -> None:
    """Make, list, rotate and revoke keys.

    The store is that of --config (or ./joulegate.yaml), or the one named; `create` makes it where there is
    none. A running proxy takes changes in within `access.refresh_s`.
    """
    ctx.obj = config, data_dir, database


@command.command()
@click.argument("name")
@click.option("--project", default=DEFAULT_PROJECT, show_default=True, help="Who is charged.")
@click.option("--team", help="Team of the project, for limits.")
@click.option("--user", help="Whose key it is.")
@click.option("--model", "models", multiple=True, help="A model it may use, with * and ?; repeatable.")
@click.option("--any-tenant", is_flag=True, help="Its requests may name whom to charge.")
@click.option("--expires-in", type=Span(some=True), help="How long it is good, such as 30d.")
@limit_options
@click.pass_obj
def create(
    place: Place,
    /,
    name: str,
    project: str,
    team: str | None,
    user: str | None,
    models: tuple[str, ...],
    any_tenant: bool,
    expires_in: float | None,
    **limits: float | None,
) -> None:
    """Make a key. The secret goes to standard output, this once; everything else to standard error."""
    new = checked(
        NewKey,
        name=name,
        project=project,
        team=team,
        user_id=user,
        models=list(models) or None,
        any_tenant=any_tenant,
        expires_at=None if expires_in is None else time.time() + expires_in,
        limits=limits,
    )
    with _store(place, make=True) as store:
        key, secret = store.create(
            new.name,
            project=new.project,
            team=new.team,
            user_id=new.user_id,
            models=new.models,
            any_tenant=new.any_tenant,
            expires_us=None if new.expires_at is None else round(new.expires_at * 1e6),
            limits=new.limits.limits(),
        )
    click.echo(f"key {key.id} of project {key.project}; its secret cannot be shown again:", err=True)
    click.echo(secret)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_keys(place: Place, as_json: bool) -> None:
    """Show all keys, without their secrets."""
    with _store(place) as store:
        ring = store.keyring()
    if as_json:
        click.echo(msgspec.json.encode({"keys": ring.keys, "limits": ring.limits}))
        return
    table = Table("id", "name", "secret", "project", "team", "user", "models", "limits", "state", box=None)
    for key in ring.keys:
        models = ", ".join(key.models) if key.models is not None else "all"
        who = (key.project, key.team or "", key.user_id or "")
        limits = _shown(ring.limits.get(scope_name("key", key.id), NO_LIMITS))
        table.add_row(key.id, key.name, key.hint, *who, models, limits, _state(key, _now_us()))
    console = Console(width=None if Console().is_terminal else 200)
    console.print(table)
    for scope, limits_of in sorted(ring.limits.items()):
        if not scope.startswith("key/"):
            console.print(f"{scope}: {_shown(limits_of)}", highlight=False)


@command.command()
@click.argument("scope", metavar="key/ID|project/NAME|team/NAME")
@limit_options
@click.pass_obj
def limit(place: Place, /, scope: str, **limits: float | None) -> None:
    """Set the limits on a key, a project or a team, in place of those it has; none at all: no limits."""
    kind, _, name = scope.partition("/")
    if kind not in ("key", "project", "team") or not name:
        raise click.BadParameter("write key/ID, project/NAME or team/NAME", param_hint="scope")
    checked(TypeAdapter(Name).validate_python, name)
    set_to = checked(LimitsView, **limits).limits()
    with _store(place) as store:
        store.set_limits(scope, set_to)
    click.echo(f"{scope}: {_shown(set_to) or 'no limits'}")


@command.command()
@click.argument("id")
@click.option("--grace", type=Span(), default=86_400.0, show_default="1d", help="The old secret's last time.")
@click.pass_obj
def rotate(place: Place, id: str, grace: float) -> None:
    """Give a key a new secret; the old one stays good for the time of grace."""
    grace = checked(Rotation, grace_seconds=grace).grace_seconds
    with _store(place) as store:
        key, secret = store.rotate(id, round(grace * 1e6))
    ends = datetime.fromtimestamp(time.time() + grace, UTC)
    click.echo(f"new secret of {key.id}; the old one is good until {ends:%Y-%m-%d %H:%M:%S} UTC:", err=True)
    click.echo(secret)


@command.command()
@click.argument("id")
@click.pass_obj
def revoke(place: Place, id: str) -> None:
    """End a key for good. Its requests stay in the records."""
    with _store(place) as store:
        key = store.revoke(id)
    click.echo(f"key {key.id} ({key.name}) is revoked")


@contextmanager
def _store(place: Place, *, make: bool = False) -> Iterator[AccessStore]:
    """The store of the proxy's settings. Without `make` it has to be there.

    Raises ClickException with whatever goes wrong.
    """
    config, data_dir, database = place
    try:
        url = _url(config, data_dir, database)
        made = absent(url) if make else None
        engine = connect(url, must_exist=not make)
        try:
            if not make:
                must_be_store(engine)
            migrate(engine)
            if made is not None:
                click.echo(f"made the store {made}", err=True)
            yield AccessStore(engine, _now_us)
        finally:
            engine.dispose()
    except NoSuchKey as error:
        raise click.ClickException(f"there is no key {error}, or it is revoked") from error
    except StoreError as error:
        raise click.ClickException(str(error)) from error


def _url(config: Path | None, data_dir: Path | None, database: str | None) -> str:
    if database is not None:
        return database
    if data_dir is not None:
        return f"sqlite:///{data_dir.absolute()}/joulegate.db"
    if config is None and DEFAULT_FILE.exists():
        config = DEFAULT_FILE
    if config is not None:
        with usable_settings():
            return load(config).store_url
    return f"sqlite:///{DEFAULT_DIRECTORY.absolute()}/joulegate.db"


def _state(key: Key, now_us: int) -> str:
    if key.revoked_us is not None:
        return f"revoked {_day(key.revoked_us)}"
    if key.expires_us is None:
        return "good"
    return f"{'good until' if key.usable(now_us) else 'expired'} {_day(key.expires_us)}"


def _shown(limits: Limits) -> str:
    shown = [
        (limits.requests_per_minute, "requests/min"),
        (limits.tokens_per_minute, "tokens/min"),
        (limits.parallel_requests, "at a time"),
        (_joules(limits.uj_per_day), "J/day"),
        (_joules(limits.uj_per_month), "J/month"),
    ]
    return ", ".join(f"{value:,} {unit}" for value, unit in shown if value is not None)


def _joules(uj: int | None) -> Decimal | None:
    """All of its digits, and no zero behind them."""
    if uj is None:
        return None
    joules = Decimal(uj).scaleb(-6)
    return joules.quantize(Decimal(1)) if joules == joules.to_integral_value() else joules.normalize()


def _day(t_us: int) -> str:
    try:
        return f"{datetime.fromtimestamp(t_us / 1e6, UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        return "after the year 9999"


def _now_us() -> int:
    return time.time_ns() // 1_000
