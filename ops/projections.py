"""`calotype projections`: what is made of the log, how far it is, and whether it is right."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from calotype.ops import wiring
from calotype.ops.options import ConfigOption, DataOption, LogUrlOption
from calotype.ops.settings import SettingsError, load_settings
from calotype.projections.verifying import PRINTS, Difference, Print, differences, reached
from calotype.stores.log.recorder import GroupCommitRecorder

SHOWN = 20
"""Differences that are told one by one."""

app = typer.Typer(help="Look at the tables that are made of the log.", no_args_is_help=True)

NameArgument = Annotated[
    list[str] | None,
    typer.Argument(help=f"Of {', '.join(known.name for known in PRINTS)}; none: all."),
]


@app.command()
def status(
    config: ConfigOption = None, data: DataOption = None, log_url: LogUrlOption = None
) -> None:
    """List the projections: their tables and rows, how far they are, and who keeps them so."""
    recorder = _recorder(config, data, log_url)
    try:
        leaders = {
            known.name: asyncio.run(recorder.live_leases(f"follower:{known.follower}"))
            for known in PRINTS
            if known.follower
        }
        with recorder.snapshot() as fetch:
            head = fetch("SELECT max(notification_id) FROM stored_events")[0][0] or 0
            table = Table("projection", "table", "rows", "position", "behind", "kept by")
            for known in PRINTS:
                position = reached(fetch, known)
                keeper = "every append"
                if known.follower:
                    keeper = ", ".join(sorted(leaders[known.name])) or "nobody now"
                facts = [str(position), str(head - position), keeper]
                for number, part in enumerate(known.tables):
                    rows = fetch(f"SELECT count(*) FROM {part.name}")[0][0]
                    first = known.name if number == 0 else ""
                    table.add_row(first, part.name, str(rows), *(facts if first else ("", "", "")))
    finally:
        recorder.close_now()
    Console().print(table)


@app.command()
def verify(
    names: NameArgument = None,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Compare the tables, row by row, with what the log says they should hold.

    While serving, too: every look is at one moment of the database. Exits with 1 when a row is
    not as it should be, naming the table and the key.
    """
    chosen = _chosen(names)
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


def _verify(recorder: GroupCommitRecorder, known: Print) -> list[Difference]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        events = recorder.max_notification_id() or 0
        task = bar.add_task(known.name, total=events)
        return list(differences(recorder, known, lambda count: bar.advance(task, count)))


def _chosen(names: list[str] | None) -> list[Print]:
    by_name = {known.name: known for known in PRINTS}
    for name in names or ():
        if name not in by_name:
            raise SettingsError(f"NAME: there is no projection '{name}'; use {', '.join(by_name)}")
    return [by_name[name] for name in names] if names else list(PRINTS)


def _recorder(config: ConfigOption, data: DataOption, log_url: LogUrlOption) -> GroupCommitRecorder:
    return wiring.ready_recorder(load_settings(config, data=data, log__url=log_url))
