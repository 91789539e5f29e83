"""Counters are kept with the events, and never grow beyond a ceiling that an append carries."""

import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import IntegrityError

from calotype.stores.log.errors import OverLimit
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Column, Count, Table

Gate = Callable[[GroupCommitRecorder], AbstractContextManager[None]]
SHELVES = Table(
    "shelves",
    (Column("shelf", "text"), Column("books", "integer"), Column("pages", "integer")),
    key=("shelf",),
    owner="shelf",
)


@pytest.fixture
def put(recorder: GroupCommitRecorder, notes: ModuleType) -> Callable[..., Any]:
    """Appends an event of a note that brings books to a shelf; gives the future."""
    recorder.create_tables([SHELVES])

    def put(
        shelf: str,
        books: int,
        pages: int = 0,
        *,
        most: int | None = None,
        note: UUID | None = None,
        by: GroupCommitRecorder = recorder,
        also: tuple[Count, ...] = (),
    ) -> Any:
        ceilings = () if most is None else (most, None)
        counts = [Count(SHELVES, shelf, (books, pages), ceilings), *also]
        return notes.submit(by, [notes.event(note or uuid4(), 1, shelf)], lambda: counts)

    return put


def _shelves(recorder: GroupCommitRecorder) -> dict[str, tuple[int, int]]:
    rows = recorder.fetch_now("SELECT shelf, books, pages FROM shelves")
    return {row[0]: (row[1], row[2]) for row in rows}


def test_amounts_of_one_batch_and_of_many_add_up(recorder: Any, put: Any, gate: Gate) -> None:
    with gate(recorder):
        futures = [put("a", 1, 10), put("b", 5), put("a", 2, 20)]
    assert [future.result(10) for future in futures] == [[1], [2], [3]]
    put("a", -3, 1).result(10)
    assert _shelves(recorder) == {"a": (0, 31), "b": (5, 0)}


def test_what_does_not_fit_fails_alone_and_says_what_there_is(
    recorder: Any, put: Any, gate: Gate
) -> None:
    put("a", 3, most=5).result(10)
    with gate(recorder):
        results = [
            put("a", 1, most=5),
            put("a", 2, most=5),
            put("b", 9, most=9),
            put("a", 1, most=5),
            put("a", 1, most=5),
            put("a", 1, most=None),
        ]
    errors = [future.exception(10) for future in results]
    assert [isinstance(error, OverLimit) for error in errors] == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    told = errors[1]
    assert (told.column, told.key, told.value, told.limit) == ("books", "a", 4, 5)
    assert _shelves(recorder) == {"a": (6, 0), "b": (9, 0)}
    assert recorder.max_notification_id() == 5


def test_room_that_the_same_batch_makes_counts_only_for_those_after_it(
    recorder: Any, put: Any, gate: Gate
) -> None:
    put("a", 5).result(10)
    with gate(recorder):
        before, gone, after = put("a", 1, most=5), put("a", -1), put("a", 1, most=5)
    assert isinstance(before.exception(10), OverLimit)
    assert (gone.result(10), after.result(10)) == ([2], [3])


def test_what_does_not_grow_may_stand_above_its_ceiling(recorder: Any, put: Any) -> None:
    put("a", 8, 1).result(10)
    assert put("a", -1, 1, most=5).result(10) == [2]
    assert put("a", 0, 1, most=5).result(10) == [3]
    assert isinstance(put("a", 1, most=5).exception(10), OverLimit)
    assert _shelves(recorder) == {"a": (7, 3)}


def test_of_an_append_that_touches_two_rows_both_fit_or_neither_is_written(
    recorder: Any, put: Any, gate: Gate
) -> None:
    put("b", 1).result(10)
    with gate(recorder):
        moved = put("a", -1, also=(Count(SHELVES, "b", (1, 0), (1, None)),))
        other = put("a", 1)
    assert isinstance(moved.exception(10), OverLimit)
    assert other.result(10) == [2]
    assert _shelves(recorder) == {"a": (1, 0), "b": (1, 0)}


def test_an_old_version_is_a_conflict_even_where_nothing_fits(
    recorder: Any, put: Any, gate: Gate
) -> None:
    """So that the caller looks again, and learns of the limit from fresh state alone."""
    note = uuid4()
    put("a", 5, note=note).result(10)
    with gate(recorder):
        stale, fresh = put("a", 1, most=5, note=note), put("a", 1, most=5)
    assert isinstance(stale.exception(10), IntegrityError)
    assert isinstance(fresh.exception(10), OverLimit)


def test_conflicts_and_poison_in_a_batch_leave_ceilings_exact(
    recorder: Any, put: Any, gate: Gate, notes: ModuleType
) -> None:
    taken = uuid4()
    put("a", 0, note=taken).result(10)
    with gate(recorder):
        wrong = put("a", -5, note=taken)  # Room that never comes.
        poison = put("a", -5, also=(Count(SHELVES, None, (1, 1)),))
        fits = [put("a", 1, most=3) for _ in range(5)]
    assert isinstance(wrong.exception(10), IntegrityError)
    assert poison.exception(10) is not None
    assert [future.exception(10) is None for future in fits] == [True, True, True, False, False]
    assert _shelves(recorder) == {"a": (3, 0)}


def test_a_batch_with_refusals_is_one_transaction(
    postgres_url: str, notes: ModuleType, gate: Gate
) -> None:
    """A project that is full and asks again and again does not make everybody else slow."""
    recorder = open_log(postgres_url)
    recorder.migrate()
    recorder.create_tables([SHELVES])
    count = Count(SHELVES, "full", (1, 0), (3, None))
    with gate(recorder):
        futures = [
            notes.submit(recorder, [notes.event(uuid4(), 1, "x")], lambda: [count])
            for _ in range(40)
        ]
    assert sum(future.exception(10) is None for future in futures) == 3
    transactions = recorder.fetch_now("SELECT count(DISTINCT xmin::text) FROM stored_events")
    assert transactions == [(1,)]
    recorder.close_now()


def test_two_processes_at_once_fill_a_shelf_to_the_last_place(
    recorder: Any, other_recorder: Any, put: Any
) -> None:
    """With other shelves and takers in between; checked against the order of the log."""
    amounts: dict[UUID, int] = {}
    futures: list[Any] = []
    lock = threading.Lock()

    def crowd(mine: GroupCommitRecorder, seed: int) -> None:
        choice = random.Random(seed)
        for _ in range(150):
            note, amount = uuid4(), choice.choice([1, 2, 3, -1])
            with lock:
                amounts[note] = amount
                futures.append((note, put("a", amount, most=40, note=note, by=mine)))

    threads = [
        threading.Thread(target=crowd, args=(each, number))
        for number, each in enumerate((recorder, other_recorder))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcomes = {note: future.exception(60) for note, future in futures}
    written = [n.originator_id for n in recorder.select_notifications(1, 1000)]
    assert set(written) == {note for note, error in outcomes.items() if error is None}
    assert all(isinstance(error, OverLimit) for error in outcomes.values() if error is not None)
    total = 0
    for note in written:
        total += amounts[note]
        assert total <= 40 or amounts[note] <= 0
    assert _shelves(recorder) == {"a": (total, 0)}
    for note, error in outcomes.items():
        if isinstance(error, OverLimit):
            assert error.value + amounts[note] > 40
