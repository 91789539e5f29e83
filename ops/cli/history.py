"""`calotype history IMAGE`: who changed an image, when, and what it did, for people and scripts."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
import typer

from calotype.commands.errors import NotFound
from calotype.commands.images.image import image_uuid
from calotype.ops.cli.terminal.invocation import Invocation
from calotype.ops.cli.terminal.output import Document
from calotype.projections.engine.positions import positions_of
from calotype.projections.past.history import Change, history_of
from calotype.stores.log.recorder import GroupCommitRecorder

TITLES = ("time", "who", "what", "request", "change")
PAGE = 1000
LONGEST_VALUE = 40
"""Characters of a value that a table shows; all other formats have all."""
_UNREMARKABLE = ("/updated_at",)
"""What changes with every change, and so tells nothing."""
_BORN_WITH = ("name", "visibility", "owner")
"""What the table tells of a new image."""


def history(
    invocation: Invocation,
    image: Annotated[str, typer.Argument(help="The image's id; deleted images too.")],
    first: Annotated[str | None, typer.Option("--from", help="First position.")] = None,
    after: Annotated[str | None, typer.Option("--after", hidden=True)] = None,
) -> None:
    """Show who changed an image, when, by which request, and what it did.

    Exits with 1 when the log knows no such image.
    """

    async def read(recorder: GroupCommitRecorder) -> list[tuple[Change, Document]]:
        positions = await positions_of(recorder)
        start = 0
        if first is not None:
            start = positions.decode(first, "--from") - 1
        elif after is not None:
            start = positions.decode(after, "--after")
        found = [change async for change in _changes(recorder, image, start)]
        return [(change, change.shown(positions)) for change in found]

    longest = LONGEST_VALUE if invocation.out.is_table else None
    invocation.out.rows(
        TITLES,
        invocation.ask(read),
        lambda found: _cells(found[0], longest),
        lambda found: found[1],
    )


async def _changes(recorder: GroupCommitRecorder, image: str, start: int) -> AsyncIterator[Change]:
    more = True
    while more:
        found = await history_of(recorder, image_uuid(image), after=start, limit=PAGE)
        if found is None:
            raise NotFound(f"No image found with ID {image}")
        for change in found.changes:
            yield change
            start = change.position
        more = found.more


def _cells(change: Change, longest: int | None) -> list[object]:
    actor = change.actor
    who = actor["user"] or "?"
    if actor["project"]:
        who += f" of {actor['project']}"
    return [change.time, who, change.type, change.request_id, _in_words(change, longest)]


def _in_words(change: Change, longest: int | None) -> str:
    lines = [f"{name}: {value}" for name, value in change.details.items()]
    for operation in change.patch:
        path: str = operation["path"]
        value: Any = operation.get("value")
        name = path[1:].replace("~1", "/").replace("~0", "~")
        if path == "":
            told = {name: value[name] for name in _BORN_WITH}
            lines += [f"{name} = {orjson.dumps(given).decode()}" for name, given in told.items()]
        elif operation["op"] == "remove":
            lines.append(f"{name} removed")
        elif path not in _UNREMARKABLE:
            text = orjson.dumps(value).decode()
            short = text[: longest - 1] + "…" if longest and len(text) > longest else text
            lines.append(f"{name} = {short}")
    return "\n".join(lines)
