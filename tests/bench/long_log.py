"""A long log in little time: real events of made-up images, written past the group commit."""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from eventsourcing.persistence import StoredEvent

from calotype.commands.images.image import Image, create
from calotype.commands.policy.actor import Cause
from calotype.stores.log.log import event_mapper
from calotype.stores.log.sqlite.connections import ThreadConnection

COHORT_IMAGES = 500
"""So many images live at the same time: their events alternate in the log."""
PROJECTS = 200
_ROWS = 20_000
_START = datetime(2026, 1, 1, tzinfo=UTC)
_FIELDS: dict[str, Any] = {
    "visibility": "private",
    "protected": False,
    "os_hidden": False,
    "disk_format": "qcow2",
    "container_format": "bare",
    "min_disk": 0,
    "min_ram": 0,
}
_COPY = (
    "COPY stored_events (notification_id, originator_id, originator_version, topic, state) "
    "FROM STDIN"
)
_INSERT = (
    "INSERT INTO stored_events "
    "(notification_id, originator_id, originator_version, topic, state) VALUES (?, ?, ?, ?, ?)"
)

Row = tuple[int, str, int, str, bytes]


def fill(log_url: str, events: int) -> None:
    """Writes so many events, or a few more, into an empty log whose tables are made already."""
    if log_url.startswith("sqlite"):
        _fill_sqlite(log_url.removeprefix("sqlite:///"), events)
    else:
        _fill_postgresql(log_url, events)


def rows(events: int, seed: int = 1) -> Iterator[Row]:
    """The rows of `stored_events` in the order of the log; the same for the same seed."""
    chance = random.Random(seed)
    mapper = event_mapper()
    position, now = 0, _START
    while position < events:
        lives = [iter(_life(chance)) for _ in range(COHORT_IMAGES)]
        while lives:
            for life in list(lives):
                event = next(life, None)
                if event is None:
                    lives.remove(life)
                    continue
                position += 1
                now += timedelta(milliseconds=chance.randrange(1, 400))
                yield _row(mapper.to_stored_event(_at(event, now)), position)


def _row(stored: StoredEvent, position: int) -> Row:
    return (
        position,
        str(stored.originator_id),
        stored.originator_version,
        stored.topic,
        stored.state,
    )


def _at(event: Any, moment: datetime) -> Any:
    event.__dict__["timestamp"] = moment
    return event


def _life(chance: random.Random) -> Sequence[Any]:
    """Some five events of one image: born, described, filled, changed, and now and then more."""
    number = chance.randrange(10**9)
    project = f"project-{chance.randrange(PROJECTS)}"
    actor = {"user": f"user-{number % 1000}", "project": project, "roles": ["member", "reader"]}
    cause = Cause(actor, f"req-{_uuid(chance)}", None, str(_uuid(chance)))
    image_id = _uuid(chance)
    visibility = ("private", "shared", "private", "public", "community")[number % 5]
    image = create(
        cause,
        image_id=str(image_id),
        fields={**_FIELDS, "name": f"image-{number}", "owner": project, "visibility": visibility},
        tags=[f"group-{number % 7}"],
        properties={"os_distro": ("debian", "fedora")[number % 2], "os_version": str(number % 20)},
    )
    if number % 3 == 0:
        image.add_member(cause, f"project-{chance.randrange(PROJECTS)}")
    _store(image, cause, chance)
    image.update(
        cause,
        fields={"name": f"renamed-{number}"},
        properties={"architecture": "x86_64"},
        removed_properties=[],
        tags=None,
    )
    if number % 4 == 0:
        image.add_tag(cause, f"late-{number % 11}")
    if number % 10 == 0:
        image.delete(cause)
    return image.collect_events()


def _store(image: Image, cause: Cause, chance: random.Random) -> None:
    upload_id = str(_uuid(chance))
    url = f"file:///images/{image.image_id}-{upload_id}"
    image.start_upload(cause, upload_id=upload_id, store="default", url=url, holder="process")
    image.store_data(
        cause,
        upload_id=upload_id,
        url=url,
        size=chance.randrange(1, 1 << 33),
        virtual_size=1 << 33,
        checksum=f"{chance.getrandbits(128):032x}",
        os_hash_algo="sha512",
        os_hash_value=f"{chance.getrandbits(512):0128x}",
    )


def _uuid(chance: random.Random) -> UUID:
    return UUID(int=chance.getrandbits(128), version=4)


def _fill_sqlite(path: str, events: int) -> None:
    with closing(ThreadConnection(path)) as own:
        own.connection.execute("PRAGMA synchronous=OFF")
        own.connection.execute("PRAGMA cache_size=-200000")
        waiting: list[Row] = []
        for row in rows(events):
            waiting.append(row)
            if len(waiting) == _ROWS:
                _insert(own, waiting)
        _insert(own, waiting)
        own.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _insert(own: ThreadConnection, waiting: list[Row]) -> None:
    own.connection.execute("BEGIN IMMEDIATE")
    own.connection.executemany(_INSERT, waiting)
    own.connection.execute("COMMIT")
    waiting.clear()


def _fill_postgresql(url: str, events: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        with connection.cursor().copy(_COPY) as copy:
            for row in rows(events):
                copy.write_row(row)
        connection.execute("ANALYZE stored_events")
