"""A process that opens further connections keeps the locks of those that it has."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from calotype.stores.log.sqlite.connections import ThreadConnections

_ANOTHER_PROCESS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT * FROM sqlite_master").fetchall()
connection.close()
"""


def test_the_last_to_leave_is_not_taken_for_the_only_one(tmp_path: Path) -> None:
    """Closing a descriptor of the file would drop all locks, and another process that leaves
    would take the WAL away from under this one."""
    path = tmp_path / "log.sqlite"
    connections = ThreadConnections(str(path))
    connections.select("CREATE TABLE t (x)", {})
    with ThreadPoolExecutor(1) as thread:
        thread.submit(connections.select, "INSERT INTO t VALUES (1)", {}).result()
    command = [sys.executable, "-c", _ANOTHER_PROCESS, str(path)]
    subprocess.run(command, check=True, timeout=60)
    assert path.with_name("log.sqlite-wal").exists()
    assert path.with_name("log.sqlite-shm").exists()
    assert connections.select("SELECT x FROM t", {}) == [(1,)]
    connections.close()
