"""Prints compared with the negative: the rows that the log gives, against the rows that are there.

Chunk by chunk of images, each chunk in one snapshot of the database, in which events and rows fit
together however much is written meanwhile. The folds are the very ones that write the tables.
Nothing is written, and no more than a chunk is held in memory.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eventsourcing.persistence import Notification

from calotype.commands.image import EVENT_TYPES
from calotype.commands.usage import USAGE
from calotype.projections import audience, spans
from calotype.projections.audience import EVENT_AUDIENCE, EventAudience
from calotype.projections.images import rows_of
from calotype.projections.spans import (
    MOMENTS,
    SPAN_TABLES,
    ImageSpans,
    moment_after,
    stored_of,
    timestamp_in,
)
from calotype.projections.tables import TABLES
from calotype.projections.usage import counters_and_totals
from calotype.stores.log.log import event_mapper
from calotype.stores.log.recorder import Fetch, GroupCommitRecorder
from calotype.stores.log.tables import Put, Table, key_getter

CHUNK_IMAGES = 200
CHUNK_MOMENTS = 5000
DIFFERENCES = 1000
"""After so many differences a comparison ends: what is wrong is everything."""

Row = tuple[Any, ...]
Rows = dict[Table, list[Row]]
Fold = Callable[[GroupCommitRecorder, Sequence[Notification]], Rows]
Progress = Callable[[int], None]

_REACHED = "SELECT max(notification_id) FROM stored_events"
_TRACKED = "SELECT notification_id FROM tracking WHERE application_name = :name"
_LAST_OF_CHUNK = (
    "SELECT DISTINCT originator_id FROM stored_events WHERE originator_id >= :first "
    "ORDER BY originator_id LIMIT 1 OFFSET :others"
)
_EVENTS = (
    "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events "
    "WHERE originator_id >= :first AND originator_id <= :last AND notification_id <= :until "
    "ORDER BY notification_id"
)
_PAGE = (
    "SELECT notification_id, topic, state FROM stored_events "
    "WHERE notification_id > :after AND notification_id <= :until ORDER BY notification_id "
    f"LIMIT {CHUNK_MOMENTS}"
)
_HIGHEST = 2**128 - 1


@dataclass(frozen=True, slots=True)
class Print:
    """A set of tables that is made of the log by one fold."""

    name: str
    tables: tuple[Table, ...]
    fold: Fold | None
    """All rows of some images, given all their events in the order of the log; None where the
    rows are sums over all images."""
    follower: str | None = None
    """The follower that keeps them; None where they are written with the events."""
    owned_by_position: bool = False
    """Whether rows belong to an image by the position of its event, not by its id."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what the log says."""

    table: str
    key: str
    what: str
    """`missing`, `not in the log`, or the columns that differ."""


def _live_rows(recorder: GroupCommitRecorder, page: Sequence[Notification]) -> Rows:
    mapper = event_mapper()
    images: dict[Any, Any] = {}
    held: dict[tuple[Any, Table], Sequence[Row]] = {}
    for notification in page:
        if notification.topic not in EVENT_TYPES:
            continue
        event: Any = mapper.to_domain_event(stored_of(notification))
        image = images[event.originator_id] = event.mutate(images.get(event.originator_id))
        for change in rows_of(image, [event]):
            held[image.id, change.table] = change.rows
    rows: Rows = {}
    for (_, table), some in held.items():
        rows.setdefault(table, []).extend(some)
    return rows


def _span_rows(recorder: GroupCommitRecorder, page: Sequence[Notification]) -> Rows:
    changes = ImageSpans(recorder, len(page) + 1).fold(page)
    return {
        change.table: list(change.rows)
        for change in changes
        if isinstance(change, Put) and change.table is not MOMENTS
    }


def _audience_rows(recorder: GroupCommitRecorder, page: Sequence[Notification]) -> Rows:
    changes = EventAudience(recorder, len(page) + 1).fold(page)
    return {change.table: list(change.rows) for change in changes if isinstance(change, Put)}


PRINTS = (
    Print("images", TABLES, _live_rows),
    Print("usage", (USAGE,), None),
    Print("versions", SPAN_TABLES, _span_rows, spans.FOLLOWER),
    Print("audience", (EVENT_AUDIENCE,), _audience_rows, audience.FOLLOWER, True),
)
"""Everything that is made of the log, but for the seal, which `calotype audit verify` checks."""


def differences(
    recorder: GroupCommitRecorder,
    what: Print,
    progress: Progress = lambda events: None,
    *,
    chunk_images: int = CHUNK_IMAGES,
) -> Iterator[Difference]:
    """The rows that are not what the log gives; `progress` is told of each lot of events."""
    if what.fold is None:
        there, expected = counters_and_totals(recorder, progress)
        yield from _compare(USAGE, expected, there)
        return
    first, found = 0, 0
    while first <= _HIGHEST and found < DIFFERENCES:
        with recorder.snapshot() as fetch:
            ends = fetch(_LAST_OF_CHUNK, {"first": UUID(int=first), "others": chunk_images - 1})
            last = UUID(str(ends[0][0])) if ends else UUID(int=_HIGHEST)
            values = {"first": UUID(int=first), "last": last, "until": reached(fetch, what)}
            page = [_notification(row) for row in fetch(_EVENTS, values)]
            rows = what.fold(recorder, page)
            for table in what.tables:
                if table is not MOMENTS:
                    there = fetch(_there(what, table), values)
                    for difference in _compare(table, rows.get(table, []), there):
                        found += 1
                        yield difference
        progress(len(page))
        first = last.int + 1
    if MOMENTS in what.tables:
        yield from _moments(recorder, what)


def reached(fetch: Fetch, what: Print) -> int:
    """The position that the tables stand at."""
    if what.follower is None:
        return fetch(_REACHED)[0][0] or 0
    rows = fetch(_TRACKED, {"name": what.follower})
    return rows[0][0] if rows else 0


def _there(what: Print, table: Table) -> str:
    names = ", ".join(f"t.{column.name}" for column in table.columns)
    if what.owned_by_position:
        return (
            f"SELECT {names} FROM stored_events s JOIN {table.name} t "
            "ON t.position = s.notification_id WHERE s.originator_id >= :first "
            "AND s.originator_id <= :last AND s.notification_id <= :until"
        )
    owner = "id" if any(column.name == "id" for column in table.columns) else "image_id"
    return f"SELECT {names} FROM {table.name} t WHERE t.{owner} >= :first AND t.{owner} <= :last"


def _moments(recorder: GroupCommitRecorder, what: Print) -> Iterator[Difference]:
    after, before, found = 0, ("", ""), 0
    names = ", ".join(column.name for column in MOMENTS.columns)
    sql = f"SELECT {names} FROM {MOMENTS.name} WHERE position > :after AND position <= :last"
    while found < DIFFERENCES:
        with recorder.snapshot() as fetch:
            until = reached(fetch, what)
            page = fetch(_PAGE, {"after": after, "until": until})
            expected = []
            for position, topic, state in page:
                before = moment_after(before, topic, timestamp_in(state))
                expected.append((position, *before))
            whole = len(page) == CHUNK_MOMENTS
            last = page[-1][0] if whole else 2**62
            for difference in _compare(
                MOMENTS, expected, fetch(sql, {"after": after, "last": last})
            ):
                found += 1
                yield difference
        if not whole:
            return
        after = last


def _compare(table: Table, expected: list[Row], there: list[Row]) -> Iterator[Difference]:
    wanted, found = Counter(map(_plain, expected)), Counter(map(_plain, there))
    if wanted == found:
        return
    key_of = key_getter(table)
    missing = {key_of(row): row for row in wanted - found}
    extra = {key_of(row): row for row in found - wanted}
    for key, row in missing.items():
        other = extra.pop(key, None)
        if other is None:
            yield Difference(table.name, _shown(key), "missing")
        else:
            columns = [
                column.name
                for column, mine, theirs in zip(table.columns, row, other, strict=True)
                if mine != theirs
            ]
            yield Difference(table.name, _shown(key), f"differs in {', '.join(columns)}")
    for key in extra:
        yield Difference(table.name, _shown(key), "not in the log")


def _plain(row: Row) -> Row:
    return tuple(str(value) if isinstance(value, UUID) else value for value in row)


def _shown(key: Any) -> str:
    return "/".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _notification(row: Row) -> Notification:
    return Notification(
        id=row[0],
        originator_id=UUID(str(row[1])),
        originator_version=row[2],
        topic=row[3],
        state=bytes(row[4]),
    )
