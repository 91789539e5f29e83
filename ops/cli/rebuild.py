"""`calotype projections rebuild` and `switch`: tables made again from the log, while serving."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from calotype.ops.cli.terminal.invocation import Invocation, fail, misused
from calotype.ops.cli.terminal.output import Output
from calotype.ops.cli.terminal.progress import ProgressReporter
from calotype.projections.engine.leadership import LeaseTaken
from calotype.projections.engine.positions import Positions, positions_now
from calotype.projections.rebuild.build import BuildFailed
from calotype.projections.rebuild.compare import Comparison
from calotype.projections.rebuild.rebuild import NothingBuilt, count_again, spare_of
from calotype.projections.rebuild.rebuild import look as run_look
from calotype.projections.rebuild.rebuild import rebuild as run_rebuild
from calotype.projections.rebuild.rebuild import switch as run_switch
from calotype.projections.rebuild.registry import PROJECTIONS, Projection
from calotype.stores.log.errors import Fenced
from calotype.stores.log.table_sets import SwitchRefused

NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(help=f"Of {', '.join(known.name for known in PROJECTIONS)}; none: all."),
]


def rebuild(
    invocation: Invocation,
    names: NamesArgument = None,
    no_switch: Annotated[
        bool, typer.Option("--no-switch", help="Leave the new tables for `switch` to use.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many processes fold events; else one a core.")
    ] = None,
) -> None:
    """Make tables again from the log, compare them with those in use, and put them in their place.

    While serving, without a failed request. Tells how many rows were not as the log says. Can be
    killed at any moment: tables in use change only in one step at the end, and the next rebuild
    removes what is left over. `usage` is small, and counted again in one step.
    """
    chosen = chosen_projections(names)
    settings = invocation.settings
    with invocation.log() as recorder:
        for known in chosen:
            with _refusals(known), ProgressReporter(known.name) as progress:
                if known.sums is not None:
                    comparison = count_again(recorder, known, progress)
                    built = position = None
                else:
                    built = run_rebuild(
                        recorder,
                        # The processes that build know no setting but this.
                        settings.log.listen_url or settings.log_url(),
                        known,
                        progress,
                        processes=processes or os.cpu_count() or 1,
                    ).position
                    comparison = run_look(recorder, known, progress)
                    position = None if no_switch else run_switch(recorder, known, progress)
            positions = positions_now(recorder)
            _report(invocation.out, positions, known, comparison, built, position, progress)


def switch(invocation: Invocation, names: NamesArgument = None) -> None:
    """Put tables that `rebuild --no-switch` made in the place of those in use.

    They catch up with the log first. Without a name, all that are built. Exits with 1 when nothing
    is built.
    """
    chosen = chosen_projections(names)
    with invocation.log() as recorder:
        if not names:
            chosen = [known for known in chosen if spare_of(recorder.fetch_now, known)]
            if not chosen:
                fail("nothing is built: run `calotype projections rebuild`")
        for known in chosen:
            with _refusals(known), ProgressReporter(known.name) as progress:
                comparison = run_look(recorder, known, progress)
                position = run_switch(recorder, known, progress)
            positions = positions_now(recorder)
            _report(invocation.out, positions, known, comparison, None, position, progress)


def chosen_projections(names: list[str] | None) -> list[Projection]:
    """The projections of these names, or all. Raises BadParameter for another name."""
    by_name = {known.name: known for known in PROJECTIONS}
    for name in names or ():
        if name not in by_name:
            raise misused("NAMES", f"there is no projection '{name}'; use {', '.join(by_name)}")
    return [by_name[name] for name in names] if names else list(PROJECTIONS)


@contextmanager
def _refusals(known: Projection) -> Iterator[None]:
    try:
        yield
    except (LeaseTaken, NothingBuilt, SwitchRefused, BuildFailed, Fenced) as error:
        fail(f"{known.name}: {error}; the tables in use are as they were")


def _report(
    out: Output,
    positions: Positions,
    known: Projection,
    comparison: Comparison,
    built_at: int | None,
    position: int | None,
    progress: ProgressReporter,
) -> None:
    name = known.name
    switched_at = None if position is None else positions.encode(position)
    lines = [
        f"{table.table}: {table.different} rows differed, {table.missing} were missing, "
        f"{table.not_in_the_log} were not in the log"
        for table in comparison
        if not table.equal
    ]
    lines = lines or [f"{name}: the tables in use were as the log says"]
    if built_at is not None:
        lines.append(f"{name}: {_rate(built_at, sum(progress.seconds.values()))}")
    if known.sums is not None:
        lines.append(f"{name}: counted again")
    elif position is None:
        lines.append(f"{name}: built; `calotype projections switch {name}` puts it in use")
    else:
        lines.append(f"{name}: switched at position {switched_at}")
    out.say(
        "\n".join(lines),
        projection=name,
        tables=[asdict(table) for table in comparison],
        built_at=None if built_at is None else positions.encode(built_at),
        switched_at=switched_at,
        seconds={phase: round(spent, 3) for phase, spent in progress.seconds.items()},
    )


def _rate(events: int, seconds: float) -> str:
    rate = f"{events / seconds:,.0f}".replace(",", " ") if seconds else "0"
    return f"{events} events in {seconds:.1f} s, {rate} a second"
