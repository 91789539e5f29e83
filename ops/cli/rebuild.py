"""`calotype projections rebuild` and `switch`: tables made again from the log, while serving."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import orjson
import typer

from calotype.ops.cli.options import ConfigOption, DataOption, LogUrlOption
from calotype.ops.cli.progress import ProgressReporter
from calotype.ops.settings.settings import SettingsError, load_settings
from calotype.ops.wiring import composition
from calotype.projections.engine.leadership import LeaseTaken
from calotype.projections.engine.positions import positions_now
from calotype.projections.rebuild.build import BuildFailed
from calotype.projections.rebuild.compare import Comparison
from calotype.projections.rebuild.rebuild import NothingBuilt, count_again, spare_of
from calotype.projections.rebuild.rebuild import look as run_look
from calotype.projections.rebuild.rebuild import rebuild as run_rebuild
from calotype.projections.rebuild.rebuild import switch as run_switch
from calotype.projections.rebuild.registry import PROJECTIONS, Projection
from calotype.stores.log.errors import Fenced
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.table_sets import SwitchRefused

NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(help=f"Of {', '.join(known.name for known in PROJECTIONS)}; none: all."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def rebuild(
    names: NamesArgument = None,
    no_switch: Annotated[
        bool, typer.Option("--no-switch", help="Leave the new tables for `switch` to use.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many processes fold events; else one a core.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Make tables again from the log, compare them with those in use, and put them in their place.

    While serving, without a failed request. Tells how many rows were not as the log says. Can be
    killed at any moment: tables in use change only in one step at the end, and the next rebuild
    removes what is left over. `usage` is small, and counted again in one step.
    """
    chosen = chosen_prints(names)
    settings = load_settings(config, data=data, log__url=log_url)
    recorder = composition.ready_recorder(settings)
    try:
        for known in chosen:
            with _one_line_for_trouble(known), ProgressReporter(known.name) as told:
                if known.sums is not None:
                    comparison = count_again(recorder, known, told)
                    built = position = None
                else:
                    built = run_rebuild(
                        recorder,
                        # The processes that build know no setting but this.
                        settings.log.listen_url or settings.log_url(),
                        known,
                        told,
                        processes=processes or os.cpu_count() or 1,
                    ).position
                    comparison = run_look(recorder, known, told)
                    position = None if no_switch else run_switch(recorder, known, told)
            _report(recorder, known, comparison, built, position, told, as_json)
    finally:
        recorder.close_now()


def switch(
    names: NamesArgument = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Put tables that `rebuild --no-switch` made in the place of those in use.

    They catch up with the log first. Without a name, all that are built. Exits with 1 when nothing
    is built.
    """
    chosen = chosen_prints(names)
    recorder = composition.ready_recorder(load_settings(config, data=data, log__url=log_url))
    try:
        if not names:
            chosen = [known for known in chosen if spare_of(recorder.fetch_now, known)]
            if not chosen:
                typer.echo("nothing is built: run `calotype projections rebuild`", err=True)
                raise typer.Exit(1)
        for known in chosen:
            with _one_line_for_trouble(known), ProgressReporter(known.name) as told:
                comparison = run_look(recorder, known, told)
                position = run_switch(recorder, known, told)
            _report(recorder, known, comparison, None, position, told, as_json)
    finally:
        recorder.close_now()


def chosen_prints(names: list[str] | None) -> list[Projection]:
    """The projections of these names, or all. Raises SettingsError for a name that there is not."""
    by_name = {known.name: known for known in PROJECTIONS}
    for name in names or ():
        if name not in by_name:
            raise SettingsError(f"NAME: there is no projection '{name}'; use {', '.join(by_name)}")
    return [by_name[name] for name in names] if names else list(PROJECTIONS)


@contextmanager
def _one_line_for_trouble(known: Projection) -> Iterator[None]:
    try:
        yield
    except (LeaseTaken, NothingBuilt, SwitchRefused, BuildFailed, Fenced) as error:
        typer.echo(f"{known.name}: {error}; the tables in use are as they were", err=True)
        raise typer.Exit(1) from None


def _report(
    recorder: GroupCommitRecorder,
    known: Projection,
    comparison: Comparison,
    built_at: int | None,
    position: int | None,
    told: ProgressReporter,
    as_json: bool,
) -> None:
    positions = positions_now(recorder)
    seconds = {name: round(spent, 3) for name, spent in told.seconds.items()}
    if as_json:
        report: dict[str, Any] = {
            "projection": known.name,
            "tables": [asdict(table) for table in comparison],
            "built_at": None if built_at is None else positions.encode(built_at),
            "switched_at": None if position is None else positions.encode(position),
            "seconds": seconds,
        }
        typer.echo(orjson.dumps(report))
        return
    for table in comparison:
        if not table.equal:
            typer.echo(
                f"{table.table}: {table.different} rows differed, {table.missing} were missing, "
                f"{table.not_in_the_log} were not in the log"
            )
    if all(table.equal for table in comparison):
        typer.echo(f"{known.name}: the tables in use were as the log says")
    if built_at is not None:
        typer.echo(f"{known.name}: {_rate(built_at, sum(seconds.values()))}")
    if known.sums is not None:
        typer.echo(f"{known.name}: counted again")
    elif position is None:
        typer.echo(
            f"{known.name}: built; `calotype projections switch {known.name}` puts it in use"
        )
    else:
        typer.echo(f"{known.name}: switched at position {positions.encode(position)}")


def _rate(events: int, seconds: float) -> str:
    rate = f"{events / seconds:,.0f}".replace(",", " ") if seconds else "0"
    return f"{events} events in {seconds:.1f} s, {rate} a second"
