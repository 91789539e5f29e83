"""Filling spare tables with the rows of the whole log up to a position, in several processes.

Each process takes slices of the images by their ids, folds one image after the other, and adds
the rows in short transactions; no more than one of these is held in memory. A process ends with
the one that started it. What it may still add then goes into tables that nobody will use: the next
rebuild has a generation of its own.
"""

import gc
import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from multiprocessing.process import parent_process
from queue import Empty
from typing import Any
from uuid import UUID

from calotype.projections.rebuild.fold_by_stream import (
    PAGE_EVENTS,
    Row,
    counted,
    events_by_stream,
    events_in_order,
)
from calotype.projections.rebuild.registry import PROJECTIONS, InOrder, Projection
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.table_sets import TableSet
from calotype.stores.log.tables import Table

SLICES = 64
"""Parts into which the ids are divided; images are spread evenly, as their ids are random."""
BATCH_ROWS = 2000
BATCH_CHARACTERS = 4_000_000
"""What is added at once, by the number of rows and by the size of their longest columns."""
_LOOK_SECONDS = 1.0
_LONG_COLUMNS = ("document", "value")


class BuildFailed(Exception):
    """A process that filled the tables ended early; the message says why."""


def build(
    url: str, what: Projection, generation: int, until: int, *, processes: int, gentle: bool
) -> Iterator[int]:
    """Fills the spare tables, which are there and empty; gives numbers of events as they are done.

    Raises BuildFailed.
    """
    context = multiprocessing.get_context("spawn")
    slices, done = context.Queue(), context.Queue()
    parts: list[int | None] = [*range(SLICES), *[None] * processes]
    if what.in_order is not None:
        parts.insert(0, -1)  # First, because it cannot be divided.
    for part in parts:
        slices.put(part)
    arguments = (url, what.name, generation, until, gentle, slices, done)
    workers = [
        context.Process(target=_work, args=arguments, daemon=True, name=f"build-{number}")
        for number in range(processes)
    ]
    with ExitStack() as stack:
        for worker in workers:
            worker.start()
            stack.callback(worker.kill)
        left = processes
        while left:
            try:
                told = done.get(timeout=_LOOK_SECONDS)
            except Empty:
                if any(worker.exitcode not in (None, 0) for worker in workers):
                    raise BuildFailed("a process was ended from outside") from None
                continue
            if isinstance(told, str):
                raise BuildFailed(told)
            if told is None:
                left -= 1
            else:
                yield told
        for worker in workers:
            worker.join()


def _work(
    url: str, name: str, generation: int, until: int, gentle: bool, slices: Any, done: Any
) -> None:
    gc.freeze()
    what = next(known for known in PROJECTIONS if known.name == name)
    recorder = open_log(url)
    spare = recorder.table_set(what.tables, generation, gentle=gentle)
    try:
        while (number := slices.get()) is not None:
            if number < 0:
                assert what.in_order is not None
                _fill_in_order(recorder, spare, what.in_order, until)
            else:
                _fill_slice(recorder, spare, what, number, until, done)
        done.put(None)
    except Exception as error:
        done.put(f"{type(error).__name__}: {error}")
    finally:
        spare.close()
        recorder.close_now()


def _fill_slice(
    recorder: GroupCommitRecorder,
    spare: TableSet,
    what: Projection,
    number: int,
    until: int,
    done: Any,
) -> None:
    width = 2**128 // SLICES
    first, last = UUID(int=number * width), UUID(int=(number + 1) * width - 1)
    batch = _Batch(spare)

    def note(count: int) -> None:
        _end_with_parent()
        done.put(count)

    events = counted(events_by_stream(recorder.fetch_now, first, last, until), note)
    for table, row in what.rows(events):
        batch.add(table, row)
    batch.write()


def _fill_in_order(
    recorder: GroupCommitRecorder, spare: TableSet, ordered: InOrder, until: int
) -> None:
    def events() -> Iterator[tuple[int, str, bytes]]:
        after = 0
        while True:
            _end_with_parent()
            page = events_in_order(recorder.fetch_now, after, until)
            yield from page
            if len(page) < PAGE_EVENTS:
                return
            after = page[-1][0]

    rows = ordered.rows(events(), ordered.start)
    while some := list(islice(rows, BATCH_ROWS)):
        spare.add({ordered.table: some})


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None and not parent.is_alive():
        raise BuildFailed("whoever rebuilt is gone")


class _Batch:
    """Rows that wait to be added together."""

    def __init__(self, spare: TableSet) -> None:
        self._spare = spare
        self._rows: dict[Table, list[Row]] = {}
        self._count = self._characters = 0
        self._long = {table: _long_column(table) for table in spare.tables}

    def add(self, table: Table, row: Row) -> None:
        self._rows.setdefault(table, []).append(row)
        self._count += 1
        column = self._long[table]
        if column is not None:
            self._characters += len(row[column])
        if self._count >= BATCH_ROWS or self._characters >= BATCH_CHARACTERS:
            self.write()

    def write(self) -> None:
        if self._count:
            self._spare.add(self._rows)
        self._rows = {}
        self._count = self._characters = 0


def _long_column(table: Table) -> int | None:
    names = [column.name for column in table.columns]
    return next((names.index(name) for name in _LONG_COLUMNS if name in names), None)
