"""`calotype sinks`: where each sink is, what keeps it from going on, and what it went past."""

import asyncio
from dataclasses import asdict
from operator import itemgetter
from typing import Annotated, Any

import typer

from calotype.ops.cli.terminal.invocation import (
    AllOption,
    Invocation,
    PositionsArgument,
    check_choice,
    fail,
    misused,
    noun,
    verb,
)
from calotype.ops.settings.sinks import SinkSettings
from calotype.ops.wiring.sinks import ends_of, sink_named
from calotype.projections.engine.positions import Positions, positions_now
from calotype.projections.sinks.contract import TryLater
from calotype.projections.sinks.parked import checkpoint_of, lease_of, parked_of, trouble_of
from calotype.projections.sinks.resending import Resending
from calotype.stores.log.recorder import GroupCommitRecorder

app = noun("Look after the sinks that the log is delivered to.")

NameArgument = Annotated[str, typer.Argument(metavar="SINK", help="As in [sinks.SINK].")]


@verb(app)
def status(invocation: Invocation) -> None:
    """List the sinks: how far each is, who serves it, and what it waits for."""
    titles = ("sink", "kind", "position", "behind", "parked", "served by", "trouble")

    async def look(recorder: GroupCommitRecorder) -> list[dict[str, Any]]:
        sinks = invocation.settings.sinks.items()
        return [await described(recorder, name, sink) for name, sink in sinks]

    invocation.out.rows(titles, invocation.ask(look), _cells)


def _cells(sink: dict[str, Any]) -> list[object]:
    trouble = sink["trouble"] and f"cannot go on since {sink['since']}: {sink['trouble']}"
    *facts, _, _ = sink.values()
    facts[2] = facts[2] or "not begun"
    facts[5] = ", ".join(sink["served_by"]) or "nobody now"
    return [*facts, trouble]


async def described(recorder: GroupCommitRecorder, name: str, sink: SinkSettings) -> dict[str, Any]:
    """How a sink is doing now."""
    reached = recorder.max_tracking_id(checkpoint_of(name))
    head = recorder.max_notification_id() or 0
    trouble, since = trouble_of(recorder, name)
    return {
        "sink": name,
        "kind": sink.kind,
        "position": None if reached is None else positions_now(recorder).encode(reached),
        "behind": None if reached is None else head - reached,
        "parked": len(parked_of(recorder, name)),
        "served_by": sorted(await recorder.live_leases(lease_of(name))),
        "trouble": trouble or None,
        "since": since or None,
    }


@verb(app)
def parked(invocation: Invocation, name: NameArgument) -> None:
    """List the events that the sink went past, because its broker rejects them permanently."""
    sink_named(invocation.settings, name)
    with invocation.log() as recorder:
        positions = positions_now(recorder)
        rows = [
            {**asdict(event), "position": positions.encode(event.position)}
            for event in parked_of(recorder, name)
        ]
    told = itemgetter("position", "parked_at", "topic", "error")
    invocation.out.rows(("position", "parked at", "type", "error"), rows, told)


@verb(app)
def redeliver(
    invocation: Invocation,
    name: NameArgument,
    positions: PositionsArgument = None,
    everything: AllOption = False,
) -> None:
    """Deliver parked events to the sink again, under the same message ids.

    Without positions, all that is parked. Later events of the same image were delivered before.
    Exits with 1 when some stay parked.
    """
    check_choice(positions, everything)
    sink = sink_named(invocation.settings, name)
    with invocation.log() as recorder:
        known = positions_now(recorder)
        chosen = _chosen(recorder, known, name, positions)
        ends = ends_of(recorder, known, name, sink)
        resending = Resending(recorder, ends.encoder, ends.broker)

        async def go() -> int:
            try:
                return sum([await resending.parked(name, position) for position in chosen])
            finally:
                await ends.broker.close()
                await recorder.close()

        try:
            taken = asyncio.run(go())
        except TryLater as error:
            fail(f"{name}: {error}")
    refused = {known.encode(at): why for at, why in sorted(resending.done.refused.items())}
    lines = [f"{position} stays parked: {why}" for position, why in refused.items()]
    lines.append(f"redelivered {taken} of {len(chosen)} events")
    invocation.out.say("\n".join(lines), redelivered=taken, refused=refused)
    raise typer.Exit(0 if taken == len(chosen) else 1)


def _chosen(
    recorder: GroupCommitRecorder, positions: Positions, name: str, only: list[str] | None
) -> list[int]:
    known = [event.position for event in parked_of(recorder, name)]
    if not only:
        return known
    wanted = [positions.decode(text, "POSITIONS") for text in only]
    for position in wanted:
        if position not in known:
            raise misused("POSITIONS", f"{positions.encode(position)} is not parked in {name}")
    return wanted
