"""`calotype restorable|restore|purge`: what was deleted, had back or given up, from the shell.

For operators, who can read the database anyway: the policy is not asked for their permission, and
what they do is recorded under the name of their account on this machine.
"""

import asyncio
import getpass
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import orjson
import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from calotype.commands.context import CommandContext, cause_of, new_id
from calotype.commands.errors import CalotypeError
from calotype.commands.images import deletion
from calotype.commands.images.events import clock_text
from calotype.commands.images.image import image_uuid
from calotype.commands.policy.actor import Actor, Cause, with_implied
from calotype.ops.cli.options import ConfigOption, DataOption, LogUrlOption
from calotype.ops.settings.settings import SettingsError, load_settings
from calotype.ops.wiring import composition
from calotype.projections.images.restorable import Row, Wanted, restorable_page
from calotype.projections.past.as_of import rfc3339

PAGE = 500

ByOption = Annotated[str | None, typer.Option("--deleted-by", help="Deleted by this user.")]
OwnerOption = Annotated[str | None, typer.Option("--owner", help="Of this project.")]
FromOption = Annotated[
    str | None, typer.Option("--from", help="Deleted at this time (RFC 3339) or later.")
]
ToOption = Annotated[str | None, typer.Option("--to", help="Deleted before this time (RFC 3339).")]

Act = Callable[[CommandContext, Actor, Cause, UUID], Awaitable[object]]


def restorable(
    deleted_by: ByOption = None,
    owner: OwnerOption = None,
    since: FromOption = None,
    until: ToOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """List the deleted images that can be restored, the latest deletion first."""
    wanted = _wanted(deleted_by, owner, since, until)

    async def read() -> list[Row]:
        async with _parts(config, data, log_url) as context:
            return await _all(context, wanted)

    rows = asyncio.run(read())
    if as_json:
        for row in rows:
            typer.echo(row.document)
        return
    table = Table("image", "name", "deleted", "by", "bytes", "restorable until")
    for row in rows:
        told = orjson.loads(row.document)
        by = told["deleted_by"]
        # As Text, because names from outside may look like markup.
        cells = [
            told["id"],
            told["name"] or "",
            told["deleted_at"],
            f"{by['user']} of {by['project']}",
            decimal(told["held_bytes"]),
            told["retained_until"],
        ]
        table.add_row(*[Text(cell, overflow="fold") for cell in cells])
    Console().print(table)


def restore(
    images: Annotated[
        list[str] | None, typer.Argument(help="Ids of deleted images.", show_default=False)
    ] = None,
    deleted_by: ByOption = None,
    owner: OwnerOption = None,
    since: FromOption = None,
    until: ToOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell; change nothing.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Restore deleted images: these ids, or all that the options describe.

    Exits with 1 when one of them cannot be restored; the others are, all the same.
    """
    described = any((deleted_by, owner, since, until))
    if bool(images) == described:
        raise SettingsError("IMAGE: name images, or describe them by --deleted-by, --from, ...")
    wanted = _wanted(deleted_by, owner, since, until)

    async def run() -> int:
        async with _parts(config, data, log_url) as context:
            ids = images or [str(row.id) for row in await _all(context, wanted)]
            if dry_run:
                for image_id in ids:
                    typer.echo(f"would restore {image_id}")
                return 0
            return await _each(context, ids, deletion.restore_image, "restored")

    raise typer.Exit(asyncio.run(run()))


def purge(
    images: Annotated[list[str], typer.Argument(help="Ids of deleted images.")],
    reason: Annotated[str, typer.Option(help="Why, for the record; the image's owner sees it.")],
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Give up what deleted images have kept, now and for good; a serving process removes the bytes.

    Exits with 1 when one of them cannot be purged; the others are, all the same.
    """

    async def one(context: CommandContext, actor: Actor, cause: Cause, image_id: UUID) -> None:
        await deletion.purge_image(context, actor, cause, image_id, reason)

    async def run() -> int:
        async with _parts(config, data, log_url) as context:
            return await _each(context, images, one, "purged")

    raise typer.Exit(asyncio.run(run()))


async def _each(context: CommandContext, ids: list[str], act: Act, done: str) -> int:
    actor = Actor(f"cli:{getpass.getuser()}", None, with_implied({"admin"}))
    failures = 0
    for image_id in ids:
        try:
            await act(context, actor, cause_of(actor, "req-" + new_id()), image_uuid(image_id))
            typer.echo(f"{done} {image_id}")
        except CalotypeError as error:
            failures += 1
            typer.echo(f"{image_id}: {error.explanation}", err=True)
    return 1 if failures else 0


async def _all(context: CommandContext, wanted: Wanted) -> list[Row]:
    rows: list[Row] = []
    while True:
        after = (rows[-1].deleted_at, rows[-1].id) if rows else None
        page = await restorable_page(context.log.recorder, wanted, after, PAGE)
        rows += page
        if len(page) < PAGE:
            return rows


def _wanted(
    deleted_by: str | None, owner: str | None, since: str | None, until: str | None
) -> Wanted:
    return Wanted(
        now=clock_text(datetime.now(UTC)),
        owner=owner,
        deleted_by=deleted_by,
        deleted_after=_time("--from", since),
        deleted_before=_time("--to", until),
    )


def _time(option: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return clock_text(rfc3339(text))
    except ValueError:
        raise SettingsError(
            f"{option}: use an RFC 3339 time such as 2026-01-31T12:00:00Z"
        ) from None


@asynccontextmanager
async def _parts(
    config: Path | None, data: str | None, log_url: str | None
) -> AsyncIterator[CommandContext]:
    settings = load_settings(config, data=data, log__url=log_url)
    recorder = composition.ready_recorder(settings)
    try:
        context = composition.parts_of(settings, recorder)
        try:
            yield context
        finally:
            await context.quotas.close()
            for driver in context.stores.values():
                await asyncio.to_thread(driver.close)
    finally:
        await recorder.close()
