"""`calotype consumers`: named consumers of the feed, looked at and repaired from the shell.

For operators, who can read the database anyway: the policy is not asked. Works beside serving
processes, and without any.
"""

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from calotype.commands.errors import CalotypeError, NotFound
from calotype.ops.cli.options import ConfigOption, DataOption, LogUrlOption
from calotype.ops.settings.settings import SettingsError, load_settings
from calotype.ops.wiring import composition
from calotype.projections.consumers.consumers import Consumers, Parked
from calotype.projections.consumers.requests import (
    BEGINNING,
    checked_name,
    checked_position,
    checked_subscription,
)
from calotype.projections.consumers.status import (
    described_now,
    described_parked,
)
from calotype.projections.feed.cloudevents import topic_of
from calotype.projections.feed.feed import Feed

app = typer.Typer(help="Named consumers of the event feed.", no_args_is_help=True)

PAGE = 500

NameArgument = Annotated[str, typer.Argument(help="The consumer's name.", show_default=False)]
ProjectOption = Annotated[
    str | None,
    typer.Option("--project", help="Whose feed it reads; not given: the feed of operators."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, as the API gives it.")]
PositionsArgument = Annotated[
    list[str] | None, typer.Argument(help="Positions of parked events.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="All that are parked.")]

Result = TypeVar("Result")


@app.command("list")
def list_consumers(
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """List all consumers, those of the service itself too, with how far each is."""

    async def read(consumers: Consumers) -> list[dict[str, Any]]:
        return [await described_now(consumers, one) for one in await consumers.all()]

    told = _run(read, config, data, log_url)
    if as_json:
        for one in told:
            typer.echo(orjson.dumps(one))
        return
    table = Table("project", "name", "lag", "claimed", "parked", "oldest claim", "members")
    for one in told:
        lag = f"{one['lag']['events']}{'+' if one['lag']['more'] else ''}"
        age = one["oldest_claim_seconds"]
        cells = [
            one["project"] or "(all)",
            one["name"],
            lag,
            str(one["claimed"]),
            f"{one['parked']}{' (stopped)' if one['stopped'] else ''}",
            "" if age is None else f"{age:.0f} s",
            ", ".join(member["member"] for member in one["members"]),
        ]
        # As Text, because names from outside may look like markup.
        table.add_row(*[Text(cell, overflow="fold") for cell in cells])
    Console().print(table)


@app.command()
def show(
    name: NameArgument,
    project: ProjectOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Show what a consumer wants, how far it is, and who works for it, as JSON."""

    async def read(consumers: Consumers) -> dict[str, Any]:
        return await described_now(consumers, await consumers.get(project, name))

    _print(_run(read, config, data, log_url))


@app.command()
def create(
    name: NameArgument,
    project: ProjectOption = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Only this event type; repeatable.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Only events of this image.")] = None,
    on_parked: Annotated[
        str, typer.Option(help="continue or hold: what an image does after a parked event.")
    ] = "continue",
    max_attempts: Annotated[int, typer.Option(help="An event that failed so often is parked.")] = 5,
    start: Annotated[
        str, typer.Option(help="beginning, end, or the position to go on after.")
    ] = BEGINNING,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Make a consumer, or change what the one of that name wants."""
    fields = {
        "types": types or [],
        "image": image,
        "on_parked": on_parked,
        "max_attempts": max_attempts,
    }

    async def make(consumers: Consumers) -> dict[str, Any]:
        position = await checked_position(consumers.feed, start, "start")
        consumer, _ = await consumers.put(
            project,
            checked_name(name),
            checked_subscription(fields),
            start=position,
            created_by=f"cli:{getpass.getuser()}",
        )
        return await described_now(consumers, consumer)

    _print(_run(make, config, data, log_url))


@app.command()
def delete(
    name: NameArgument,
    project: ProjectOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Delete a consumer, its place and its parked events."""
    _run(lambda consumers: consumers.delete(project, name), config, data, log_url)
    typer.echo(f"deleted {name}")


@app.command()
def seek(
    name: NameArgument,
    position: Annotated[str, typer.Argument(help="A position, 'beginning' or 'end'.")],
    project: ProjectOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Let a consumer go on after a position; what is claimed is handed out again from there."""

    async def move(consumers: Consumers) -> dict[str, Any]:
        target = await checked_position(consumers.feed, position, "position")
        return await described_now(consumers, await consumers.seek(project, name, target))

    _print(_run(move, config, data, log_url))


@app.command()
def parked(
    name: NameArgument,
    project: ProjectOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """List the events that failed too often, and why."""

    async def read(consumers: Consumers) -> list[dict[str, Any]]:
        positions = await consumers.feed.positions()
        found: list[Parked] = []
        while page := await consumers.parked(
            project, name, after=found[-1].position if found else 0, limit=PAGE
        ):
            found += page
        return [described_parked(positions, one) for one in found]

    rows = _run(read, config, data, log_url)
    if as_json:
        for row in rows:
            typer.echo(orjson.dumps(row))
        return
    table = Table("position", "type", "image", "attempts", "parked at", "error")
    for row in rows:
        kind = topic_of(row["event"]["type"]) if row["event"] else ""
        told = [row["position"], kind, row["image"], str(row["attempts"]), row["parked_at"]]
        table.add_row(*[Text(cell, overflow="fold") for cell in [*told, row["error"] or ""]])
    Console().print(table)


@app.command()
def redeliver(
    name: NameArgument,
    positions: PositionsArgument = None,
    everything: AllOption = False,
    project: ProjectOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Hand parked events out again, with all their attempts.

    Exits with 1 when one of those named is not parked; the others are, all the same.
    """

    async def act(consumers: Consumers) -> list[str]:
        wanted = await _wanted(consumers, positions, everything)
        return await _texts(consumers, await consumers.redeliver(project, name, wanted))

    _tell("redelivered", _run(act, config, data, log_url), positions)


@app.command()
def discard(
    name: NameArgument,
    positions: PositionsArgument = None,
    everything: AllOption = False,
    project: ProjectOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Give parked events up for good.

    Exits with 1 when one of those named is not parked; the others are, all the same.
    """

    async def act(consumers: Consumers) -> list[str]:
        wanted = await _wanted(consumers, positions, everything)
        return await _texts(consumers, await consumers.discard(project, name, wanted))

    _tell("discarded", _run(act, config, data, log_url), positions)


async def _wanted(
    consumers: Consumers, texts: list[str] | None, everything: bool
) -> list[int] | None:
    if bool(texts) == everything:
        raise SettingsError("POSITION: name positions of parked events, or --all of them")
    known = await consumers.feed.positions()
    return [known.decode(text) for text in texts] if texts else None


async def _texts(consumers: Consumers, positions: list[int]) -> list[str]:
    known = await consumers.feed.positions()
    return [known.encode(position) for position in positions]


def _tell(done: str, positions: list[str], wanted: list[str] | None) -> None:
    for position in positions:
        typer.echo(f"{done} {position}")
    missing = [text for text in wanted or () if text not in positions]
    for text in missing:
        typer.echo(f"{text} is not parked", err=True)
    if missing:
        raise typer.Exit(1)


def _print(told: dict[str, Any]) -> None:
    typer.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2))


def _run(
    work: Callable[[Consumers], Awaitable[Result]],
    config: Path | None,
    data: str | None,
    log_url: str | None,
) -> Result:
    """Runs work on the consumers of the configured log.

    Exits with 1 where there is no such consumer. Raises SettingsError for what makes no sense.
    """
    settings = load_settings(config, data=data, log__url=log_url)
    recorder = composition.ready_recorder(settings)

    async def go() -> Result:
        try:
            return await work(Consumers(recorder, Feed(recorder)))
        finally:
            await recorder.close()

    try:
        return asyncio.run(go())
    except NotFound as error:
        typer.echo(error.explanation, err=True)
        raise typer.Exit(1) from None
    except CalotypeError as error:
        raise SettingsError(error.explanation) from None
