"""The servers under measurement: Calotype on either log, filled with images."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import structlog

from tests.backends.postgres import Postgres
from tests.backends.service import Service
from tests.bench.processes import settle
from tests.bench.rig import Endpoint, Requests, Rig

COMMON_NAME, COMMON_TAG = "common-name", "common-tag"
COMMON_PROPERTY, COMMON_VALUE = "os_distro", "debian"
FILL_CONNECTIONS = 64
FILL_SECONDS = 600.0
FOLLOW_SECONDS = 120.0
"""How long the followers of the log may take for all that was filled in."""
_NAME_EVERY, _TAG_EVERY, _PROPERTY_EVERY = 40, 10, 10
_UNIQUE = "@n@"

log = structlog.get_logger("calotype.bench")


@dataclass(frozen=True, slots=True)
class Subject:
    """A filled server."""

    log: str
    log_url: str
    """The URL of a log of its own beside it, empty, for the floor."""
    folder: Path
    url: str
    """Where its own log is: what another server on the same images is started with."""
    images: int
    endpoint: Endpoint
    ids: list[str]
    """Ids of all images that it was filled with."""


@contextmanager
def subjects(rig: Rig, log_name: str) -> Iterator[tuple[Subject, Subject]]:
    """Two filled servers on the named kind of log, the first with few images."""
    options = rig.options
    with ExitStack() as stack:
        postgres = None
        if log_name == "postgresql":
            postgres = stack.enter_context(Postgres(rig.folder / "postgresql", durable=True))
        made: list[Subject] = []
        for images in (options.few_images, options.many_images):
            name = f"images_{images}" if not made else f"many_{images}"
            folder = rig.folder / log_name / name
            url = postgres.create_database(name) if postgres else ""
            floor_url = (
                postgres.create_database(f"floor_{name}")
                if postgres
                else f"sqlite:///{folder / 'floor.sqlite'}"
            )
            server = stack.enter_context(Service(folder / "data", url))
            endpoint = Endpoint(server.port, server.pid)
            ids = fill(rig, endpoint, images)
            if url:
                _gather_statistics(url)
            settle(endpoint.pid, patience_seconds=FOLLOW_SECONDS)
            made.append(Subject(log_name, floor_url, folder, url, images, endpoint, ids))
        yield made[0], made[1]


def image_body(number: int) -> str:
    """The body of a request that creates an image; `@n@` in it stands for the running number.

    Every 40th of them shares a name, every 10th a tag, and every 10th, in part others, a property.
    """
    body: dict[str, object] = {
        "name": COMMON_NAME if number % _NAME_EVERY == 0 else f"image-{_UNIQUE}",
        "disk_format": "qcow2",
        "container_format": "bare",
        "visibility": ("private", "shared", "public")[number % 3],
        "min_disk": number % 5,
        "tags": [f"group-{number % 7}"],
        "os_version": "12",
        "architecture": "x86_64",
    }
    if number % _TAG_EVERY == 0:
        body["tags"] = [f"group-{number % 7}", COMMON_TAG]
    body[COMMON_PROPERTY] = COMMON_VALUE if number % _PROPERTY_EVERY == 5 else "fedora"
    return json.dumps(body, separators=(",", ":"))


def showing(ids: list[str]) -> Requests:
    """Requests for one image after the other."""
    return Requests("GET", [f"/v2/images/{image_id}" for image_id in ids], rotate=True)


def patching(ids: list[str]) -> Requests:
    """Requests that change one property of one image after the other."""
    operation = [{"op": "replace", "path": "/os_version", "value": _UNIQUE}]
    return Requests(
        "PATCH",
        [f"/v2/images/{image_id}" for image_id in ids],
        bodies=[json.dumps(operation)],
        content_type="application/openstack-images-v2.1-json-patch",
        rotate=True,
    )


def creating(*, collect_ids: bool = False) -> Requests:
    """Requests that create images of all the kinds that filters tell apart."""
    return Requests(
        "POST",
        ["/v2/images"],
        expect=201,
        bodies=[image_body(number) for number in range(_NAME_EVERY)],
        content_type="application/json",
        collect_ids=collect_ids,
    )


def creating_raw() -> Requests:
    """Requests that create images for data of no format, which is what uploads here send."""
    body = {"name": f"data-{_UNIQUE}", "disk_format": "raw", "container_format": "bare"}
    return Requests(
        "POST",
        ["/v2/images"],
        expect=201,
        bodies=[json.dumps(body, separators=(",", ":"))],
        content_type="application/json",
        collect_ids=True,
    )


def fill(rig: Rig, endpoint: Endpoint, images: int) -> list[str]:
    """Creates so many images; their ids. Raises RuntimeError when not all were created."""
    filled = rig.run(
        endpoint,
        creating(collect_ids=True),
        connections=min(FILL_CONNECTIONS, images),
        seconds=FILL_SECONDS,
        count=images,
    )
    if filled.requests < images:
        raise RuntimeError(f"only {filled.requests} of {images} images came in: {filled.failures}")
    log.info("filled", images=images, seconds=round(filled.seconds, 1))
    return filled.ids


def _gather_statistics(url: str) -> None:
    """What autovacuum does within its first minute, so that no scenario meets it half-way."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
