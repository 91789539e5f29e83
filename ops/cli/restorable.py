"""`calotype restorable|restore|purge`: what was deleted, had back or given up, from the shell.

For operators, who can read the database anyway: the policy is not asked for their permission, and
what they do is recorded under the name of their account on this machine.
"""

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar
from uuid import UUID

import orjson
import typer
from rich.filesize import decimal

from calotype.commands.context import CommandContext, cause_of, new_id
from calotype.commands.errors import CalotypeError
from calotype.commands.images import deletion
from calotype.commands.images.events import clock_text
from calotype.commands.images.image import image_uuid
from calotype.commands.policy.actor import Actor, Cause, with_implied
from calotype.commands.policy.policy import DEFAULT_POLICY
from calotype.ops.cli.terminal.invocation import DryRunOption, Invocation, misused
from calotype.ops.cli.terminal.output import Document, Output
from calotype.ops.wiring import composition
from calotype.projections.images.restorable import Row, Wanted, restorable_page
from calotype.projections.past.as_of import rfc3339
from calotype.stores.log.recorder import GroupCommitRecorder

PAGE = 500

ByOption = Annotated[str | None, typer.Option("--deleted-by", help="Deleted by this user.")]
OwnerOption = Annotated[str | None, typer.Option("--owner", help="Of this project.")]
FromOption = Annotated[
    str | None, typer.Option("--from", help="Deleted at this time (RFC 3339) or later.")
]
UntilOption = Annotated[
    str | None, typer.Option("--until", help="Deleted before this time (RFC 3339).")
]

Result = TypeVar("Result")
Act = Callable[[CommandContext, Actor, Cause, UUID], Awaitable[object]]


def restorable(
    invocation: Invocation,
    deleted_by: ByOption = None,
    owner: OwnerOption = None,
    since: FromOption = None,
    until: UntilOption = None,
) -> None:
    """List the deleted images that can be restored, the latest deletion first."""
    wanted = _wanted(deleted_by, owner, since, until)

    async def read(context: CommandContext) -> list[Row]:
        return await _all(context, wanted)

    titles = ("image", "name", "deleted", "by", "bytes", "restorable until")
    documents = (orjson.loads(row.document) for row in _commanded(invocation, read))
    invocation.out.rows(titles, documents, _cells)


def _cells(row: Document) -> list[object]:
    by = row["deleted_by"]
    who = f"{by['user']} of {by['project']}"
    size = decimal(row["held_bytes"])
    return [row["id"], row["name"], row["deleted_at"], who, size, row["retained_until"]]


def restore(
    invocation: Invocation,
    images: Annotated[
        list[str] | None, typer.Argument(help="Ids of deleted images.", show_default=False)
    ] = None,
    deleted_by: ByOption = None,
    owner: OwnerOption = None,
    since: FromOption = None,
    until: UntilOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Restore deleted images: these ids, or all that the options describe.

    Exits with 1 when one of them cannot be restored; the others are, all the same.
    """
    described = any((deleted_by, owner, since, until))
    if bool(images) == described:
        raise misused("IMAGES", "name images, or describe them by --deleted-by, --from, ...")
    wanted = _wanted(deleted_by, owner, since, until)

    async def run(context: CommandContext) -> int:
        ids = images or [str(row.id) for row in await _all(context, wanted)]
        if not dry_run:
            return await _each(invocation.out, context, ids, deletion.restore_image, "restored")
        for image_id in ids:
            invocation.out.say(f"would restore {image_id}", dry_run=True, image=image_id)
        return 0

    raise typer.Exit(_commanded(invocation, run))


def purge(
    invocation: Invocation,
    images: Annotated[list[str], typer.Argument(help="Ids of deleted images.")],
    reason: Annotated[str, typer.Option(help="Why, for the record; the image's owner sees it.")],
) -> None:
    """Give up what deleted images have kept, now and for good; a serving process removes the bytes.

    Exits with 1 when one of them cannot be purged; the others are, all the same.
    """

    async def one(context: CommandContext, actor: Actor, cause: Cause, image_id: UUID) -> None:
        await deletion.purge_image(context, actor, cause, image_id, reason)

    async def run(context: CommandContext) -> int:
        return await _each(invocation.out, context, images, one, "purged")

    raise typer.Exit(_commanded(invocation, run))


async def _each(out: Output, context: CommandContext, ids: list[str], act: Act, done: str) -> int:
    actor = Actor(f"cli:{getpass.getuser()}", None, with_implied({"admin"}), policy=DEFAULT_POLICY)
    failures = 0
    for image_id in ids:
        try:
            await act(context, actor, cause_of(actor, "req-" + new_id()), image_uuid(image_id))
            out.say(f"{done} {image_id}", result=done, image=image_id)
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
        deleted_before=_time("--until", until),
    )


def _time(option: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return clock_text(rfc3339(text))
    except ValueError:
        raise misused(option, "use an RFC 3339 time such as 2026-01-31T12:00:00Z") from None


def _commanded(
    invocation: Invocation, work: Callable[[CommandContext], Awaitable[Result]]
) -> Result:
    """What work does with what commands work with."""

    async def go(recorder: GroupCommitRecorder) -> Result:
        context = composition.parts_of(invocation.settings, recorder)
        try:
            return await work(context)
        finally:
            await context.quotas.close()
            for driver in context.stores.values():
                await asyncio.to_thread(driver.close)

    return invocation.ask(go)
