"""`calotype consumers`: named consumers of the feed, looked at and repaired from the shell.

For operators, who can read the database anyway: the policy is not asked. Works beside serving
processes, and without any.
"""

import getpass
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer

from calotype.ops.cli.terminal.invocation import (
    AllOption,
    Invocation,
    PositionsArgument,
    TypesOption,
    check_choice,
    noun,
    verb,
)
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

app = noun("Named consumers of the event feed.")

PAGE = 500

NameArgument = Annotated[str, typer.Argument(help="The consumer's name.", show_default=False)]
ProjectOption = Annotated[
    str | None,
    typer.Option("--project", help="Whose feed it reads; not given: the feed of operators."),
]

Result = TypeVar("Result")


@verb(app, "list")
def list_consumers(invocation: Invocation) -> None:
    """List all consumers, those of the service itself too, with how far each is."""

    async def read(consumers: Consumers) -> list[dict[str, Any]]:
        return [await described_now(consumers, one) for one in await consumers.all()]

    titles = ("project", "name", "lag", "claimed", "parked", "oldest claim", "members")
    invocation.out.rows(titles, _run(invocation, read), _cells)


def _cells(one: dict[str, Any]) -> list[object]:
    age = one["oldest_claim_seconds"]
    return [
        one["project"] or "(all)",
        one["name"],
        f"{one['lag']['events']}{'+' if one['lag']['more'] else ''}",
        one["claimed"],
        f"{one['parked']}{' (stopped)' if one['stopped'] else ''}",
        None if age is None else f"{age:.0f} s",
        ", ".join(member["member"] for member in one["members"]),
    ]


@verb(app)
def show(invocation: Invocation, name: NameArgument, project: ProjectOption = None) -> None:
    """Show what a consumer wants, how far it is, and who works for it."""

    async def read(consumers: Consumers) -> dict[str, Any]:
        return await described_now(consumers, await consumers.get(project, name))

    invocation.out.document(_run(invocation, read))


@verb(app)
def create(
    invocation: Invocation,
    name: NameArgument,
    project: ProjectOption = None,
    types: TypesOption = None,
    image: Annotated[str | None, typer.Option(help="Only events of this image.")] = None,
    on_parked: Annotated[
        str, typer.Option(help="continue or hold: what an image does after a parked event.")
    ] = "continue",
    max_attempts: Annotated[int, typer.Option(help="An event that failed so often is parked.")] = 5,
    start: Annotated[
        str, typer.Option(help="beginning, end, or the position to go on after.")
    ] = BEGINNING,
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

    invocation.out.document(_run(invocation, make))


@verb(app)
def delete(
    invocation: Invocation,
    name: NameArgument,
    project: ProjectOption = None,
) -> None:
    """Delete a consumer, its place and its parked events."""
    _run(invocation, lambda consumers: consumers.delete(project, name))
    invocation.out.say(f"deleted {name}", deleted=name)


@verb(app)
def seek(
    invocation: Invocation,
    name: NameArgument,
    position: Annotated[str, typer.Argument(help="A position, 'beginning' or 'end'.")],
    project: ProjectOption = None,
) -> None:
    """Let a consumer go on after a position; what is claimed is handed out again from there."""

    async def move(consumers: Consumers) -> dict[str, Any]:
        target = await checked_position(consumers.feed, position, "position")
        return await described_now(consumers, await consumers.seek(project, name, target))

    invocation.out.document(_run(invocation, move))


@verb(app)
def parked(
    invocation: Invocation,
    name: NameArgument,
    project: ProjectOption = None,
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

    titles = ("position", "type", "image", "attempts", "parked at", "error")
    invocation.out.rows(titles, _run(invocation, read), _parked_cells)


def _parked_cells(row: dict[str, Any]) -> list[object]:
    kind = topic_of(row["event"]["type"]) if row["event"] else None
    told = [row[key] for key in ("position", "image", "attempts", "parked_at", "error")]
    return [told[0], kind, *told[1:]]


@verb(app)
def redeliver(
    invocation: Invocation,
    name: NameArgument,
    positions: PositionsArgument = None,
    everything: AllOption = False,
    project: ProjectOption = None,
) -> None:
    """Hand parked events out again, with all their attempts.

    Exits with 1 when one of those named is not parked; the others are, all the same.
    """
    _settle(invocation, Consumers.redeliver, "redelivered", (project, name), positions, everything)


@verb(app)
def discard(
    invocation: Invocation,
    name: NameArgument,
    positions: PositionsArgument = None,
    everything: AllOption = False,
    project: ProjectOption = None,
) -> None:
    """Give parked events up for good.

    Exits with 1 when one of those named is not parked; the others are, all the same.
    """
    _settle(invocation, Consumers.discard, "discarded", (project, name), positions, everything)


def _settle(
    invocation: Invocation,
    act: Callable[[Consumers, str | None, str, list[int] | None], Awaitable[list[int]]],
    done: str,
    consumer: tuple[str | None, str],
    named: list[str] | None,
    everything: bool,
) -> None:
    check_choice(named, everything, needed=True)

    async def settle(consumers: Consumers) -> list[str]:
        known = await consumers.feed.positions()
        wanted = [known.decode(text) for text in named] if named else None
        return [known.encode(position) for position in await act(consumers, *consumer, wanted)]

    settled = _run(invocation, settle)
    for position in settled:
        invocation.out.say(f"{done} {position}", result=done, position=position)
    missing = [text for text in named or () if text not in settled]
    for text in missing:
        typer.echo(f"{text} is not parked", err=True)
    if missing:
        raise typer.Exit(1)


def _run(invocation: Invocation, work: Callable[[Consumers], Awaitable[Result]]) -> Result:
    """What work makes of the consumers of the configured log."""
    return invocation.ask(lambda recorder: work(Consumers(recorder, Feed(recorder))))
