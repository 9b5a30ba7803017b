"""A report of the check, for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 110


def show(report: dict[str, Any]) -> None:
    console = Console(width=WIDTH, highlight=False)
    machine = report["machine"]
    kind = " - a rehearsal: the figures say nothing of a real GPU" if report["rehearsal"] else ""
    console.print(f"{machine['gpu']}, driver {machine['driver']}{kind}", markup=False)
    table = Table("step", "seconds", "what", show_edge=False)
    for name, step in report["steps"].items():
        lines = [f"failed: {last_line(step['error'])}"] if "error" in step else _LINES[name](step["result"])
        table.add_row(name, f"{step['seconds']:.0f}", "\n".join(lines))
    console.print(table)


def last_line(text: str) -> str:
    """Of an error that quotes a log, what the log ended with."""
    return text.strip().splitlines()[-1]


def number(value: float | None, unit: str = "", digits: int = 1) -> str:
    return "not known" if value is None else f"{value:,.{digits}f}{unit}"


def _idle(found: dict[str, Any]) -> list[str]:
    return [", ".join(f"{key.removesuffix('_w')} {number(watts, ' W')}" for key, watts in found.items())]


def _calls(found: dict[str, Any]) -> list[str]:
    return [
        f"{cost['call']}: "
        + (
            cost["error"]
            if cost["error"]
            else "p50 {}, p95 {}, max {} us".format(
                *(number(cost[k]) for k in ("p50_us", "p95_us", "max_us"))
            )
        )
        for cost in found["calls"]
    ] + [f"stamps of the energy field: {found['energy_field_stamps']}"]


def _counter(found: dict[str, Any]) -> list[str]:
    cadence, lag = found["cadence"], found["lag"]
    lines = []
    if cadence is not None:
        lines.append(
            f"period {cadence['period_us'] / 1000:.2f} ms, "
            f"jitter {cadence['jitter_sd_us'] / 1000:.2f} ms (sd), "
            f"{cadence['edges']} edges, {cadence['odd']} odd, {cadence['skipped']} skipped"
        )
    if lag is not None:
        lines.append(
            f"lag {lag['lag_us'] / 1000:.1f} +- {lag['lag_sd_us'] / 1000:.1f} ms, "
            f"{lag['idle_w']:.0f} W idle, {lag['busy_w']:.0f} W busy, {lag['unexplained']:.1%} unexplained"
        )
    return lines or ["too few changes of the counter to say anything"]


def _sampling(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["the counter moved too seldom to tell"]
    verdict = "UNDERSAMPLES" if found["undersamples"] else "sees all of it"
    return [
        f"{verdict}: spread over phases {found['spread']:.1%} of the power step "
        f"({found['idle_w']:.0f} to {found['busy_w']:.0f} W)",
        f"in step over random: {number(found['locked_over_random'], digits=3)}, "
        f"fine over random: {number(found['fine_over_random'], digits=3)}",
    ]


def _model(found: dict[str, Any]) -> list[str]:
    lines = [
        f"{found['size']} made in {found['made_s']:.0f} s; idle with it: {_idle(found['idle_with_model'])[0]}"
    ]
    for one in found["inter_token"]:
        period = "not polled" if one["period_ms"] is None else f"polled each {one['period_ms']:.0f} ms"
        ratio = "" if one["over_none"] is None else f", {one['over_none'] - 1:+.2%} of not polled"
        if one["over_none_sd"] is not None:
            ratio += f" (sd {one['over_none_sd']:.2%})"
        lines.append(f"{period}: median {one['median_ms']:.2f} ms, p99 {one['p99_ms']:.2f} ms{ratio}")
    return lines


def _joules(found: dict[str, Any]) -> list[str]:
    books, ab = found["books"], found["ab"]
    parts = ", ".join(
        f"{key.removesuffix('_uj')} {books[key] / 1e6:,.1f}" for key in books if key.endswith("_uj")
    )
    residual = found["work_model_residual"]["last"]
    return [
        f"books (J): {parts}; balanced: {books['balanced']}; audit: {found['audit']['says']}",
        f"{found['requests']} requests, {found['failed']} failed; fit residual over 1 s: "
        + ("not known" if residual is None else f"{residual:.1%}"),
        f"A/B: the class costs {ab['difference_j']:,.1f} J more by the counter"
        + ("" if ab["difference_se_j"] is None else f" (se {ab['difference_se_j']:,.1f})")
        + f"; charged to it {ab['charged_j']:,.1f} J (above idle {ab['charged_dynamic_j']:,.1f})",
        f"meanwhile the background was charged {ab['background_change_j']:+,.1f} J, "
        f"idle {ab['idle_change_j']:+,.1f} J",
    ]


_LINES: dict[str, Any] = {
    "idle": _idle,
    "calls": _calls,
    "counter": _counter,
    "sampling": _sampling,
    "model": _model,
    "joules": _joules,
}
