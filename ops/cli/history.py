"""`calotype history IMAGE`: who changed an image, when, and what it did, for people and scripts."""

import asyncio
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from calotype.commands.errors import Invalid, NotFound
from calotype.commands.images.image import image_uuid
from calotype.ops.cli.options import ConfigOption, DataOption, LogUrlOption
from calotype.ops.settings.settings import SettingsError, load_settings
from calotype.ops.wiring import composition
from calotype.projections.engine.positions import positions_of
from calotype.projections.past.history import Change, history_of
from calotype.stores.log.recorder import GroupCommitRecorder

PAGE = 1000
LONGEST_VALUE = 40
"""Characters of a value that the table shows; `--json` has all."""
_UNREMARKABLE = ("/updated_at",)
"""What changes with every change, and so tells nothing."""
_BORN_WITH = ("name", "visibility", "owner")
"""What the table tells of a new image."""


def history(
    image: Annotated[str, typer.Argument(help="The image's id; deleted images too.")],
    after: Annotated[str | None, typer.Option(help="Only what came after this position.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, as the API gives it.")
    ] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Show who changed an image, when, by which request, and what it did.

    Exits with 1 when the log knows no such image.
    """
    settings = load_settings(config, data=data, log__url=log_url)
    recorder = composition.ready_recorder(settings)
    try:
        changes = asyncio.run(_read(recorder, image, after))
    except NotFound as error:
        typer.echo(error.explanation, err=True)
        raise typer.Exit(1) from None
    except Invalid as error:
        raise SettingsError(error.explanation) from None
    if as_json:
        for _, shown in changes:
            typer.echo(orjson.dumps(shown))
    else:
        Console().print(_table([change for change, _ in changes]))


async def _read(
    recorder: GroupCommitRecorder, image: str, after: str | None
) -> list[tuple[Change, dict[str, Any]]]:
    try:
        positions = await positions_of(recorder)
        start = positions.decode(after, "--after") if after is not None else 0
        read: list[tuple[Change, dict[str, Any]]] = []
        while True:
            found = await history_of(recorder, image_uuid(image), after=start, limit=PAGE)
            if found is None:
                raise NotFound(f"No image found with ID {image}")
            read += [(change, change.shown(positions)) for change in found.changes]
            if not found.more:
                return read
            start = found.changes[-1].position
    finally:
        await recorder.close()


def _table(changes: list[Change]) -> Table:
    table = Table()
    for name in ("time", "who", "what", "request", "change"):
        # Folded and not cut: a request's id is only worth something whole.
        table.add_column(name, overflow="fold", no_wrap=name == "time")
    for change in changes:
        actor = change.actor
        who = actor["user"] or "?"
        if actor["project"]:
            who += f" of {actor['project']}"
        # As Text, because names from outside may look like markup.
        cells = [change.time, who, change.type, change.request_id, _in_words(change)]
        table.add_row(*[Text(cell, overflow="fold") for cell in cells])
    return table


def _in_words(change: Change) -> str:
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
            short = text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
            lines.append(f"{name} = {short}")
    return "\n".join(lines)
