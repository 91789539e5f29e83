"""What it costs to know who asks: show with a token of Keystone, or a password, against nobody."""

import base64
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import bcrypt

from tests.backends.keystone import Keystone
from tests.backends.keystone_accounts import Accounts
from tests.backends.service import Service
from tests.bench.figures import Slice, Target, median_ratio, row_of
from tests.bench.options import BenchError
from tests.bench.processes import settle
from tests.bench.rig import Endpoint, Requests, Rig
from tests.bench.subjects import Subject

TARGET = 1.25
"""How much CPU a request may take whose caller is known already, as times of one without."""
_WARM_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Known:
    """A server that asks who comes, and what somebody sends whom it has let in before."""

    scenario: str
    endpoint: Endpoint
    headers: Mapping[str, str]


def measure_identity(rig: Rig, subject: Subject) -> None:
    """GET of one image by an administrator, on servers of the same images.

    The subject's own server asks nobody. Raises BenchError where there is no Keystone to start.
    """
    paths = [f"/v2/images/{image_id}" for image_id in subject.ids]
    with _by_token(rig, subject) as token, _by_password(rig, subject) as password:
        for known in (token, password):
            for connections in rig.options.connections:
                _against_none(rig, subject, known, paths, connections)


def _against_none(
    rig: Rig, subject: Subject, known: Known, paths: list[str], connections: int
) -> None:
    plain = Requests("GET", paths, rotate=True)
    asked = Requests("GET", paths, rotate=True, headers=known.headers)
    both = ((subject.endpoint, plain), (known.endpoint, asked))
    for endpoint, requests in both:
        rig.run(endpoint, requests, connections=connections, seconds=_WARM_SECONDS)
    seen: tuple[list[Slice], list[Slice]] = ([], [])
    for number in range(rig.options.rounds):
        # Every other round goes backwards, so that a machine that slows down favours nobody.
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            endpoint, requests = both[place]
            seconds = rig.options.slice_seconds
            part = rig.run(endpoint, requests, connections=connections, seconds=seconds)
            seen[place].append(part)
    row = row_of(
        seen[1],
        scenario=known.scenario,
        log=subject.log,
        images=subject.images,
        connections=connections,
    )
    row.floors["none cpu ms"] = median(map(_cpu_per_request, seen[0])) * 1000
    ratio = median_ratio(seen[1], seen[0], _cpu_per_request)
    row.ratios["cpu / none"] = ratio
    rig.found(row)
    what = f"{known.scenario}, {connections} connections"
    rig.targets.append(Target(what, subject.log, ratio, TARGET, True, "times the cpu of none"))


@contextmanager
def _by_token(rig: Rig, subject: Subject) -> Iterator[Known]:
    """A real Keystone, and a server that asks it."""
    try:
        keystone = Keystone(rig.folder / f"keystone-{subject.log}")
        keystone.start()
    except RuntimeError as error:
        raise BenchError(f"identity: {error}") from None
    try:
        accounts = Accounts(keystone.url, keystone.admin_password)
        password = secrets.token_hex(16)
        accounts.user("calotype", password, {accounts.project("service"): ["service"]})
        settings = {
            "CALOTYPE_IDENTITY__KIND": "keystone",
            "CALOTYPE_KEYSTONE__URL": keystone.url,
            "CALOTYPE_KEYSTONE__USERNAME": "calotype",
            "CALOTYPE_KEYSTONE__PASSWORD": password,
        }
        token = accounts.token("admin", keystone.admin_password, project="admin").id
        with _server(subject, settings) as endpoint:
            yield Known("show by token", endpoint, {"X-Auth-Token": token})
    finally:
        keystone.kill()


@contextmanager
def _by_password(rig: Rig, subject: Subject) -> Iterator[Known]:
    """A server with one user in a file."""
    password = secrets.token_hex(16)
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt()).decode()
    file = rig.folder / f"htpasswd-{subject.log}"
    file.write_text(f"admin:{hashed}\n")
    settings = {
        "CALOTYPE_IDENTITY__KIND": "http_basic",
        "CALOTYPE_HTTP_BASIC__FILE": str(file),
        "CALOTYPE_HTTP_BASIC__ROLES": '["admin"]',
    }
    pair = base64.b64encode(f"admin:{password}".encode()).decode()
    with _server(subject, settings) as endpoint:
        yield Known("show by password", endpoint, {"Authorization": f"Basic {pair}"})


@contextmanager
def _server(subject: Subject, settings: Mapping[str, str]) -> Iterator[Endpoint]:
    """One more server on the subject's log."""
    with Service(subject.folder / "data", subject.url, **settings) as server:
        settle(server.pid)
        yield Endpoint(server.port, server.pid)


def _cpu_per_request(part: Slice) -> float:
    return part.cpu_per_request
