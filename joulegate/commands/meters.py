"""`joulegate meters`: what this machine can measure, how, and what to do about what is missing."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from accounting.events import CrossCheck, MeterMethod
from accounting.meters.contract import MeterError
from joulegate.survey import Device, Survey, survey
from joulegate.unusable import usable_settings
from proxy.settings import Settings, load

DEFAULT_FILE = Path("joulegate.yaml")
WIDTH = 120

NO_BACKENDS = {"backends": [{"id": "none", "url": "http://127.0.0.1:1"}]}
"""Without a file there is no engine to name, and none is needed to look at meters."""

METHODS: dict[MeterMethod, str] = {
    "nvml-counter": "NVML energy counter",
    "nvml-power": "NVML power over time",
    "nvml-power-average": "NVML 1 s mean power over time",
    "zeusd-counter": "zeusd, energy counter",
    "zeusd-power": "zeusd, power over time",
    "dcgm-counter": "DCGM exporter, energy counter",
    "dcgm-power": "DCGM exporter, power over time",
    "rapl": "RAPL counters",
    "estimate": "estimate from the settings",
    "none": "not measured",
}


@click.command()
@click.option("--config", "-c", type=click.Path(path_type=Path), help="YAML file with the settings.")
@click.option(
    "--library", type=click.Path(path_type=Path), help="Path of libnvidia-ml.so.1, if it is unusual."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(config: Path | None, library: Path | None, as_json: bool) -> None:
    """Show what can be measured: each GPU of this machine and of the meters in the settings.

    Settings come from --config (or ./joulegate.yaml if there is one). Every counter is watched for some
    seconds: its steps, the cost of a read, and whether power tells the same. Ends with 0 where something can
    be measured, 1 where nothing can, 2 where the settings cannot be used.
    """
    if config is None and DEFAULT_FILE.exists():
        config = DEFAULT_FILE
    with usable_settings():
        settings = load(config, None if config is not None else NO_BACKENDS, {"meter": {"library": library}})
    found = _survey(settings)
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        _show(found)
    sys.exit(0 if found.measured else 1)


def _survey(settings: Settings) -> Survey:
    console = Console(stderr=True)
    logging.disable(logging.WARNING)  # what meters log is in the answer
    try:
        with console.status("asking the meters and watching what they read (some seconds)"):
            return survey(settings)
    except MeterError as error:
        raise click.ClickException(str(error)) from error
    finally:
        logging.disable(logging.NOTSET)


def _show(found: Survey) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, WIDTH)
    count = len(found.devices)
    head = f"{found.measured} of {count} device{'s' if count != 1 else ''} can be measured"
    head = head if count else "No GPU was found."
    console.print(head + (f" (NVIDIA driver {found.driver})" if found.driver else ""), markup=False)
    if found.devices:
        console.print(_table(found.devices))
    for line in _ways(found.devices):
        console.print(line, markup=False)
    if found.advice:
        console.print("\nTo know:" if found.measured else "\nWhat to do:")
        for line in found.advice:
            console.print(f"- {line}", markup=False)


def _ways(devices: list[Device]) -> list[str]:
    """All ways to read the GPUs, those alike in one block."""
    alike: dict[tuple[tuple[str, str | None], ...], list[Device]] = {}
    for device in devices:
        if len(device.ways) > 1:
            alike.setdefault(tuple((way.name, way.problem) for way in device.ways), []).append(device)
    lines = []
    for same in alike.values():
        which = ", ".join(str(device.index) for device in same)
        lines.append(f"\nways to read GPU {which}, best first:")
        for number, way in enumerate(same[0].ways):
            taken_us = [us for device in same if (us := device.ways[number].call_us) is not None]
            costs = f"{max(taken_us)} µs a call" if taken_us else "not timed"
            lines.append(f"  {METHODS[way.method]} ({way.name}): {way.problem or costs}")
    return lines


def _table(devices: list[Device]) -> Table:
    table = Table(pad_edge=False, show_lines=len(devices) > 1)
    table.add_column("device", no_wrap=True)
    table.add_column("measured by", overflow="fold")
    table.add_column("its steps", no_wrap=True)
    table.add_column("reads", no_wrap=True)
    table.add_column("power now", justify="right", no_wrap=True)
    table.add_column("counter against power", overflow="fold")
    for device in devices:
        name = device.device or "unknown device"
        where = f"{device.gpu or ''}" + (f"\non {device.node}" if device.node else "")
        table.add_row(
            (name if device.index is None else f"{device.index}: {name}") + f"\n{where}",
            METHODS[device.method] if device.measured else f"not measured: {device.code or 'no answer'}",
            *((_steps(device), _reads(device), _power(device)) if device.measured else ("-", "-", "-")),
            _check(device.cross_check) if device.measured else "-",
        )
    return table


def _steps(device: Device) -> str:
    """Period, jitter and lag of the counter."""
    jitter = "" if device.counter_jitter_ms is None else f" ±{device.counter_jitter_ms:.1f}"
    period = (
        f"{device.counter_period_ms:.1f}{jitter} ms" if device.counter_period_ms is not None else "not known"
    )
    return f"{period}\nlag " + ("not known" if device.lag_ms is None else f"{device.lag_ms:.1f} ms")


def _reads(device: Device) -> str:
    """What a read takes, and how often one is made."""
    lines = []
    if device.call_p50_us is not None and device.call_p95_us is not None:
        lines += [f"{device.call_p50_us} µs", f"(95 %: {device.call_p95_us})"]
    if device.read_period_ms is not None:
        lines.append(f"each {device.read_period_ms:.0f} ms")
    return "\n".join(lines) or "not known"


def _power(device: Device) -> str:
    if device.power_w is None:
        return "not known"
    limit = "" if device.power_limit_w is None else f"\nof {device.power_limit_w:.0f} W"
    return f"{device.power_w:.0f} W{limit}"


def _check(check: CrossCheck | None) -> str:
    if check is None:
        return "not compared"
    verdict = "agree" if check.agrees else "DISAGREE"
    figures = f"{check.counter_mj / 1000:.0f} J, {check.power_mj / 1000:.0f} J"
    return f"{verdict}: {figures} in {check.over_us / 1e6:.1f} s"
