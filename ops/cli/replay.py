"""`calotype replay`: goes through the log once more, for a sink, or by other rules."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from calotype.commands.errors import Invalid
from calotype.ops.cli.options import ConfigOption, DataOption, LogUrlOption
from calotype.ops.cli.policy_replay import tried_policy, what_if
from calotype.ops.settings.settings import Settings, SettingsError, load_settings
from calotype.ops.wiring import composition
from calotype.ops.wiring.sinks import ends_of, sink_named
from calotype.projections.engine.positions import Positions, positions_now
from calotype.projections.sinks.contract import TryLater
from calotype.projections.sinks.resending import Resending
from calotype.stores.log.recorder import GroupCommitRecorder


def replay(
    to: Annotated[
        str | None, typer.Option("--to", metavar="SINK", help="Tell this sink again.")
    ] = None,
    first: Annotated[str | None, typer.Option("--from", help="First position.")] = None,
    last: Annotated[
        str | None, typer.Option("--until", help="Last position; the end of the log if not given.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --to: only count; connect to nothing.")
    ] = False,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Try this file in place of the policy's.")
    ] = None,
    property_protections: Annotated[
        Path | None, typer.Option("--property-protections", help="Try this file in place of that.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --policy: one JSON object a line.")
    ] = False,
    fail_if_any: Annotated[
        bool, typer.Option("--fail-if-any", help="With --policy: exit with 1 if any differs.")
    ] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Go through the log, or a part of it, again.

    With --to a sink is told everything again under the same message ids, so that consumers can
    drop what they have. Where the sink itself is in the log does not change.

    With --policy or --property-protections every change is judged once more, by the rules in force
    and by these, and those that they decide otherwise are listed. Nothing changes.

    Serving may go on meanwhile.
    """
    settings = load_settings(config, data=data, log__url=log_url)
    trying = policy is not None or property_protections is not None
    if trying == (to is not None):
        raise SettingsError(
            "replay: say either --to SINK, the name of a table [sinks.NAME], "
            "or --policy FILE (or --property-protections FILE)"
        )
    if trying and dry_run:
        raise SettingsError("--dry-run: belongs to --to; with --policy nothing changes anyway")
    if to is not None:
        if first is None:
            raise SettingsError("--from: say the position to begin with, as the feed gives it")
        sink_named(settings, to)
    recorder = composition.ready_recorder(settings)
    try:
        positions = positions_now(recorder)
        end = recorder.max_notification_id() or 0
        start = 1 if first is None else max(_decoded(positions, first, "--from"), 1)
        stop = end if last is None else min(end, _decoded(positions, last, "--until"))
        if to is not None:
            failed = asyncio.run(_resend(settings, recorder, to, start, stop, dry_run))
        else:
            then = tried_policy(settings, policy, property_protections)
            count = what_if(settings, recorder, then, (start, stop), as_json=as_json)
            failed = fail_if_any and count > 0
    finally:
        recorder.close_now()
    raise typer.Exit(1 if failed else 0)


async def _resend(
    settings: Settings,
    recorder: GroupCommitRecorder,
    name: str,
    start: int,
    stop: int,
    dry_run: bool,
) -> bool:
    """Tells what became of it; whether something is left undone."""
    positions = positions_now(recorder)
    ends = ends_of(recorder, positions, name, sink_named(settings, name))
    resending = Resending(recorder, ends.encoder, None if dry_run else ends.broker)
    console = Console(stderr=True)
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    trouble = ""
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=max(stop - start + 1, 0))
            await resending.range(start, stop, lambda count: progress.advance(task, count))
    except TryLater as error:
        trouble = str(error)
    finally:
        await ends.broker.close()
        await recorder.close()
    _show(resending, positions, dry_run)
    if trouble:
        go_on = positions.encode(resending.done.last + 1)
        typer.echo(f"{name}: {trouble}\nGo on with --from {go_on}", err=True)
    return bool(trouble or resending.done.refused)


def _show(resending: Resending, positions: Positions, dry_run: bool) -> None:
    done = resending.done
    table = Table("type", "messages")
    for kind, count in sorted(done.told.items()):
        table.add_row(kind, str(count))
    Console().print(table)
    for position, error in sorted(done.refused.items()):
        typer.echo(f"{positions.encode(position)} refused: {error}")
    verb = "would be sent" if dry_run else "sent"
    typer.echo(f"{done.told.total()} messages of {done.events} events {verb}")


def _decoded(positions: Positions, text: str, name: str) -> int:
    try:
        return positions.decode(text, name)
    except Invalid as error:
        raise SettingsError(f"{name}: {error.explanation}") from None
