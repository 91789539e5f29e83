"""`calotype log`: look at the event log, write it to a file, and make a log from such a file."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from eventsourcing.persistence import Notification
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from calotype.commands.errors import Invalid
from calotype.ops.cli.options import ConfigOption, DataOption, LogUrlOption
from calotype.ops.jobs.log_export import FORMS, Export, row_of
from calotype.ops.jobs.log_import import Importer, ImportRefused
from calotype.ops.settings.settings import SettingsError, load_settings
from calotype.ops.wiring import composition
from calotype.projections.engine.positions import Positions, positions_now
from calotype.projections.feed.catalogue import asyncapi
from calotype.projections.feed.cloudevents import encoded_event
from calotype.projections.feed.feed import known_types
from calotype.stores.log.recorder import GroupCommitRecorder

app = typer.Typer(help="Read, export and import the event log.", no_args_is_help=True)

TypesOption = Annotated[
    list[str] | None, typer.Option("--type", help="Only this event type; may be repeated.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print CloudEvents, one a line.")]

_COLUMNS = "notification_id, originator_id, originator_version, topic, state, 'full'"
_LAST = f"SELECT {_COLUMNS} FROM stored_events %s ORDER BY notification_id DESC LIMIT :count"
_AT = f"SELECT {_COLUMNS} FROM stored_events WHERE notification_id = :position"


@app.command()
def tail(
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until stopped.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many.")] = 10,
    types: TypesOption = None,
    json: JsonOption = False,
) -> None:
    """Print the last events of the log, and with --follow what comes after them."""
    topics = _known_types(types)
    with _opened(config, data, log_url) as recorder:
        positions = positions_now(recorder)
        last = recorder.max_notification_id() or 0
        for row in _last_rows(recorder, lines, topics, last):
            _print(positions, row, json)
        if follow:
            _follow(recorder, positions, last, topics, json)


@app.command()
def show(
    position: Annotated[str, typer.Argument(help="Position of the event, as the feed gives it.")],
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Print one event whole, as a CloudEvent."""
    with _opened(config, data, log_url) as recorder:
        positions = positions_now(recorder)
        number = _decoded(positions, position, "POSITION")
        rows = recorder.fetch_now(_AT, {"position": number})
        if not rows:
            raise SettingsError(f"POSITION: the log has no event at {position}")
        event = orjson.loads(encoded_event(positions, rows[0]))
    typer.echo(orjson.dumps(event, option=orjson.OPT_INDENT_2).decode())


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to write; - is standard output.")],
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
    first: Annotated[str | None, typer.Option("--from", help="First position.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last position.")] = None,
    cloudevents: Annotated[
        bool, typer.Option("--cloudevents", help="A CloudEvents batch instead of NDJSON.")
    ] = False,
) -> None:
    """Write the log's events to a file: stored events as NDJSON, which `import` reads.

    The file appears when it is whole. Serving may go on meanwhile; what is appended after the
    start is not in the file.
    """
    with _opened(config, data, log_url) as recorder:
        positions = positions_now(recorder)
        end = recorder.max_notification_id() or 0
        start = 1 if first is None else _decoded(positions, first, "--from")
        stop = end if last is None else min(end, _decoded(positions, last, "--to"))
        form = FORMS["cloudevents" if cloudevents else "ndjson"]
        whole = Export(recorder, positions, max(start, 1), stop, form)
        with _progress("exporting", whole.count) as advance:
            try:
                whole.write(file, advance)
            except OSError as error:
                raise SettingsError(f"{file}: cannot be written: {error.strerror}") from None
    typer.echo(f"exported {whole.count} events", err=True)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="An NDJSON export.", exists=True, dir_okay=False)],
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an import of the same file.")
    ] = False,
    keep_identity: Annotated[
        bool,
        typer.Option(
            "--keep-identity",
            help="Positions of the old log stay valid here; for when the old log is retired.",
        ),
    ] = False,
) -> None:
    """Write an export into an empty log, at the same positions, with the tables that are read.

    The image data is not in the log: move or share the stores as well. Nothing may serve on this
    log meanwhile; tables that follow the log are made when serving starts.
    """
    with _opened(config, data, log_url, migrate=True) as recorder:
        importer = Importer(recorder, keep_identity=keep_identity)
        try:
            with _progress("importing", file.stat().st_size) as advance:
                count = importer.run(file, resume=resume, advance=advance)
        except ImportRefused as error:
            raise SettingsError(f"import: {error}") from None
    typer.echo(f"imported {count} events", err=True)


@app.command()
def catalogue() -> None:
    """Print the AsyncAPI document of the event feed."""
    typer.echo(orjson.dumps(asyncapi(), option=orjson.OPT_INDENT_2).decode())


@contextmanager
def _opened(
    config: Path | None, data: str | None, log_url: str | None, *, migrate: bool = False
) -> Iterator[GroupCommitRecorder]:
    """The recorder of an up-to-date log. Raises SettingsError for one that is not."""
    settings = load_settings(config, data=data, log__url=log_url)
    recorder = (
        composition.recorder_of(settings) if migrate else composition.ready_recorder(settings)
    )
    try:
        if migrate:
            composition.migrate(recorder)
        yield recorder
    finally:
        recorder.close_now()


@contextmanager
def _progress(what: str, total: int) -> Iterator[Any]:
    """A bar on a terminal; gives the function that moves it on."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda amount: progress.advance(task, amount)


def _known_types(types: list[str] | None) -> tuple[str, ...]:
    try:
        return known_types(types or (), "--type")
    except Invalid as error:
        raise SettingsError(f"--type: {error.explanation}") from None


def _decoded(positions: Positions, text: str, name: str) -> int:
    try:
        return positions.decode(text, name)
    except Invalid as error:
        raise SettingsError(f"{name}: {error.explanation}") from None


def _last_rows(
    recorder: GroupCommitRecorder, count: int, topics: Sequence[str], last: int
) -> list[tuple[Any, ...]]:
    names = {f"t{n}": topic for n, topic in enumerate(topics)}
    condition = "WHERE notification_id <= :last"
    if names:
        condition += f" AND topic IN ({', '.join(':' + name for name in names)})"
    rows = recorder.fetch_now(_LAST % condition, {"count": count, "last": last, **names})
    return rows[::-1]


def _follow(
    recorder: GroupCommitRecorder,
    positions: Positions,
    last: int,
    topics: Sequence[str],
    json: bool,
) -> None:
    with recorder.subscribe(gt=last, topics=topics) as subscription:
        try:
            for notification in subscription:
                assert isinstance(notification, Notification)
                _print(positions, row_of(notification), json)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


def _print(positions: Positions, row: tuple[Any, ...], json: bool) -> None:
    if json:
        typer.echo(encoded_event(positions, row).decode())
    else:
        state = orjson.loads(bytes(row[4]))
        actor = state.get("actor") or {}
        who = f"{actor.get('user') or '-'}@{actor.get('project') or '-'}"
        text = f"{positions.encode(row[0])}  {state['timestamp']}  {row[3]:<22} {row[1]}  {who}"
        # Names of users and projects come from outside: nothing of them may steer a terminal.
        typer.echo("".join(c if c.isprintable() else "?" for c in text))
    sys.stdout.flush()
