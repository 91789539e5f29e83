"""`calotype projections`: what is made of the log, how far it is, and whether it is right."""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import typer

from calotype.ops.cli.rebuild import NamesArgument, chosen_projections, rebuild, switch
from calotype.ops.cli.terminal.invocation import Invocation, noun, verb
from calotype.ops.cli.terminal.progress import ProgressReporter
from calotype.projections.engine.positions import positions_now
from calotype.projections.rebuild.difference import Difference
from calotype.projections.rebuild.rebuild import spare_of
from calotype.projections.rebuild.registry import PROJECTIONS, Projection, reached
from calotype.projections.rebuild.verify import differences
from calotype.stores.log.recorder import GroupCommitRecorder

SHOWN = 20
"""Differences that are printed one by one."""

app = noun("Look at the tables that are made of the log.")

verb(app)(rebuild)
verb(app)(switch)


@verb(app, "list")
def list_projections(invocation: Invocation) -> None:
    """List the projections: what they are for, their tables and sizes, and how far they are."""
    with invocation.log() as recorder:
        facts = [_facts(recorder, known) for known in PROJECTIONS]
    titles = ("projection", "what for", "table", "rows", "MB", "position")
    invocation.out.rows(titles, facts, _listed)


def _listed(fact: dict[str, Any]) -> list[object]:
    parts, built = fact["tables"], fact["built"]
    waiting = "" if built is None else f"\nbuilt, not in use: {built['position']}"
    return [
        fact["projection"],
        fact["purpose"],
        "\n".join(part["table"] for part in parts),
        "\n".join(str(part["rows"]) for part in parts),
        "\n".join(_megabytes(part["bytes"]) for part in parts),
        fact["position"] + waiting,
    ]


def _facts(recorder: GroupCommitRecorder, known: Projection) -> dict[str, Any]:
    positions = positions_now(recorder)
    with recorder.snapshot(known.tables) as fetch:
        spare = spare_of(fetch, known)
        built = None
        if spare is not None:
            built = {**asdict(spare), "position": positions.encode(spare.position)}
        return {
            "projection": known.name,
            "purpose": known.purpose,
            "kept_by": known.follower or "every append",
            "position": positions.encode(reached(fetch, known)),
            "built": built,
            "tables": [
                {
                    "table": part.name,
                    "rows": fetch(f"SELECT count(*) FROM {part.name}")[0][0],
                    "bytes": recorder.table_bytes(part),
                }
                for part in known.tables
            ],
        }


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f}"


@verb(app)
def status(invocation: Invocation) -> None:
    """List the projections: their tables and rows, how far they are, and who keeps them so."""
    titles = ("projection", "table", "rows", "position", "behind", "kept by")
    with invocation.log() as recorder:
        rows = [row for known in PROJECTIONS for row in _statuses(recorder, known)]
    invocation.out.rows(titles, rows)


def _statuses(recorder: GroupCommitRecorder, known: Projection) -> Iterator[dict[str, Any]]:
    keeper = "every append"
    if known.follower:
        leaders = asyncio.run(recorder.live_leases(f"follower:{known.follower}"))
        keeper = ", ".join(sorted(leaders)) or "nobody now"
    positions = positions_now(recorder)
    with recorder.snapshot() as fetch:
        position = reached(fetch, known)
        behind = (fetch("SELECT max(notification_id) FROM stored_events")[0][0] or 0) - position
        for part in known.tables:
            yield {
                "projection": known.name,
                "table": part.name,
                "rows": fetch(f"SELECT count(*) FROM {part.name}")[0][0],
                "position": positions.encode(position),
                "behind": behind,
                "kept_by": keeper,
            }


@verb(app)
def verify(invocation: Invocation, names: NamesArgument = None) -> None:
    """Compare the tables, row by row, with what the log says they should hold.

    While serving, too: every look is at one moment of the database. Exits with 1 when a row is
    not as it should be, naming the table and the key.
    """
    chosen = chosen_projections(names)
    with invocation.log() as recorder:
        found = {known.name: _verify(recorder, known) for known in chosen}
    for name, wrong in found.items():
        lines = [
            f"{difference.table} {difference.key}: {difference.what}"
            for difference in wrong[:SHOWN]
        ]
        if len(wrong) > SHOWN:
            lines.append(f"... and {len(wrong) - SHOWN} more rows of {name}")
        lines.append(f"{name}: {'DOES NOT FIT the log' if wrong else 'fits the log'}")
        facts = [{**asdict(difference), "key": str(difference.key)} for difference in wrong]
        invocation.out.say("\n".join(lines), projection=name, fits=not wrong, differences=facts)
    raise typer.Exit(1 if any(found.values()) else 0)


def _verify(recorder: GroupCommitRecorder, known: Projection) -> list[Difference]:
    with ProgressReporter(known.name) as progress:
        progress.phase("events", recorder.max_notification_id() or 0)
        return list(differences(recorder, known, progress.advance))
