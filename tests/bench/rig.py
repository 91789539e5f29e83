"""The rig: puts load on a server and reads what the server used meanwhile."""

import base64
import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from tests.bench.figures import Row, Slice, Target
from tests.bench.options import Options
from tests.bench.processes import (
    Partner,
    cpu_seconds,
    forget_peak_memory,
    peak_memory_bytes,
)

MOST_REQUESTS = 10_000_000
_GRACE_SECONDS = 60.0
_HOP_HEADERS = frozenset({"date", "server", "content-length", "connection"})

log = structlog.get_logger("calotype.bench")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that load is put on."""

    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class Requests:
    """What to ask for; the keys of a job of `tests.bench.load`."""

    method: str
    paths: Sequence[str]
    expect: int = 200
    bodies: Sequence[str] = ()
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    upload_bytes: int = 0
    collect_ids: bool = False
    rotate: bool = False

    def asked(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            "method": self.method,
            "paths": list(self.paths),
            "expect": self.expect,
            "upload_bytes": self.upload_bytes,
            "collect_ids": self.collect_ids,
            "rotate": self.rotate,
            "headers": dict(self.headers),
        }
        if self.bodies:
            given["bodies"] = list(self.bodies)
        if self.content_type is not None:
            given["content_type"] = self.content_type
        return given


@dataclass(slots=True)
class Rig:
    """The load generator and the bare server, started once for a run, and what was found."""

    options: Options
    folder: Path
    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    _loader: Partner = field(init=False)
    _bare: Partner = field(init=False)
    _running_number: int = 0

    def __enter__(self) -> Self:
        self._loader = Partner("tests.bench.load")
        self._bare = Partner("tests.bench.bare")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loader.__exit__()
        self._bare.__exit__()

    def run(
        self,
        endpoint: Endpoint,
        requests: Requests,
        *,
        connections: int,
        seconds: float,
        count: int = MOST_REQUESTS,
        ramp_seconds: float | None = None,
    ) -> Slice:
        """Puts the load on for `seconds` or `count` requests, whichever ends first.

        With `ramp_seconds` running requests are cut off at the end, and only bytes after the
        ramp count. Running numbers of requests never repeat within a run of the benchmark.
        Raises RuntimeError when not one request was answered as it should be.
        """
        give_up_seconds = seconds + _GRACE_SECONDS
        job = requests.asked() | {
            "port": endpoint.port,
            "connections": connections,
            "seconds": seconds,
            "count": count,
            "first": self._running_number,
            "give_up_seconds": give_up_seconds,
            "ramp_seconds": ramp_seconds,
        }
        self._loader.ask(job)
        forget_peak_memory(endpoint.pid)
        before = cpu_seconds(endpoint.pid)
        seen = self._loader.ask({}, patience_seconds=give_up_seconds + _GRACE_SECONDS)
        cpu = cpu_seconds(endpoint.pid) - before
        self._running_number += sum(seen["statuses"].values()) + connections
        part = _slice_of(seen, requests.expect, cpu, endpoint)
        if ramp_seconds is None and not part.requests:
            # A ratio made of nothing would look like a good one.
            raise RuntimeError(f"no {requests.method} was answered well: {part.failures}")
        return part

    def bare_like(self, endpoint: Endpoint, requests: Requests) -> Endpoint:
        """Teaches the bare server what `endpoint` answers to such a request.

        The request is made once for that. Raises RuntimeError when the answer is not the
        expected one.
        """
        self._running_number += 1
        number = str(self._running_number)
        status, headers, answered = _conversation(
            endpoint,
            requests.method,
            requests.paths[0].replace("@n@", number),
            requests.bodies[0].replace("@n@", number) if requests.bodies else None,
            requests.content_type,
        )
        if status != requests.expect:
            raise RuntimeError(f"{requests.method} was answered {status}: {answered[:500]!r}")
        kept = {name: value for name, value in headers if name.lower() not in _HOP_HEADERS}
        taught = self._bare.ask(
            {"status": status, "headers": kept, "body": base64.b64encode(answered).decode()}
        )
        return Endpoint(taught["port"], self._bare.pid)

    def document(self, endpoint: Endpoint, path: str) -> dict[str, Any]:
        """The JSON object at `path`. Raises RuntimeError when the answer is not 200."""
        status, _, body = _conversation(endpoint, "GET", path)
        if status != 200:
            raise RuntimeError(f"GET {path} was answered {status}: {body[:500]!r}")
        return dict(json.loads(body))

    def found(self, row: Row) -> None:
        """Keeps a row, and tells about it at once."""
        self.rows.append(row)
        log.info(
            row.scenario,
            log=row.log,
            images=row.images,
            connections=row.connections,
            per_second=round(row.requests_per_second or 0.0, 1),
            ratios={name: round(value, 2) for name, value in row.ratios.items()},
            **({"failures": row.failures} if row.failures else {}),
        )


def _slice_of(seen: dict[str, Any], expect: int, cpu: float, endpoint: Endpoint) -> Slice:
    statuses = {key: int(value) for key, value in seen["statuses"].items()}
    return Slice(
        seconds=seen["seconds"],
        latencies=seen["latencies"],
        failures={key: count for key, count in statuses.items() if key != str(expect)},
        bytes_moved=seen["bytes"],
        window_bytes=seen["window_bytes"],
        cpu_seconds=cpu,
        peak_memory_bytes=peak_memory_bytes(endpoint.pid),
        ids=seen["ids"],
    )


def _conversation(
    endpoint: Endpoint,
    method: str,
    path: str,
    body: str | None = None,
    content_type: str | None = None,
) -> tuple[int, list[tuple[str, str]], bytes]:
    """One request over a connection of its own: status, headers and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=60)
    try:
        headers = {"Content-Type": content_type} if content_type else {}
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()
