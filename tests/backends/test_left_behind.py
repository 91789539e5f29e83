"""A test process that is killed leaves no server behind, whichever thread has started it."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.processes import runs, tree_of

ROOT = Path(__file__).parents[2]
STARTS_ALL = """
import sys, threading, time
from pathlib import Path
from tests.backends.ceilometer import Ceilometer
from tests.backends.keystone import Keystone
from tests.backends.nats import Nats
from tests.backends.patroni import Cluster
from tests.backends.pgbouncer import PgBouncer
from tests.backends.postgres import Postgres
from tests.backends.rabbitmq import RabbitMQ
from tests.backends.seaweedfs import SeaweedFS
from tests.backends.service import Service
from tests.bench.sendfile import FileServer

folder = Path(sys.argv[1])
postgres, broker = Postgres(folder / "postgres"), RabbitMQ(folder / "rabbitmq")
workers = Service(folder / "service")
workers.wanted_workers = 2
first = [postgres, broker, workers, Nats(folder / "nats"), SeaweedFS(folder / "seaweedfs")]
first += [Keystone(folder / "keystone"), FileServer(folder / "files", folder)]
then = [Ceilometer(folder / "ceilometer", broker.url, exchange="x", topic="t")]
then += [PgBouncer(folder / "pgbouncer", postgres.url(), "session")]
cluster = Cluster(folder)
for starts in ([server.start for server in first], [server.start for server in then]):
    threads = [threading.Thread(target=start) for start in starts]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
assert all(server.is_running for server in first + then)
cluster.__enter__()
print("started", flush=True)
time.sleep(600)
"""
STARTS_ONE = """
import sys, time
from pathlib import Path
from tests.backends.nats import Nats

Nats(Path(sys.argv[1])).start()
print("started", flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below pytest's own folder: other runs of the same user may take that away."""
    with tempfile.TemporaryDirectory(prefix="calotype-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "number", "least"),
    [(STARTS_ALL, signal.SIGKILL, 40), (STARTS_ONE, signal.SIGTERM, 2)],
    ids=["all, SIGKILL", "one, SIGTERM"],
)
def test_no_process_is_left_of_a_test_process_that_is_killed(
    program: str, number: signal.Signals, least: int, folder: Path, until: object
) -> None:
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"started\n"
            pids = tree_of(process.pid)
            assert len(pids) >= least
        finally:
            os.kill(process.pid, number)
    assert callable(until)
    until(lambda: not [pid for pid in pids if runs(pid)], 60)
