"""`joulegate check-config FILE`: would these settings do? Every fault at once, before a start or a reload."""

from __future__ import annotations

from pathlib import Path

import click

from joulegate.unusable import usable_settings
from proxy.reload import LIVE
from proxy.settings import load
from proxy.startable import missing


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """Check the settings in FILE, with the JOULEGATE_ environment over them, and start nothing.

    Ends with status 2 and a line per fault if they cannot be used. Tokens that meters take from the
    environment have to be there.
    """
    with usable_settings():
        settings = load(file, more=missing)
    count = len(settings.backends)
    click.echo(f"{file} can be used: {count} backend{'s' if count > 1 else ''}")
    for backend in settings.backends:
        models = ", ".join(backend.models) if backend.models is not None else "as the engine says"
        gpus = f"{len(backend.gpus)} GPUs" if isinstance(backend.gpus, list) else f"GPUs {backend.gpus}"
        click.echo(f"  {backend.id}: {backend.url} ({gpus}; models: {models})")
    if count > 1:
        if sum(backend.gpus == "all" for backend in settings.backends) > 1:
            click.echo("  Several have all GPUs: their requests share the energy of all of them.")
            click.echo("  Name the GPUs of each (backends[].gpus) if each runs on its own.")
        affinity = " and ".join(settings.routing.affinity) or "no"
        click.echo(f"  routing: {settings.routing.policy}, {affinity} affinity")
    click.echo(f"A running joulegate takes changes of {', '.join(LIVE)} at SIGHUP; others at a restart.")
