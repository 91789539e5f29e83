"""`calotype log`: look at the event log, write it to a file, and make a log from such a file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from eventsourcing.persistence import Notification

from calotype.commands.images.download import LOG_EVENT_TYPES
from calotype.ops.cli.terminal.invocation import Invocation, TypesOption, misused, noun, verb
from calotype.ops.cli.terminal.output import Document, Format
from calotype.ops.cli.terminal.progress import bar
from calotype.ops.jobs.log_export import FORMS, Export, row_of
from calotype.ops.jobs.log_import import Importer, ImportRefused
from calotype.ops.settings.settings import Settings, SettingsError
from calotype.ops.wiring import composition
from calotype.projections.engine.positions import positions_now
from calotype.projections.feed.catalogue import asyncapi
from calotype.projections.feed.cloudevents import encoded_event, topic_of
from calotype.projections.feed.feed import known_types
from calotype.stores.log.recorder import GroupCommitRecorder

app = noun("Read, export and import the event log.")

TITLES = ("position", "time", "type", "image", "who")
WIDTHS = (0, 0, max(map(len, LOG_EVENT_TYPES)), 0, 0)
_COLUMNS = "notification_id, originator_id, originator_version, topic, state, 'full'"
_LAST = f"SELECT {_COLUMNS} FROM stored_events %s ORDER BY notification_id DESC LIMIT :count"
_AT = f"SELECT {_COLUMNS} FROM stored_events WHERE notification_id = :position"


@verb(app)
def tail(
    invocation: Invocation,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until stopped.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many.")] = 10,
    types: TypesOption = None,
) -> None:
    """Print the last events of the log, and with --follow what comes after them."""
    topics = known_types(types or (), "--type")
    if follow and invocation.out.chosen is Format.TABLE:
        raise misused("--follow", "a table has an end; use another --output")
    with invocation.log() as recorder:
        positions = positions_now(recorder)

        def events() -> Iterator[Document]:
            last = recorder.max_notification_id() or 0
            rows = _last_rows(recorder, lines, topics, last)
            for row in chain(rows, _later_rows(recorder, last, topics) if follow else ()):
                yield orjson.loads(encoded_event(positions, row))

        with suppress(KeyboardInterrupt):
            invocation.out.rows(TITLES, events(), _cells, as_they_come=WIDTHS)


@verb(app)
def show(
    invocation: Invocation,
    position: Annotated[str, typer.Argument(help="Position of the event, as the feed gives it.")],
) -> None:
    """Print one event whole, as a CloudEvent."""
    with invocation.log() as recorder:
        positions = positions_now(recorder)
        number = positions.decode(position, "POSITION")
        rows = recorder.fetch_now(_AT, {"position": number})
        if not rows:
            raise misused("POSITION", f"the log has no event at {position}")
        invocation.out.document(orjson.loads(encoded_event(positions, rows[0])))


@verb(app, prints=False, formerly={"last": "--to"})
def export(
    invocation: Invocation,
    file: Annotated[Path, typer.Argument(help="Where to write; - is standard output.")],
    first: Annotated[str | None, typer.Option("--from", help="First position.")] = None,
    last: Annotated[str | None, typer.Option("--until", help="Last position.")] = None,
    cloudevents: Annotated[
        bool, typer.Option("--cloudevents", help="A CloudEvents batch instead of NDJSON.")
    ] = False,
) -> None:
    """Write the log's events to a file: stored events as NDJSON, which `import` reads.

    The file appears when it is whole. Serving may go on meanwhile; what is appended after the
    start is not in the file.
    """
    with invocation.log() as recorder:
        positions = positions_now(recorder)
        end = recorder.max_notification_id() or 0
        start = 1 if first is None else positions.decode(first, "--from")
        stop = end if last is None else min(end, positions.decode(last, "--until"))
        form = FORMS["cloudevents" if cloudevents else "ndjson"]
        whole = Export(recorder, positions, max(start, 1), stop, form)
        with bar("exporting", whole.count) as advance:
            try:
                whole.write(file, advance)
            except OSError as error:
                raise SettingsError(f"{file}: cannot be written: {error.strerror}") from None
    typer.echo(f"exported {whole.count} events", err=True)


@verb(app, "import", prints=False)
def import_(
    invocation: Invocation,
    file: Annotated[Path, typer.Argument(help="An NDJSON export.", exists=True, dir_okay=False)],
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
    with _new_log(invocation.settings) as recorder:
        importer = Importer(recorder, keep_identity=keep_identity)
        try:
            with bar("importing", file.stat().st_size) as advance:
                count = importer.run(file, resume=resume, advance=advance)
        except ImportRefused as error:
            raise SettingsError(f"import: {error}") from None
    typer.echo(f"imported {count} events", err=True)


@app.command()
def catalogue() -> None:
    """Print the AsyncAPI document of the event feed."""
    typer.echo(orjson.dumps(asyncapi(), option=orjson.OPT_INDENT_2).decode())


def _cells(event: Document) -> list[object]:
    actor = event["data"].get("actor") or {}
    who = f"{actor.get('user') or '-'}@{actor.get('project') or '-'}"
    return [event["id"], event["time"], topic_of(event["type"]), event["subject"], who]


@contextmanager
def _new_log(settings: Settings) -> Iterator[GroupCommitRecorder]:
    recorder = composition.recorder_of(settings)
    try:
        composition.migrate(recorder)
        yield recorder
    finally:
        recorder.close_now()


def _last_rows(
    recorder: GroupCommitRecorder, count: int, topics: Sequence[str], last: int
) -> list[tuple[Any, ...]]:
    names = {f"t{n}": topic for n, topic in enumerate(topics)}
    condition = "WHERE notification_id <= :last"
    if names:
        condition += f" AND topic IN ({', '.join(':' + name for name in names)})"
    rows = recorder.fetch_now(_LAST % condition, {"count": count, "last": last, **names})
    return rows[::-1]


def _later_rows(
    recorder: GroupCommitRecorder, last: int, topics: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    with recorder.subscribe(gt=last, topics=topics) as subscription:
        for notification in subscription:
            assert isinstance(notification, Notification)
            yield row_of(notification)
