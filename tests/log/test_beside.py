"""Other processes on a SQLite file: whoever looks into it leaves those alone who use it."""

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from uuid import uuid4

from eventsourcing.persistence import StoredEvent

from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder

_COUNT = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
    "print(c.execute('SELECT count(*) FROM stored_events').fetchone()[0]); c.close()"
)


def _count_in_another_process(file: Path) -> int:
    """Opens the file, reads and closes it, as every verb of the command line does."""
    done = subprocess.run(
        [sys.executable, "-c", _COUNT, str(file)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def _append(recorder: GroupCommitRecorder) -> None:
    recorder.insert_events([StoredEvent(uuid4(), 1, "note.written", b"{}")])


def _read_in_a_thread(recorder: GroupCommitRecorder) -> None:
    thread = threading.Thread(target=recorder.max_notification_id)
    thread.start()
    thread.join()


def test_who_looks_at_a_log_in_use_takes_nothing_from_it(tmp_path: Path) -> None:
    file = tmp_path / "log.sqlite"
    recorder = open_log(f"sqlite:///{file}")
    try:
        recorder.migrate()
        for appended in range(1, 4):
            _append(recorder)
            # A new connection in this process, made and closed beside those that stay.
            _read_in_a_thread(recorder)
            wal = file.with_name("log.sqlite-wal").stat().st_ino
            assert _count_in_another_process(file) == appended
            assert file.with_name("log.sqlite-wal").stat().st_ino == wal
    finally:
        recorder.close_now()
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT count(*) FROM stored_events").fetchone()[0] == 3
