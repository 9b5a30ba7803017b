"""The command line: `joulegate COMMAND`. Each command is a file in `commands/`."""

from __future__ import annotations

import importlib

import click

from joulegate import __version__

COMMANDS = {
    "serve": "run the proxy",
    "meters": "what can be measured, how, and what to do about what is missing",
    "meter": "measure this machine's GPUs for a joulegate on another one",
    "check-config": "check a file with settings",
    "demo": "show joules per request on a simulated GPU",
    "replay": "compute the books of a journal or a trace again",
    "keys": "make, list, limit, rotate and revoke keys of clients",
    "audit": "prove the books of the store",
    "report": "who used what, where the energy went, what it costs",
    "diagnose": "where the joules go, and what would change it",
    "capacity": "how many requests fit a power budget",
    "invoice": "what projects owe for a month",
    "export": "requests, books and FOCUS rows as files",
    "sweep": "what a task costs at several loads",
    "compare": "what changed between two sweeps",
}


class _Lazy(click.Group):
    """Imports a command only when it is used: `joulegate --help` should not wait for a web framework."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"joulegate.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="joulegate")
def main() -> None:
    """Tell what each inference request cost in joules."""
