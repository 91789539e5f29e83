"""`calotype replay`: goes through the log once more, for a sink, or by other rules."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from calotype.ops.cli.policy_replay import tried_policy, what_if
from calotype.ops.cli.terminal.invocation import Invocation, misused
from calotype.ops.cli.terminal.output import Output
from calotype.ops.cli.terminal.progress import bar
from calotype.ops.wiring.sinks import ends_of, sink_named
from calotype.projections.engine.positions import Positions, positions_now
from calotype.projections.sinks.contract import TryLater
from calotype.projections.sinks.resending import Resending, Resent
from calotype.stores.log.recorder import GroupCommitRecorder


def replay(
    invocation: Invocation,
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
    fail_if_any: Annotated[
        bool, typer.Option("--fail-if-any", help="With --policy: exit with 1 if any differs.")
    ] = False,
) -> None:
    """Go through the log, or a part of it, again.

    With --to a sink is told everything again under the same message ids, so that consumers can
    drop what they have. Where the sink itself is in the log does not change.

    With --policy or --property-protections every change is judged once more, by the rules in force
    and by these, and those that they decide otherwise are listed. Nothing changes.

    Serving may go on meanwhile.
    """
    settings = invocation.settings
    trying = policy is not None or property_protections is not None
    if trying == (to is not None):
        raise misused(
            "--to, --policy",
            "say either --to SINK, the name of a table [sinks.NAME], or --policy FILE (or "
            "--property-protections FILE)",
        )
    if trying and dry_run:
        raise misused("--dry-run", "belongs to --to; with --policy nothing changes anyway")
    if to is not None:
        if first is None:
            raise misused("--from", "say the position to begin with, as the feed gives it")
        sink_named(settings, to)
    with invocation.log() as recorder:
        positions = positions_now(recorder)
        end = recorder.max_notification_id() or 0
        start = 1 if first is None else max(positions.decode(first, "--from"), 1)
        stop = end if last is None else min(end, positions.decode(last, "--until"))
        if to is not None:
            failed = asyncio.run(_resend(invocation, recorder, to, start, stop, dry_run))
        else:
            then = tried_policy(settings, policy, property_protections)
            count = what_if(settings, recorder, then, (start, stop), invocation.out)
            failed = fail_if_any and count > 0
    raise typer.Exit(1 if failed else 0)


async def _resend(
    invocation: Invocation,
    recorder: GroupCommitRecorder,
    name: str,
    start: int,
    stop: int,
    dry_run: bool,
) -> bool:
    """Prints what became of it; whether something is left undone."""
    positions = positions_now(recorder)
    ends = ends_of(recorder, positions, name, sink_named(invocation.settings, name))
    resending = Resending(recorder, ends.encoder, None if dry_run else ends.broker)
    trouble = ""
    try:
        with bar("replaying", max(stop - start + 1, 0)) as advance:
            await resending.range(start, stop, advance)
    except TryLater as error:
        trouble = str(error)
    finally:
        await ends.broker.close()
        await recorder.close()
    _show(invocation.out, resending.done, positions, dry_run)
    if trouble:
        go_on = positions.encode(resending.done.last + 1)
        typer.echo(f"{name}: {trouble}\nContinue with --from {go_on}", err=True)
    return bool(trouble or resending.done.refused)


def _show(out: Output, done: Resent, positions: Positions, dry_run: bool) -> None:
    refused = {positions.encode(at): error for at, error in sorted(done.refused.items())}
    told = [{"type": kind, "messages": count} for kind, count in sorted(done.told.items())]
    out.rows(("type", "messages"), told)
    lines = [
        f"{position} {'would be ' * dry_run}refused: {why}" for position, why in refused.items()
    ]
    verb = "would be sent" if dry_run else "sent"
    lines.append(f"{done.told.total()} messages of {done.events} events {verb}")
    facts = {"dry_run": dry_run, "events": done.events, "refused": refused}
    out.summary("\n".join(lines), {**facts, "messages": done.told.total()})
