"""The real components that tests share: PostgreSQL, SeaweedFS, and `calotype serve` itself."""

import json
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.backends.service import Service


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a database server's `postgres` database: CALOTYPE_TEST_POSTGRES or one of our own."""
    given = os.environ.get("CALOTYPE_TEST_POSTGRES")
    if given:
        yield given
        return
    from tests.backends.postgres import Postgres

    # Not below pytest's own folder: other runs of the same user may take that away from `nobody`.
    with (
        tempfile.TemporaryDirectory(prefix="calotype-") as folder,
        Postgres(Path(folder)) as server,
    ):
        yield server.url()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of a fresh, empty database that is dropped after the test."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield (
        psycopg.conninfo.make_conninfo(postgres_server, dbname=name)
        if "://" not in (postgres_server)
        else postgres_server.rsplit("/", 1)[0] + f"/{name}"
    )
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a fresh log, on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.sqlite'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator["SeaweedFS"]:  # noqa: F821
    """A running S3 server."""
    from tests.backends.seaweedfs import SeaweedFS

    with SeaweedFS(Path(tmp_path_factory.mktemp("seaweedfs"))) as server:
        yield server


@dataclass
class Cloud:
    """A running Keystone with a project of ours and people in two others."""

    server: "Keystone"  # noqa: F821
    accounts: "Accounts"  # noqa: F821
    projects: dict[str, str]
    """Ids by name: `service`, `red` and `blue`."""
    users: dict[str, str]
    """Ids by name."""

    PASSWORDS = {
        name: f"{name}-{uuid.uuid4().hex}"
        for name in ("calotype", "nova", "manager", "member", "reader", "neighbour")
    }

    def token(self, user: str, project: str = "red") -> str:
        """A new token of a user for a project."""
        return self.accounts.token(user, self.PASSWORDS[user], project=project).id

    @property
    def settings(self) -> dict[str, str]:
        """What an installation needs in `[keystone]`."""
        password = self.PASSWORDS["calotype"]
        return {"url": self.server.url, "username": "calotype", "password": password}


@pytest.fixture(scope="session")
def keystone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A real Keystone with users of every role; `admin` is admin of the project `admin`."""
    from tests.backends.keystone import Keystone
    from tests.backends.keystone_accounts import Accounts

    with Keystone(tmp_path_factory.mktemp("keystone")) as server:
        accounts = Accounts(server.url, server.admin_password)
        projects = {name: accounts.project(name) for name in ("service", "red", "blue")}
        grants = {
            "calotype": {projects["service"]: ["service"]},
            "nova": {projects["service"]: ["service"]},
            "manager": {projects["red"]: ["manager"]},
            "member": {projects["red"]: ["member"]},
            "reader": {projects["red"]: ["reader"]},
            "neighbour": {projects["blue"]: ["member"]},
        }
        passwords = Cloud.PASSWORDS
        users = {name: accounts.user(name, passwords[name], of) for name, of in grants.items()}
        yield Cloud(server, accounts, projects, users)


@dataclass
class Amqp:
    """A running RabbitMQ, read by a client that is not ours."""

    url: str
    server: "RabbitMQ | None"  # noqa: F821
    """None: it is not ours to stop."""

    def restartable(self) -> "RabbitMQ":  # noqa: F821
        """The server, which a test may stop; fails where it is not ours."""
        if self.server is None:
            pytest.fail("CALOTYPE_TEST_AMQP names a broker that is not ours to stop")
        return self.server

    def drain(self, queue: str) -> list[dict[str, Any]]:
        """Takes all messages from the queue: the notification inside, `headers`, `amqp_id`."""
        import amqp
        from yarl import URL

        url = URL(self.url)
        taken = []
        with amqp.Connection(f"{url.host}:{url.port}", url.user, url.password) as connection:
            channel = connection.channel()
            try:
                while (message := channel.basic_get(queue, no_ack=True)) is not None:
                    body = json.loads(message.body)
                    assert body["oslo.version"] == "2.0"
                    assert message.properties["content_type"] == "application/json"
                    taken.append(
                        json.loads(body["oslo.message"])
                        | {
                            "headers": message.properties["application_headers"],
                            "amqp_id": message.properties["message_id"],
                        }
                    )
            except amqp.NotFound:
                pass  # Nothing was sent to it so far.
        return taken


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Amqp]:
    """A real RabbitMQ: the one that CALOTYPE_TEST_AMQP names, or one of our own."""
    from tests.backends.rabbitmq import RabbitMQ

    given = os.environ.get("CALOTYPE_TEST_AMQP")
    if given:
        yield Amqp(given, None)
        return
    with RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield Amqp(server.url, server)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Nats"]:  # noqa: F821
    """A real NATS server with JetStream."""
    from tests.backends.nats import Nats

    with Nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def service_class() -> type[Service]:
    """For services that a test makes, starts and kills by itself."""
    return Service


@pytest.fixture(params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A service, not yet started, on each log."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    service = Service(tmp_path / "data", url)
    yield service
    service.kill()


@pytest.fixture
def second_service(service: Service) -> Iterator[Service]:
    """Another process on the log of `service`, not yet started."""
    second = Service(service.folder, service.log_url)
    second.environment = service.environment
    yield second
    second.kill()


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[Any]:
    """Makes services on the embedded log."""
    made: list[Service] = []

    def make(**environment: str) -> Service:
        made.append(Service(tmp_path / f"data{len(made)}", None, **environment))
        return made[-1]

    yield make
    for service in made:
        service.kill()


def until(condition: Any, seconds: float = 40.0) -> Any:
    """Waits until the condition is true and returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)
    return result


@pytest.fixture(name="until")
def until_fixture() -> Any:
    return until


@dataclass
class Received:
    """One request that a receiver of webhooks got."""

    at: float
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event


class Receiver:
    """A real HTTP server on loopback that notes what it gets; `answer` says what it answers.

    `answer` runs in a thread of its own for each connection, so it may take its time.
    """

    def __init__(self) -> None:
        self.got: list[Received] = []
        self.answer: Callable[[Received], int | tuple[int, dict[str, str]]] = lambda received: 204
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def events(self, path: str = "/") -> list[dict[str, Any]]:
        """The events that came to a path, in the order in which they came."""
        return [received.event for received in list(self.got) if received.path == path]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                received = Received(time.monotonic(), self.path, headers, body)
                receiver.got.append(received)
                answer = receiver.answer(received)
                status, more = answer if isinstance(answer, tuple) else (answer, {})
                self.send_response(status)
                for name, value in {"Content-Length": "0", **more}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where webhooks of a test lead."""
    receiver = Receiver()
    yield receiver
    receiver.close()
