"""Prints compared with the negative: the rows that the log gives, against the rows that are there.

Chunk by chunk of images, each chunk in one snapshot of the database, in which events and rows fit
together however much is written meanwhile. The folds are the very ones that write the tables.
Nothing is written, and no more than a chunk is held in memory.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from calotype.projections.rebuild.fold_by_stream import LogEvent, Row, events_by_stream
from calotype.projections.rebuild.registry import InOrder, Projection, image_column, reached
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Table, key_getter

CHUNK_IMAGES = 200
CHUNK_EVENTS = 5000
DIFFERENCES = 1000
"""After so many differences a comparison ends: what is wrong is everything."""

Progress = Callable[[int], None]

_LAST_OF_CHUNK = (
    "SELECT DISTINCT originator_id FROM stored_events WHERE originator_id >= :first "
    "ORDER BY originator_id LIMIT 1 OFFSET :others"
)
_PAGE = (
    "SELECT notification_id, topic, state FROM stored_events "
    "WHERE notification_id > :after AND notification_id <= :until ORDER BY notification_id "
    f"LIMIT {CHUNK_EVENTS}"
)
_HIGHEST = 2**128 - 1


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what the log says."""

    table: str
    key: str
    what: str
    """`missing`, `not in the log`, or the columns that differ."""


def differences(
    recorder: GroupCommitRecorder,
    what: Projection,
    progress: Progress = lambda events: None,
    *,
    chunk_images: int = CHUNK_IMAGES,
) -> Iterator[Difference]:
    """The rows that are not what the log gives; `progress` is told of each lot of events."""
    if what.sums is not None:
        there, wanted = what.sums.there_and_expected(recorder, progress)
        yield from _compare(what.tables[0], wanted, there)
        return
    first, found = 0, 0
    while first <= _HIGHEST and found < DIFFERENCES:
        with recorder.snapshot(what.tables) as fetch:
            ends = fetch(_LAST_OF_CHUNK, {"first": UUID(int=first), "others": chunk_images - 1})
            last = UUID(str(ends[0][0])) if ends else UUID(int=_HIGHEST)
            until = reached(fetch, what)
            values = {"first": UUID(int=first), "last": last, "until": until}
            expected: dict[Table, list[Row]] = {}
            events = _counted(events_by_stream(fetch, UUID(int=first), last, until), progress)
            for table, row in what.rows(events):
                expected.setdefault(table, []).append(row)
            for table in what.tables:
                if what.in_order is None or table is not what.in_order.table:
                    there = fetch(_there(what, table), values)
                    for difference in _compare(table, expected.get(table, []), there):
                        found += 1
                        yield difference
        first = last.int + 1
    if what.in_order is not None:
        yield from _differences_in_order(recorder, what, what.in_order)
    if what.snapshots is not None:
        for key, wrong in what.snapshots.wrong(recorder):
            yield Difference(what.snapshots.table.name, key, wrong)


def _counted(events: Iterable[LogEvent], progress: Progress) -> Iterator[LogEvent]:
    count = 0
    for count, event in enumerate(events, 1):  # noqa: B007 - the last number is what is told
        yield event
    progress(count)


def _there(what: Projection, table: Table) -> str:
    names = ", ".join(f"t.{column.name}" for column in table.columns)
    if what.owned_by_position:
        return (
            f"SELECT {names} FROM stored_events s JOIN {table.name} t "
            "ON t.position = s.notification_id WHERE s.originator_id >= :first "
            "AND s.originator_id <= :last AND s.notification_id <= :until"
        )
    owner = image_column(table)
    return f"SELECT {names} FROM {table.name} t WHERE t.{owner} >= :first AND t.{owner} <= :last"


def _differences_in_order(
    recorder: GroupCommitRecorder, what: Projection, ordered: InOrder
) -> Iterator[Difference]:
    after, before, found = 0, ordered.start, 0
    table = ordered.table
    names = ", ".join(column.name for column in table.columns)
    sql = f"SELECT {names} FROM {table.name} WHERE position > :after AND position <= :last"
    while found < DIFFERENCES:
        with recorder.snapshot(what.tables) as fetch:
            page = fetch(_PAGE, {"after": after, "until": reached(fetch, what)})
            expected = list(
                ordered.rows(((at, topic, bytes(state)) for at, topic, state in page), before)
            )
            whole = len(page) == CHUNK_EVENTS
            last = page[-1][0] if whole else 2**62
            for difference in _compare(table, expected, fetch(sql, {"after": after, "last": last})):
                found += 1
                yield difference
        if not whole:
            return
        after, before = last, expected[-1][1:]


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
