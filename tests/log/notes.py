"""A tiny application on the log: notes with their lines, for tests here and in other processes.

As a script it migrates, creates the tables, and appends: `notes.py URL COUNT` (0: for ever),
saying `id version position` of each append once it is acknowledged. With `full` or `close` in
place of COUNT it does what the functions of these names say.
"""

import asyncio
import concurrent.futures
import os
import resource
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import orjson
from eventsourcing.persistence import StoredEvent

from calotype.stores.log.append import Append
from calotype.stores.log.errors import LogUnavailable
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Column, Index, Replace, Table

NOTES = Table(
    "notes",
    (
        Column("id", "uuid"),
        Column("text", "text", nullable=True),
        Column("version", "integer"),
        Column("done", "boolean"),
    ),
    key=("id",),
    owner="id",
    indexes=(Index("notes_by_text", ("coalesce(text, '')", "version DESC"), where="done"),),
)
LINES = Table(
    "note_lines",
    (Column("note", "uuid"), Column("number", "integer"), Column("line", "text")),
    key=("note", "number"),
    owner="note",
)
WRITERS = 8
VERSIONS = 5


def event(note_id: UUID, version: int, text: str) -> StoredEvent:
    """One event; no two have the same state, because each names its command."""
    state = orjson.dumps({"text": text, "command": str(uuid4())})
    return StoredEvent(note_id, version, "note.written", state)


def rows(note_id: UUID, version: int, text: str) -> list[Replace]:
    """What the query tables hold after such an event."""
    lines = [(note_id, number, line) for number, line in enumerate(text.split("\n"))]
    return [
        Replace(NOTES, note_id, [(note_id, text, version, True)]),
        Replace(LINES, note_id, lines),
    ]


def submit(
    recorder: GroupCommitRecorder,
    events: Sequence[StoredEvent],
    changes: Callable[[], Sequence[Replace]] | None = None,
    **details: Any,
) -> "concurrent.futures.Future[list[int]]":
    """Submits an append from a thread; the future of its positions."""
    future: concurrent.futures.Future[list[int]] = concurrent.futures.Future()
    recorder.submit(Append(events, changes, details.get("tracking"), future))
    return future


def write(
    recorder: GroupCommitRecorder, note_id: UUID, version: int, text: str
) -> "concurrent.futures.Future[list[int]]":
    """Submits one event of a note together with its rows."""
    return submit(recorder, [event(note_id, version, text)], lambda: rows(note_id, version, text))


async def _write_notes(recorder: GroupCommitRecorder, count: int) -> None:
    """Writes notes of VERSIONS versions each, one after the other, and says what was written."""
    loop = asyncio.get_running_loop()
    written = 0
    while count == 0 or written < count:
        note_id = uuid4()
        for version in range(1, VERSIONS + 1):
            text = f"{version}\nof {VERSIONS}"
            future: asyncio.Future[list[int]] = loop.create_future()
            stored = [event(note_id, version, text)]
            recorder.submit(Append(stored, partial(rows, note_id, version, text), None, future))
            (position,) = await future
            os.write(1, f"{note_id} {version} {position}\n".encode())
        written += 1


async def _write_at_once(recorder: GroupCommitRecorder, count: int) -> None:
    await asyncio.gather(*(_write_notes(recorder, count) for _ in range(WRITERS)))


def _write_on_a_full_disk(recorder: GroupCommitRecorder) -> None:
    """Lets no file grow, so that writing fails for real, and lifts the limit again."""
    write(recorder, uuid4(), 1, "before").result()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512 * 1024, hard))
    failures = 0
    for _ in range(100):
        try:
            write(recorder, uuid4(), 1, "x" * 20_000).result()
        except LogUnavailable:
            failures += 1
    print("failures", failures)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    write(recorder, uuid4(), 1, "after").result()


def _close_while_threads_read(recorder: GroupCommitRecorder) -> None:
    """Closes under threads that read without a pause; they must end with LogUnavailable."""

    def read() -> None:
        while True:
            try:
                recorder.fetch_now("SELECT id FROM notes ORDER BY text")
                recorder.max_notification_id()
            except LogUnavailable:
                return

    threads = [threading.Thread(target=read, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    write(recorder, uuid4(), 1, "while they read").result()
    recorder.close_now()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def main(url: str, what: str) -> None:
    """Runs the script."""
    recorder = open_log(url)
    recorder.migrate()
    recorder.create_tables([NOTES, LINES])
    if what == "full":
        _write_on_a_full_disk(recorder)
    elif what == "close":
        for _ in range(20):
            _close_while_threads_read(recorder)
            recorder = open_log(url)
    else:
        asyncio.run(_write_at_once(recorder, int(what)))
    recorder.close_now()


if __name__ == "__main__":
    main(*sys.argv[1:])
