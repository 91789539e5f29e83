"""`calotype projections`: what is made of the log, how far it is, and whether it is right."""

import asyncio
from dataclasses import asdict
from typing import Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from calotype.ops.cli.options import ConfigOption, DataOption, LogUrlOption
from calotype.ops.cli.progress import ProgressReporter
from calotype.ops.cli.rebuild import JsonOption, NamesArgument, chosen_prints, rebuild, switch
from calotype.ops.settings.settings import load_settings
from calotype.ops.wiring import composition
from calotype.projections.engine.positions import positions_now
from calotype.projections.rebuild.rebuild import spare_of
from calotype.projections.rebuild.registry import PROJECTIONS, Projection, reached
from calotype.projections.rebuild.verify import Difference, differences
from calotype.stores.log.recorder import GroupCommitRecorder

SHOWN = 20
"""Differences that are told one by one."""

app = typer.Typer(help="Look at the tables that are made of the log.", no_args_is_help=True)

app.command()(rebuild)
app.command()(switch)


@app.command("list")
def list_projections(
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """List the projections: what they are for, their tables and sizes, and where they stand."""
    recorder = _recorder(config, data, log_url)
    try:
        facts = [_facts(recorder, known) for known in PROJECTIONS]
    finally:
        recorder.close_now()
    if as_json:
        for fact in facts:
            typer.echo(orjson.dumps(fact))
        return
    table = Table("projection", "what for", "table", "rows", "MB", "position", show_lines=True)
    for fact in facts:
        parts = fact["tables"]
        waiting = fact["built"]
        position = fact["position"]
        if waiting is not None:
            position += f"\nbuilt, not in use: {waiting['position']}"
        table.add_row(
            fact["projection"],
            fact["purpose"],
            "\n".join(part["table"] for part in parts),
            "\n".join(str(part["rows"]) for part in parts),
            "\n".join(_megabytes(part["bytes"]) for part in parts),
            position,
        )
    Console().print(table)


def _facts(recorder: GroupCommitRecorder, known: Projection) -> dict[str, Any]:
    positions = positions_now(recorder)
    with recorder.snapshot(known.tables) as fetch:
        spare = spare_of(fetch, known)
        built = None
        if spare is not None:
            built = {**asdict(spare), "position": positions.encode(spare.position)}
        return {
            "projection": known.name,
            "purpose": known.purpose,
            "kept_by": known.follower or "every append",
            "position": positions.encode(reached(fetch, known)),
            "built": built,
            "tables": [
                {
                    "table": part.name,
                    "rows": fetch(f"SELECT count(*) FROM {part.name}")[0][0],
                    "bytes": recorder.table_bytes(part),
                }
                for part in known.tables
            ],
        }


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f}"


@app.command()
def status(
    config: ConfigOption = None, data: DataOption = None, log_url: LogUrlOption = None
) -> None:
    """List the projections: their tables and rows, how far they are, and who keeps them so."""
    recorder = _recorder(config, data, log_url)
    try:
        leaders = {
            known.name: asyncio.run(recorder.live_leases(f"follower:{known.follower}"))
            for known in PROJECTIONS
            if known.follower
        }
        positions = positions_now(recorder)
        with recorder.snapshot() as fetch:
            head = fetch("SELECT max(notification_id) FROM stored_events")[0][0] or 0
            table = Table("projection", "table", "rows", "position", "behind", "kept by")
            for known in PROJECTIONS:
                position = reached(fetch, known)
                keeper = "every append"
                if known.follower:
                    keeper = ", ".join(sorted(leaders[known.name])) or "nobody now"
                facts = [positions.encode(position), str(head - position), keeper]
                for number, part in enumerate(known.tables):
                    rows = fetch(f"SELECT count(*) FROM {part.name}")[0][0]
                    first = known.name if number == 0 else ""
                    table.add_row(first, part.name, str(rows), *(facts if first else ("", "", "")))
    finally:
        recorder.close_now()
    Console().print(table)


@app.command()
def verify(
    names: NamesArgument = None,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Compare the tables, row by row, with what the log says they should hold.

    While serving, too: every look is at one moment of the database. Exits with 1 when a row is
    not as it should be, naming the table and the key.
    """
    chosen = chosen_prints(names)
    recorder = _recorder(config, data, log_url)
    try:
        found = {known.name: _verify(recorder, known) for known in chosen}
    finally:
        recorder.close_now()
    for name, wrong in found.items():
        for difference in wrong[:SHOWN]:
            typer.echo(f"{difference.table} {difference.key}: {difference.what}")
        if len(wrong) > SHOWN:
            typer.echo(f"... and {len(wrong) - SHOWN} more rows of {name}")
        typer.echo(f"{name}: {'DOES NOT FIT the log' if wrong else 'fits the log'}")
    raise typer.Exit(1 if any(found.values()) else 0)


def _verify(recorder: GroupCommitRecorder, known: Projection) -> list[Difference]:
    with ProgressReporter(known.name) as told:
        told.phase("events", recorder.max_notification_id() or 0)
        return list(differences(recorder, known, told.advance))


def _recorder(config: ConfigOption, data: DataOption, log_url: LogUrlOption) -> GroupCommitRecorder:
    return composition.ready_recorder(load_settings(config, data=data, log__url=log_url))
