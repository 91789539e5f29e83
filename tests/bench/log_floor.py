"""The floor of writing: the event log alone, given the same events from asyncio.

Run as a module with a log's URL it creates the tables and reads jobs, one JSON object a line:
`kind` ("create" or "patch"), `body` (of the request that is compared), `waiting` (commands at
once), `seconds`, `rows` (whether the query rows are written too). It answers with `appends`,
`seconds` and `cpu_seconds`.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import uvloop
from eventsourcing.persistence import StoredEvent

from calotype.commands.images import fields as rules
from calotype.commands.images.events import ImageEvent
from calotype.commands.images.image import Image, create
from calotype.commands.policy.actor import Cause
from calotype.ops.settings.log import Log
from calotype.ops.settings.settings import Settings
from calotype.ops.wiring.composition import migrate, recorder_of
from calotype.projections.images.rows import rows_of
from calotype.stores.log.append import Append
from calotype.stores.log.log import event_mapper
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Replace

_CAUSE = Cause(
    {"user": "admin", "project": "default", "roles": ["admin"]}, f"req-{uuid4()}", None, "0" * 16
)
Write = tuple[StoredEvent, Callable[[], list[Replace]]]


def _image(body: dict[str, Any]) -> Image:
    fields, tags, properties = rules.split_body(body)
    fields["owner"] = "default"
    return create(_CAUSE, image_id=str(uuid4()), fields=fields, tags=tags, properties=properties)


def _pending(image: Image) -> list[ImageEvent]:
    return [event for event in image.collect_events() if isinstance(event, ImageEvent)]


def _creations(body: dict[str, Any]) -> Iterator[Write]:
    """New images without end: the event is made once, each write takes its own id."""
    image = _image(body)
    events = _pending(image)
    model = event_mapper().to_stored_event(events[0])
    changes = rows_of(image, events)
    while True:
        yield _readdressed(model, changes, uuid4(), 1)


def _updates(body: dict[str, Any], aggregate_id: UUID) -> Iterator[Write]:
    """One image created, and then updated without end."""
    image = _image({"name": "floor", **body})
    created = _pending(image)
    yield _readdressed(
        event_mapper().to_stored_event(created[0]), rows_of(image, created), aggregate_id, 1
    )
    turns = []
    # Two in turn, because rows that stay as they are need not be written.
    for value in ("12", "13"):
        image.update(
            _CAUSE,
            fields={},
            properties=dict.fromkeys(body, value),
            removed_properties=[],
            tags=None,
        )
        updated = _pending(image)
        turns.append((event_mapper().to_stored_event(updated[0]), rows_of(image, updated)))
    for version, (model, changes) in enumerate(itertools.cycle(turns), 2):
        yield _readdressed(model, changes, aggregate_id, version)


def _readdressed(
    model: StoredEvent, changes: list[Replace], aggregate_id: UUID, version: int
) -> Write:
    stored = StoredEvent(
        originator_id=aggregate_id,
        originator_version=version,
        topic=model.topic,
        state=model.state,
    )

    def rows() -> list[Replace]:
        return [
            Replace(change.table, aggregate_id, [(aggregate_id, *row[1:]) for row in change.rows])
            for change in changes
        ]

    return stored, rows


async def _append_until(
    recorder: GroupCommitRecorder, writes: Iterator[Write], with_rows: bool, stop_at: float
) -> int:
    loop = asyncio.get_running_loop()
    appends = 0
    for stored, rows in writes:
        if time.perf_counter() >= stop_at:
            break
        future: asyncio.Future[list[int]] = loop.create_future()
        recorder.submit(Append([stored], rows if with_rows else None, None, future))
        await future
        appends += 1
    return appends


async def _work(recorder: GroupCommitRecorder, job: dict[str, Any]) -> dict[str, float]:
    started, cpu = time.perf_counter(), time.process_time()
    stop_at = started + job["seconds"]
    sources = [
        _creations(job["body"]) if job["kind"] == "create" else _updates(job["body"], uuid4())
        for _ in range(job["waiting"])
    ]
    counts = await asyncio.gather(
        *(_append_until(recorder, source, job["rows"], stop_at) for source in sources)
    )
    return {
        "appends": sum(counts),
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
    }


def main(url: str) -> None:
    """Works on jobs until standard input ends."""
    recorder = recorder_of(Settings(log=Log(url=url)))
    migrate(recorder)
    try:
        while line := sys.stdin.buffer.readline():
            answer = uvloop.run(_work(recorder, json.loads(line)))
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        recorder.close_now()


if __name__ == "__main__":
    main(sys.argv[1])
