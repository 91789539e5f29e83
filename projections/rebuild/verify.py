"""Verifying projections: the rows that the log gives, against the rows that are there.

Chunk by chunk of images, each chunk in one snapshot of the database, in which events and rows fit
together however much is written meanwhile. The folds are the very ones that write the tables.
Nothing is written, and no more than a chunk is held in memory.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from uuid import UUID

from calotype.projections.rebuild.difference import Difference, compare_rows
from calotype.projections.rebuild.fold_by_stream import (
    HIGHEST,
    PAGE_EVENTS,
    Row,
    counted,
    events_by_stream,
    events_in_order,
)
from calotype.projections.rebuild.registry import InOrder, Projection, image_column, reached
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Table

CHUNK_IMAGES = 200
DIFFERENCES = 1000
"""After so many differences a comparison ends: the whole table is wrong."""

Progress = Callable[[int], None]

_LAST_OF_CHUNK = (
    "SELECT DISTINCT originator_id FROM stored_events WHERE originator_id >= :first "
    "ORDER BY originator_id LIMIT 1 OFFSET :others"
)


def differences(
    recorder: GroupCommitRecorder,
    what: Projection,
    progress: Progress = lambda events: None,
    *,
    chunk_images: int = CHUNK_IMAGES,
) -> Iterator[Difference]:
    """The rows that are not what the log gives; `progress` gets the number of events of a page."""
    if what.sums is not None:
        there, wanted = what.sums.there_and_expected(recorder, progress)
        yield from compare_rows(what.tables[0], wanted, there)
        return
    yield from islice(_by_stream(recorder, what, progress, chunk_images), DIFFERENCES)
    if what.in_order is not None:
        yield from islice(_in_order(recorder, what, what.in_order), DIFFERENCES)
    if what.snapshots is not None:
        yield from islice(what.snapshots.differences(recorder), DIFFERENCES)


def _by_stream(
    recorder: GroupCommitRecorder, what: Projection, progress: Progress, chunk_images: int
) -> Iterator[Difference]:
    first = 0
    while first <= HIGHEST.int:
        with recorder.snapshot(what.tables) as fetch:
            ends = fetch(_LAST_OF_CHUNK, {"first": UUID(int=first), "others": chunk_images - 1})
            last = UUID(str(ends[0][0])) if ends else HIGHEST
            until = reached(fetch, what)
            values = {"first": UUID(int=first), "last": last, "until": until}
            expected: dict[Table, list[Row]] = {}
            events = counted(events_by_stream(fetch, UUID(int=first), last, until), progress)
            for table, row in what.rows(events):
                expected.setdefault(table, []).append(row)
            for table in what.tables:
                if what.in_order is None or table is not what.in_order.table:
                    there = fetch(_there(what, table), values)
                    yield from compare_rows(table, expected.get(table, []), there)
        first = last.int + 1


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


def _in_order(
    recorder: GroupCommitRecorder, what: Projection, ordered: InOrder
) -> Iterator[Difference]:
    after, before = 0, ordered.start
    table = ordered.table
    names = ", ".join(column.name for column in table.columns)
    sql = f"SELECT {names} FROM {table.name} WHERE position > :after AND position <= :last"
    while True:
        with recorder.snapshot(what.tables) as fetch:
            page = events_in_order(fetch, after, reached(fetch, what))
            expected = list(ordered.rows(page, before))
            whole = len(page) == PAGE_EVENTS
            last = page[-1][0] if whole else 2**62
            there = fetch(sql, {"after": after, "last": last})
            yield from compare_rows(table, expected, there)
        if not whole:
            return
        after, before = last, expected[-1][1:]
