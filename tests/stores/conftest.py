"""One store of every kind, each the real thing, and what may go wrong in front of it."""

import http.client
import json
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from calotype.stores.images.driver import Driver, StoredObject
from calotype.stores.images.opening import open_driver
from tests.backends.seaweedfs import SeaweedFS

BUCKET = "stores-under-test"


@dataclass
class Store:
    """A driver on an empty store, and what is needed to open the same store once more."""

    kind: str
    options: dict[str, Any]
    driver: Driver

    def finished(self) -> list[StoredObject]:
        return [thing for thing in self.driver.found() if not thing.unfinished]

    def unfinished(self) -> list[StoredObject]:
        return [thing for thing in self.driver.found() if thing.unfinished]

    def put(self, key: str, data: bytes) -> str:
        sink = self.driver.create(key, len(data))
        sink.write(data)
        sink.commit()
        return sink.url

    def get(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        source = self.driver.open(url, start, length)
        try:
            pieces = iter(lambda: source.read(1 << 20), b"")
            return b"".join(pieces)
        finally:
            source.close()

    def run(self, script: str) -> subprocess.Popen[str]:
        """A Python process whose `driver` is this store; its output is readable as it comes."""
        prologue = (
            "import json, sys\n"
            "from calotype.stores.images.opening import open_driver\n"
            "kind, options = json.loads(sys.stdin.readline())\n"
            "driver = open_driver(kind, options)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", prologue + script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps([self.kind, self.options]) + "\n")
        process.stdin.flush()
        return process


def s3_options(server: SeaweedFS, **more: Any) -> dict[str, Any]:
    return {
        "endpoint": server.endpoint,
        "bucket": BUCKET,
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        "create_bucket": True,
        "timeout_seconds": 20,
        "part_size_bytes": 5 << 20,
        **more,
    }


@pytest.fixture
def file_store(tmp_path: Path) -> Iterator[Store]:
    options = {"directory": str(tmp_path / "images")}
    driver = open_driver("file", options)
    yield Store("file", options, driver)
    driver.close()


@pytest.fixture
def s3_store(seaweedfs: SeaweedFS) -> Iterator[Store]:
    """A prefix of one bucket: each bucket would cost the server seven volumes."""
    options = s3_options(seaweedfs, prefix=f"{uuid.uuid4().hex}/")
    driver = open_driver("s3", options)
    driver.check()
    yield Store("s3", options, driver)
    driver.close()


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    """The same test on every kind of store."""
    store: Store = request.getfixturevalue(f"{request.param}_store")
    return store


@dataclass
class Reply:
    """What `Front` answers instead of the server, or after it."""

    status: int
    body: bytes
    content_type: str = "application/xml"
    headers: tuple[tuple[str, str], ...] = ()
    announced_bytes: int | None = None


LOSE_ANSWER = "the request reaches the server and its answer is lost"
CUT = "the connection breaks before the server sees the request"


class Front:
    """A real HTTP server in front of an S3 server. It forwards all that `meddle` lets pass."""

    reply = Reply
    lose_answer = LOSE_ANSWER
    cut = CUT

    def __init__(self, behind: str) -> None:
        self.behind = behind.removeprefix("http://")
        self.meddle: Callable[[str, str], Reply | str | None] = lambda method, path: None
        self.seen: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(front: Front) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            front.seen.append(f"{self.command} {self.path}")
            wish = front.meddle(self.command, self.path)
            if isinstance(wish, Reply):
                self.answer(wish)
            elif wish == CUT:
                self.hang_up()
            else:
                reply = self.forward(body)
                if wish == LOSE_ANSWER:
                    self.hang_up()
                else:
                    self.answer(reply)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

        def forward(self, body: bytes) -> Reply:
            behind = http.client.HTTPConnection(front.behind, timeout=20)
            behind.request(self.command, self.path, body or None, dict(self.headers.items()))
            answer = behind.getresponse()
            data, length = answer.read(), answer.headers.get("Content-Length")
            kept = [(k, v) for k, v in answer.headers.items() if k.lower() not in _OWN_HEADERS]
            kind = answer.headers.get("Content-Type", "")
            size = int(length) if self.command == "HEAD" and length else None
            behind.close()
            return Reply(answer.status, data, kind, tuple(kept), size)

        def answer(self, reply: Reply) -> None:
            self.send_response(reply.status)
            announced = reply.announced_bytes
            self.send_header(
                "Content-Length", str(len(reply.body) if announced is None else announced)
            )
            if reply.content_type:
                self.send_header("Content-Type", reply.content_type)
            for name, value in reply.headers:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)
                if announced is not None and announced > len(reply.body):
                    self.hang_up()

        def hang_up(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    return Handler


_OWN_HEADERS = ("content-length", "content-type", "connection", "transfer-encoding", "date")


@pytest.fixture
def seaweedfs_of_its_own(tmp_path: Path) -> Iterator[Callable[..., tuple[SeaweedFS, Store]]]:
    """Starts a server that the test may kill, with a store on it."""
    servers: list[SeaweedFS] = []

    def start(**limits: int) -> tuple[SeaweedFS, Store]:
        server = SeaweedFS(tmp_path / f"server-{len(servers)}", **limits)
        servers.append(server)
        server.start()
        options = s3_options(server)
        driver = open_driver("s3", options)
        driver.check()
        return server, Store("s3", options, driver)

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def front(seaweedfs: SeaweedFS) -> Iterator[Front]:
    front = Front(seaweedfs.endpoint)
    yield front
    front.close()
