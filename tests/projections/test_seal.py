"""Whatever is done to a sealed log is found, and the position is named; on both databases."""

import asyncio
import base64
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.persistence import StoredEvent

from calotype.projections.seal import merkle, signed_note, verify_proof
from calotype.projections.seal.check import LogCheck, Mismatch, Verified
from calotype.projections.seal.reading import NotSealed, Sealed
from calotype.projections.seal.seal import (
    CHECKPOINTS,
    NAME,
    SEAL_TABLES,
    SealBroken,
    event_leaf,
    events_after,
    sealer,
    standing_checkpoint,
    stored_tree,
)
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder

SIGNER = signed_note.new_signer("test.example/log")
EVENTS = 700


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.sqlite'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def recorder(log_url: str) -> Iterator[GroupCommitRecorder]:
    recorder = open_log(log_url)
    recorder.migrate()
    recorder.create_tables(SEAL_TABLES)
    yield recorder
    recorder.close_now()


@pytest.fixture
def by_hand(log_url: str) -> Callable[[str], None]:
    """Changes the database behind Calotype's back."""

    def change(sql: str) -> None:
        if log_url.startswith("sqlite"):
            with sqlite3.connect(log_url.removeprefix("sqlite:///")) as connection:
                done = connection.execute(sql)
        else:
            with psycopg.connect(log_url) as connection:
                done = connection.execute(sql)
        assert done.rowcount > 0, "the test has changed nothing"

    return change


def append(recorder: GroupCommitRecorder, count: int) -> None:
    note: UUID = uuid4()
    recorder.insert_events(
        [
            StoredEvent(note, version, "note.written", b'{"number":%d}' % version)
            for version in range(1, count + 1)
        ]
    )


def seal(recorder: GroupCommitRecorder, signer: signed_note.Signer | None = SIGNER) -> int:
    return asyncio.run(sealer(recorder, signer, "test").catch_up())


def verify(recorder: GroupCommitRecorder, *kept: verify_proof.Checkpoint) -> Verified:
    return LogCheck(recorder, [SIGNER.verifier], kept).run()


def expected_root(recorder: GroupCommitRecorder, count: int) -> bytes:
    tree = merkle.CompactRange()
    for event in events_after(recorder, 0, count):
        tree.append(event_leaf(event))
    return tree.root()


@pytest.fixture
def sealed(recorder: GroupCommitRecorder) -> GroupCommitRecorder:
    """A log of 700 sealed events."""
    append(recorder, EVENTS)
    assert seal(recorder) == EVENTS
    return recorder


def newest(recorder: GroupCommitRecorder) -> verify_proof.Checkpoint:
    note = asyncio.run(Sealed(recorder).checkpoint())
    return verify_proof.open_checkpoint(note, [SIGNER.verifier])


def test_the_checkpoint_is_the_root_of_all_events_however_they_came(
    recorder: GroupCommitRecorder,
) -> None:
    total = 0
    for count in (1, 254, 1, 1, 300, 4200):
        append(recorder, count)
        total += count
        assert seal(recorder) == total
        assert newest(recorder) == verify_proof.Checkpoint(
            SIGNER.name, total, expected_root(recorder, total)
        )
    found = verify(recorder)
    assert (found.events, found.sealed, found.proved) == (total, total, total)
    assert found.root == newest(recorder).root


def test_an_untouched_log_is_verified_with_what_is_not_sealed_yet(
    sealed: GroupCommitRecorder,
) -> None:
    append(sealed, 5)
    found = verify(sealed)
    assert (found.events, found.sealed, found.proved, found.checkpoints) == (705, 700, 700, 1)


@pytest.mark.parametrize("position", [1, 256, 257, 511, EVENTS])
def test_one_flipped_bit_is_found(
    sealed: GroupCommitRecorder, by_hand: Callable[[str], None], position: int
) -> None:
    (event,) = sealed.select_notifications(position, 1)
    flipped = bytes([event.state[0] ^ 1]) + event.state[1:]
    literal = (
        f"X'{flipped.hex()}'" if "SQLite" in type(sealed).__name__ else f"'\\x{flipped.hex()}'"
    )
    by_hand(f"UPDATE stored_events SET state = {literal} WHERE notification_id = {position}")
    with pytest.raises(Mismatch) as found:
        verify(sealed)
    assert found.value.position == position


@pytest.mark.parametrize(
    "change",
    ["topic = 'note.erased'", "originator_version = 100000",
     "originator_id = '00000000-0000-4000-8000-000000000000'"],
)  # fmt: skip
def test_a_change_of_any_other_field_is_found(
    sealed: GroupCommitRecorder, by_hand: Callable[[str], None], change: str
) -> None:
    by_hand(f"UPDATE stored_events SET {change} WHERE notification_id = 300")
    with pytest.raises(Mismatch) as found:
        verify(sealed)
    assert found.value.position == 300


@pytest.mark.parametrize(
    "change", ["state = CAST(state AS text)", "topic = X'00'", "originator_version = 'x'",
               "originator_version = -1", "originator_id = ''"],
)  # fmt: skip
def test_a_value_of_another_type_is_found(tmp_path: Path, change: str) -> None:
    """SQLite takes any type in any column."""
    recorder = open_log(f"sqlite:///{tmp_path / 'log.sqlite'}")
    recorder.migrate()
    recorder.create_tables(SEAL_TABLES)
    append(recorder, 10)
    seal(recorder)
    with sqlite3.connect(tmp_path / "log.sqlite") as connection:
        connection.execute(f"UPDATE stored_events SET {change} WHERE notification_id = 5")
    with pytest.raises(Mismatch) as found:
        verify(recorder)
    assert found.value.position == 5
    recorder.close_now()


@pytest.mark.parametrize("hashes", ["", "?", "é", "AAAA"])
def test_a_tile_that_cannot_be_read_is_found_and_not_sealed_upon(
    sealed: GroupCommitRecorder, by_hand: Callable[[str], None], hashes: str
) -> None:
    by_hand(f"UPDATE audit_tiles_1 SET hashes = '{hashes}' WHERE level = 0 AND number = 2")
    append(sealed, 1)
    with pytest.raises(SealBroken, match="tile 0/2"):
        seal(sealed)
    with pytest.raises(Mismatch) as found:
        verify(sealed)
    assert found.value.position == 513


@pytest.mark.parametrize("position", [1, 256, 400, EVENTS])
def test_one_removed_row_is_found(
    sealed: GroupCommitRecorder, by_hand: Callable[[str], None], position: int
) -> None:
    by_hand(f"DELETE FROM stored_events WHERE notification_id = {position}")
    with pytest.raises(Mismatch) as found:
        verify(sealed)
    assert found.value.position == position


def test_a_row_that_was_removed_before_it_was_sealed_stops_the_sealer_and_is_found(
    sealed: GroupCommitRecorder, by_hand: Callable[[str], None]
) -> None:
    append(sealed, 10)
    by_hand("DELETE FROM stored_events WHERE notification_id = 704")
    with pytest.raises(SealBroken, match="event p[0-9a-f]{12}-2c0 is missing"):
        seal(sealed)
    with pytest.raises(Mismatch) as found:
        verify(sealed)
    assert found.value.position == 704
    assert newest(sealed).size == EVENTS


def test_a_reordered_pair_is_found(
    sealed: GroupCommitRecorder, by_hand: Callable[[str], None]
) -> None:
    for old, new in ((300, -1), (301, 300), (-1, 301)):
        by_hand(f"UPDATE stored_events SET notification_id = {new} WHERE notification_id = {old}")
    with pytest.raises(Mismatch) as found:
        verify(sealed)
    assert found.value.position == 300


def _forge(recorder: GroupCommitRecorder, by_hand: Callable[[str], None]) -> None:
    """Changes an event and seals the log anew, as one who has the database but not the key."""
    by_hand("UPDATE stored_events SET topic = 'note.erased' WHERE notification_id = 300")
    by_hand("DELETE FROM audit_tiles_1")
    by_hand(f"DELETE FROM tracking WHERE application_name = '{NAME}'")
    seal(recorder, None)


def test_rewriting_the_tree_too_does_not_help_who_cannot_sign(
    sealed: GroupCommitRecorder, by_hand: Callable[[str], None]
) -> None:
    _forge(sealed, by_hand)
    assert LogCheck(sealed).run().proved == 0  # Without a key the forgery looks well.
    with pytest.raises(Mismatch, match="another root than the signed checkpoint"):
        verify(sealed)


def test_a_checkpoint_kept_elsewhere_finds_a_log_that_was_made_anew_by_its_keeper(
    sealed: GroupCommitRecorder, by_hand: Callable[[str], None]
) -> None:
    kept = newest(sealed)
    assert verify(sealed, kept).checkpoints == 2
    by_hand("DELETE FROM audit_checkpoints_1")
    _forged_with_the_key(sealed, by_hand)
    assert verify(sealed).proved == EVENTS
    with pytest.raises(Mismatch):
        verify(sealed, kept)


def _forged_with_the_key(recorder: GroupCommitRecorder, by_hand: Callable[[str], None]) -> None:
    by_hand("UPDATE stored_events SET topic = 'note.erased' WHERE notification_id = 300")
    by_hand("DELETE FROM audit_tiles_1")
    by_hand(f"DELETE FROM tracking WHERE application_name = '{NAME}'")
    seal(recorder, SIGNER)


def _hashes(texts: list[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in texts]


def test_a_forked_log_fails_consistency(
    sealed: GroupCommitRecorder, by_hand: Callable[[str], None]
) -> None:
    before = newest(sealed)
    _forged_with_the_key(sealed, by_hand)
    append(sealed, 50)
    seal(sealed)
    after = newest(sealed)
    told = asyncio.run(Sealed(sealed).proof_of_growth(before.size, after.size))
    proof = _hashes(told["consistency"])
    with pytest.raises(verify_proof.NotProved, match="forked"):
        verify_proof.check_consistency(before.size, after.size, proof, before.root, after.root)


def test_an_honest_log_passes_consistency_and_inclusion(sealed: GroupCommitRecorder) -> None:
    before = newest(sealed)
    append(sealed, 50)
    seal(sealed)
    after, reader = newest(sealed), Sealed(sealed)
    told = asyncio.run(reader.proof_of_growth(before.size, after.size))
    proof = _hashes(told["consistency"])
    verify_proof.check_consistency(before.size, after.size, proof, before.root, after.root)
    assert asyncio.run(reader.root(before.size)) == before.root
    leaf = event_leaf(events_after(sealed, 299, 1)[0])
    for size, root in ((before.size, before.root), (after.size, after.root)):
        told = asyncio.run(reader.proof_of_event(300, size))
        verify_proof.check_inclusion(leaf, 299, size, _hashes(told["inclusion"]), root)
    with pytest.raises(NotSealed):
        asyncio.run(reader.proof_of_event(300, after.size + 1))


@pytest.mark.parametrize("level", [0, 1])
def test_a_damaged_tree_is_found_although_the_events_are_right(
    sealed: GroupCommitRecorder, by_hand: Callable[[str], None], level: int
) -> None:
    by_hand(f"DELETE FROM audit_tiles_1 WHERE level = {level} AND number = 0")
    with pytest.raises(Mismatch) as found:
        verify(sealed)
    assert found.value.position == 1


def test_a_checkpoint_that_was_touched_is_refused(
    sealed: GroupCommitRecorder, by_hand: Callable[[str], None]
) -> None:
    by_hand("UPDATE audit_checkpoints_1 SET note = replace(note, '700', '699')")
    with pytest.raises(verify_proof.BadNote, match="is wrong"):
        verify(sealed)


def test_a_log_that_was_set_back_and_went_on_is_not_sealed_over(
    sealed: GroupCommitRecorder, by_hand: Callable[[str], None]
) -> None:
    by_hand("DELETE FROM stored_events WHERE notification_id > 600")
    append(sealed, 200)
    with pytest.raises(SealBroken, match="event p[0-9a-f]{12}-2bc is not the one that was sealed"):
        seal(sealed)
    with pytest.raises(Mismatch) as found:
        verify(sealed)
    assert found.value.position == 601


def test_two_sealers_at_once_make_one_tree(log_url: str, recorder: GroupCommitRecorder) -> None:
    other = open_log(log_url)
    one, two = sealer(recorder, SIGNER, "one"), sealer(other, SIGNER, "two")

    async def race() -> None:
        for _ in range(5):
            await asyncio.to_thread(append, recorder, 300)
            await asyncio.gather(one.catch_up(), two.catch_up())

    asyncio.run(race())
    other.close_now()
    assert stored_tree(recorder).root() == expected_root(recorder, 1500)
    assert verify(recorder).proved == 1500


def test_a_key_that_comes_later_signs_what_is_sealed_already(
    recorder: GroupCommitRecorder,
) -> None:
    assert standing_checkpoint(recorder, SIGNER) is None
    append(recorder, 10)
    seal(recorder, None)
    with pytest.raises(NotSealed):
        asyncio.run(Sealed(recorder).checkpoint())
    due = standing_checkpoint(recorder, SIGNER)
    assert due is not None
    assert due.table is CHECKPOINTS
    assert verify_proof.open_checkpoint(due.rows[0][2], [SIGNER.verifier]).root == expected_root(
        recorder, 10
    )
    append(recorder, 1)
    seal(recorder, SIGNER)
    assert standing_checkpoint(recorder, SIGNER) is None
    assert standing_checkpoint(recorder, signed_note.new_signer(SIGNER.name)) is not None


def test_a_strangers_checkpoints_prove_nothing(sealed: GroupCommitRecorder) -> None:
    found = LogCheck(sealed, [signed_note.new_signer("somebody.else").verifier]).run()
    assert found.proved == 0
    assert found.strangers == ["size 700: no known key has signed the note"]
