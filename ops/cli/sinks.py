"""`calotype sinks`: where each sink is, what keeps it from going on, and what it went past."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from calotype.commands.errors import Invalid
from calotype.ops.cli.options import ConfigOption, DataOption, LogUrlOption
from calotype.ops.settings.settings import SettingsError, load_settings
from calotype.ops.wiring import composition
from calotype.ops.wiring.sinks import ends_of, sink_named
from calotype.projections.engine.positions import Positions, positions_now
from calotype.projections.sinks.contract import TryLater
from calotype.projections.sinks.parked import checkpoint_of, lease_of, parked_of, trouble_of
from calotype.projections.sinks.resending import Resending
from calotype.stores.log.recorder import GroupCommitRecorder

app = typer.Typer(help="Look after the sinks that the log is delivered to.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="SINK", help="As in [sinks.SINK].")]


@app.command()
def status(
    config: ConfigOption = None, data: DataOption = None, log_url: LogUrlOption = None
) -> None:
    """List the sinks: how far each is, who serves it, and what keeps it from going on."""
    settings = load_settings(config, data=data, log__url=log_url)
    recorder = composition.ready_recorder(settings)
    table = Table()
    for column in ("sink", "kind", "position", "behind", "parked", "served by"):
        table.add_column(column, overflow="fold")
    troubles = []
    try:
        head = recorder.max_notification_id() or 0
        positions = positions_now(recorder)
        for name, sink in settings.sinks.items():
            reached = recorder.max_tracking_id(checkpoint_of(name))
            leaders = asyncio.run(recorder.live_leases(lease_of(name)))
            trouble, since = trouble_of(recorder, name)
            if trouble:
                troubles.append(f"{name} cannot go on since {since}: {trouble}")
            cells = [
                name,
                sink.kind,
                "not begun" if reached is None else positions.encode(reached),
                "" if reached is None else str(head - reached),
                str(len(parked_of(recorder, name))),
                ", ".join(sorted(leaders)) or "nobody now",
            ]
            table.add_row(*cells)
    finally:
        recorder.close_now()
    Console().print(table)
    for line in troubles:
        typer.echo(line)


@app.command()
def parked(
    name: NameArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """List the events that the sink went past, because they are refused for good."""
    settings = load_settings(config, data=data, log__url=log_url)
    sink_named(settings, name)
    recorder = composition.ready_recorder(settings)
    try:
        positions = positions_now(recorder)
        for event in parked_of(recorder, name):
            position = positions.encode(event.position)
            typer.echo(f"{position}  {event.parked_at}  {event.topic:<20}  {event.error}")
    finally:
        recorder.close_now()


@app.command()
def redeliver(
    name: NameArgument,
    only: Annotated[
        list[str] | None, typer.Argument(metavar="[POSITION]...", help="None: all that is parked.")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Tell the sink parked events again, under the same message ids.

    Later events of the same image have been told before. Exits with 1 when some stay parked.
    """
    settings = load_settings(config, data=data, log__url=log_url)
    sink = sink_named(settings, name)
    recorder = composition.ready_recorder(settings)
    try:
        positions = positions_now(recorder)
        chosen = _chosen(recorder, positions, name, only)
        ends = ends_of(recorder, positions, name, sink)
        resending = Resending(recorder, ends.encoder, ends.broker)

        async def go() -> int:
            try:
                return sum([await resending.parked(name, position) for position in chosen])
            finally:
                await ends.broker.close()
                await recorder.close()

        taken = asyncio.run(go())
    except TryLater as error:
        typer.echo(f"{name}: {error}", err=True)
        raise typer.Exit(1) from None
    finally:
        recorder.close_now()
    for position, why in sorted(resending.done.refused.items()):
        typer.echo(f"{positions.encode(position)} stays parked: {why}")
    typer.echo(f"redelivered {taken} of {len(chosen)} events")
    raise typer.Exit(0 if taken == len(chosen) else 1)


def _chosen(
    recorder: GroupCommitRecorder, positions: Positions, name: str, only: list[str] | None
) -> list[int]:
    known = [event.position for event in parked_of(recorder, name)]
    if not only:
        return known
    try:
        wanted = [positions.decode(text, "POSITION") for text in only]
    except Invalid as error:
        raise SettingsError(f"POSITION: {error.explanation}") from None
    for position in wanted:
        if position not in known:
            raise SettingsError(f"POSITION: {positions.encode(position)} is not parked in {name}")
    return wanted
