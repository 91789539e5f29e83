"""The report: a table for the eye, JSON for machines, Markdown for the README."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from tests.bench.figures import Row, Target

COLUMNS = (
    "scenario", "log", "images", "connections", "requests/s", "p50 ms", "p99 ms", "MB/s",
    "CPU ms", "peak MB", "floors", "ratios",
)  # fmt: skip
_LEFT = frozenset({"scenario", "log", "floors", "ratios"})
EXPLANATION = (
    "CPU is the server's whole process tree for each request, the database's apart. A floor is "
    "measured in the same rounds as what stands beside it; a ratio is the median of the rounds. "
    '"bare" is an aiohttp handler that answers the same bytes. MB are 1 000 000 bytes.'
)


def print_report(
    console: Console, facts: dict[str, str], rows: Sequence[Row], targets: Sequence[Target]
) -> None:
    """Prints the machine, all rows, and the figures that the project aims at."""
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), style="dim")
    figures = Table(title="Figures", box=SIMPLE, pad_edge=False)
    floors = Table(title="Floors", caption=EXPLANATION, box=SIMPLE, pad_edge=False)
    for name in COLUMNS[:10]:
        figures.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True)
    for name in (*COLUMNS[:4], *COLUMNS[10:]):
        floors.add_column(name, justify="left" if name in _LEFT else "right")
    for row in rows:
        cells = _cells(row)
        figures.add_row(*cells[:10])
        if row.ratios:
            floors.add_row(*cells[:4], *cells[10:])
    console.print(figures)
    console.print(floors)
    aims = Table(title="Targets", box=SIMPLE, pad_edge=False)
    for name in ("what", "log", "figure", "target", ""):
        aims.add_column(name)
    for target in targets:
        aims.add_row(*_target_cells(target))
    console.print(aims)


def as_json(
    facts: dict[str, str],
    asked: dict[str, Any],
    rows: Sequence[Row],
    targets: Sequence[Target],
    seconds: float,
    complete: bool,
) -> bytes:
    """Everything that was found out, one JSON object; `complete` tells a whole run."""
    return orjson.dumps(
        {
            "machine": facts,
            "options": asked,
            "seconds": round(seconds, 1),
            "complete": complete,
            "rows": [asdict(row) for row in rows],
            "targets": [{**asdict(target), "reached": target.reached} for target in targets],
        },
        option=orjson.OPT_INDENT_2,
        default=str,
    )


def as_markdown(facts: dict[str, str], rows: Sequence[Row], targets: Sequence[Target]) -> str:
    """The same as two Markdown tables below a line about the machine."""
    machine = ", ".join(f"{name} {value}" for name, value in facts.items())
    lines = [f"Measured on: {machine}.", "", EXPLANATION, ""]
    lines += _markdown_table(COLUMNS, [_cells(row) for row in rows])
    if targets:
        lines += ["", *_markdown_table(
            ("what", "log", "figure", "target", ""), [_target_cells(target) for target in targets]
        )]  # fmt: skip
    return "\n".join(lines) + "\n"


def _markdown_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rules = ["---" if name in _LEFT else "---:" for name in names]
    return ["| " + " | ".join(cells) + " |" for cells in (names, rules, *rows)]


def _cells(row: Row) -> list[str]:
    scenario = row.scenario
    if row.failures:
        failed = ", ".join(f"{count} x {reason}" for reason, count in row.failures.items())
        scenario += f" (FAILED: {failed})"
    return [
        scenario,
        row.log,
        _number(row.images),
        str(row.connections),
        _number(row.requests_per_second),
        _number(row.p50_milliseconds),
        _number(row.p99_milliseconds),
        _number(row.megabytes_per_second),
        _number(row.cpu_milliseconds),
        _number(row.peak_memory_megabytes),
        ", ".join(f"{name} {_number(value)}" for name, value in row.floors.items()),
        ", ".join(f"{name} {value:.2f}" for name, value in row.ratios.items()),
    ]


def _target_cells(target: Target) -> list[str]:
    bound = "at most" if target.at_most else "at least"
    return [
        target.what,
        target.log,
        f"{target.figure:.2f} {target.unit}",
        f"{bound} {target.target:g}",
        "reached" if target.reached else "missed",
    ]


def _number(value: float | None) -> str:
    """Three digits that matter, and thousands set apart by spaces."""
    if value is None:
        return ""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
