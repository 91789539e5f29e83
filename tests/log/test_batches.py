"""Appends that are written together have their own fates."""

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import IntegrityError, Tracking

from calotype.stores.log.append import Append
from calotype.stores.log.errors import LogFull
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Replace

Gate = Callable[[GroupCommitRecorder], AbstractContextManager[None]]


def _written(recorder: GroupCommitRecorder) -> list[tuple[Any, int]]:
    return [(n.originator_id, n.originator_version) for n in recorder.select_notifications(1, 1000)]


def _noted(recorder: GroupCommitRecorder) -> set[UUID]:
    return {UUID(str(row[0])) for row in recorder.fetch_now("SELECT id FROM notes")}


def test_a_conflict_fails_only_its_own_append(
    recorder: GroupCommitRecorder, notes: ModuleType, gate: Gate
) -> None:
    first, taken, last = uuid4(), uuid4(), uuid4()
    notes.write(recorder, taken, 1, "was here first").result(10)
    with gate(recorder):
        results = [notes.write(recorder, note, 1, "new") for note in (first, taken, last)]
    assert results[0].result(10) == [2]
    assert isinstance(results[1].exception(10), IntegrityError)
    assert results[2].result(10) == [3]
    assert _written(recorder) == [(taken, 1), (first, 1), (last, 1)]
    assert recorder.fetch_now("SELECT text FROM notes WHERE id = :id", {"id": taken}) == [
        ("was here first",)
    ]


def test_of_two_appends_to_one_version_the_first_wins(
    recorder: GroupCommitRecorder, notes: ModuleType, gate: Gate
) -> None:
    note = uuid4()
    with gate(recorder):
        winner, loser = (notes.write(recorder, note, 1, text) for text in ("one", "two"))
    assert winner.result(10) == [1]
    assert isinstance(loser.exception(10), IntegrityError)
    assert recorder.fetch_now("SELECT text FROM notes") == [("one",)]


def test_an_append_does_not_lose_to_one_that_fails_itself(
    recorder: GroupCommitRecorder, notes: ModuleType, gate: Gate
) -> None:
    note = uuid4()
    with gate(recorder):
        broken = notes.submit(
            recorder,
            [notes.event(note, 1, "broken")],
            lambda: [Replace(notes.NOTES, note, [(note, "broken", None, True)])],
        )
        sound = notes.write(recorder, note, 1, "sound")
    assert broken.exception(10) is not None
    assert sound.result(10) == [1]
    assert recorder.fetch_now("SELECT text FROM notes") == [("sound",)]


def _raising(notes: ModuleType, note: UUID) -> list[Replace]:
    raise ZeroDivisionError


POISON: dict[str, Callable[[ModuleType, UUID], list[Replace]]] = {
    "rows() raises": _raising,
    "NULL where none may be": lambda notes, note: [
        Replace(notes.NOTES, note, [(note, "text", None, True)])
    ],
    "a key twice": lambda notes, note: [
        Replace(notes.LINES, note, [(note, 1, "one"), (note, 1, "again")])
    ],
    "a lone surrogate": lambda notes, note: [
        Replace(notes.NOTES, note, [(note, "\ud800", 1, True)])
    ],
    "an integer of 70 bits": lambda notes, note: [
        Replace(notes.NOTES, note, [(note, "text", 2**70, True)])
    ],
    "a value too few": lambda notes, note: [Replace(notes.NOTES, note, [(note, "text", 1)])],
    "a value of no known type": lambda notes, note: [
        Replace(notes.NOTES, note, [(note, object(), 1, True)])
    ],
}


@pytest.mark.parametrize("kind", POISON)
def test_a_poisoned_append_fails_alone_and_at_once(
    recorder: GroupCommitRecorder, notes: ModuleType, gate: Gate, kind: str
) -> None:
    before, poisoned, after, later = (uuid4() for _ in range(4))
    started = time.monotonic()
    with gate(recorder):
        results = [
            notes.write(recorder, before, 1, "sound"),
            notes.submit(
                recorder,
                [notes.event(poisoned, 1, "poison")],
                lambda: POISON[kind](notes, poisoned),
            ),
            notes.write(recorder, after, 1, "sound"),
        ]
    assert [results[0].result(10), results[2].result(10)] == [[1], [2]]
    assert results[1].exception(10) is not None
    assert notes.write(recorder, later, 1, "sound").result(10) == [3]
    assert time.monotonic() - started < 2  # Nobody took it for an outage and waited.
    assert _written(recorder) == [(before, 1), (after, 1), (later, 1)]
    assert _noted(recorder) == {before, after, later}


def test_text_too_long_for_an_index_of_postgresql_is_no_outage(
    postgres_url: str, notes: ModuleType, gate: Gate
) -> None:
    recorder = open_log(postgres_url)
    recorder.migrate()
    recorder.create_tables([notes.NOTES, notes.LINES])
    started = time.monotonic()
    with gate(recorder):
        sound = notes.write(recorder, uuid4(), 1, "short")
        refused = notes.write(recorder, uuid4(), 1, secrets.token_hex(20_000))
    assert sound.result(10) == [1]
    assert "index row" in str(refused.exception(10))
    assert time.monotonic() - started < 2
    recorder.close_now()


def test_a_subscriber_that_moves_backwards_fails_alone(
    recorder: GroupCommitRecorder, notes: ModuleType, gate: Gate
) -> None:
    recorder.insert_tracking(Tracking("feed", 7))
    with gate(recorder):
        back = notes.submit(recorder, [notes.event(uuid4(), 1, "x")], tracking=Tracking("feed", 7))
        onwards = notes.submit(recorder, [], tracking=Tracking("feed", 8))
        other = notes.write(recorder, uuid4(), 1, "sound")
    outcomes = (back.exception(10), onwards.result(10), other.result(10))
    assert isinstance(outcomes[0], IntegrityError)
    assert outcomes[1:] == ([], [1])
    assert recorder.max_tracking_id("feed") == 8


def test_a_full_queue_refuses_at_once_and_keeps_what_it_took(
    log_url: str, recorder: GroupCommitRecorder, notes: ModuleType, gate: Gate
) -> None:
    small = open_log(log_url, queue_limit=3)
    with gate(small):
        taken = [notes.write(small, uuid4(), 1, "waits") for _ in range(3)]
        started = time.monotonic()
        with pytest.raises(LogFull):
            notes.write(small, uuid4(), 1, "one too many")
        assert time.monotonic() - started < 0.1
    assert [future.result(10) for future in taken] == [[1], [2], [3]]
    assert notes.write(small, uuid4(), 1, "there is room again").result(10) == [4]
    small.close_now()


def test_more_appends_than_a_batch_takes_are_all_written_in_order(
    recorder: GroupCommitRecorder, notes: ModuleType, gate: Gate
) -> None:
    ids = [uuid4() for _ in range(700)]
    with gate(recorder):
        futures = [notes.write(recorder, note, 1, "many") for note in ids]
    assert [future.result(30) for future in futures] == [[n] for n in range(1, 701)]
    assert [note for note, _ in _written(recorder)] == ids


def test_the_writer_outlives_callers_that_went_away(
    recorder: GroupCommitRecorder, notes: ModuleType, gate: Gate
) -> None:
    async def ask_and_leave(cancel: bool) -> None:
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        recorder.submit(Append([notes.event(uuid4(), 1, "x")], None, None, future))
        if cancel:
            future.cancel()

    with gate(recorder):
        asyncio.run(ask_and_leave(cancel=False))  # The loop is closed when the answer comes.
        asyncio.run(ask_and_leave(cancel=True))
        notes.write(recorder, uuid4(), 1, "cancelled").cancel()
        stays = notes.write(recorder, uuid4(), 1, "stays")
    assert stays.result(10) == [4]
    assert notes.write(recorder, uuid4(), 1, "later").result(10) == [5]


def test_closing_writes_what_waits(
    log_url: str, recorder: GroupCommitRecorder, notes: ModuleType
) -> None:
    leaving = open_log(log_url)
    futures = [notes.write(leaving, uuid4(), 1, "last words") for _ in range(300)]
    leaving.close_now()
    assert sorted(future.result(0)[0] for future in futures) == list(range(1, 301))
    assert recorder.max_notification_id() == 300


def test_a_batch_is_one_transaction_even_when_two_want_the_same_version(
    postgres_url: str, notes: ModuleType, gate: Gate
) -> None:
    """Somebody who asks for one id again and again does not make everybody else slow."""
    recorder = open_log(postgres_url)
    recorder.migrate()
    recorder.create_tables([notes.NOTES, notes.LINES])
    wanted = uuid4()
    with gate(recorder):
        futures = [notes.write(recorder, uuid4(), 1, "x") for _ in range(20)]
        rivals = [notes.write(recorder, wanted, 1, "mine") for _ in range(5)]
        futures += [notes.write(recorder, uuid4(), 1, "x") for _ in range(20)]
    assert sum(future.exception(10) is None for future in rivals) == 1
    assert all(future.exception(10) is None for future in futures)
    transactions = recorder.fetch_now("SELECT count(DISTINCT xmin::text) FROM stored_events")
    assert transactions == [(1,)]
    recorder.close_now()


def test_no_order_of_conflicts_breaks_the_appends_after_them(
    log_url: str, recorder: GroupCommitRecorder, notes: ModuleType
) -> None:
    """A connection that forgot which statements the failed ones prepared refused all later ones."""
    taken = uuid4()
    notes.write(recorder, taken, 1, "first").result(10)
    for outcomes in itertools.product(["written", "rows", "conflict"], repeat=5):
        fresh = open_log(log_url)
        try:
            for outcome in (*outcomes, "rows", "written"):
                note = uuid4()
                if outcome == "rows":
                    notes.write(fresh, note, 1, "new").result(10)
                elif outcome == "written":
                    notes.submit(fresh, [notes.event(note, 1, "new")]).result(10)
                else:
                    lost = notes.write(fresh, taken, 1, "too late")
                    assert isinstance(lost.exception(10), IntegrityError), outcomes
        finally:
            fresh.close_now()
