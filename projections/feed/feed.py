"""The feed: pages of events in the order of the log, for readers that may know of them.

Each request reads its page from the log, and nothing is remembered of readers: a slow consumer
costs no memory and no consumer can lose its place. Operators read the log itself, a project the
table of audiences, which follows the log and whose checkpoint is then the end of the feed.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from calotype.commands.errors import Forbidden, Invalid
from calotype.commands.images.download import LOG_EVENT_TYPES
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import may, require_call
from calotype.projections.engine.positions import Positions, positions_of
from calotype.projections.feed.audience import EVENT_AUDIENCE, FOLLOWER, FULL, OWN, SHARED
from calotype.projections.feed.cloudevents import encoded_event, encoded_snapshot, topic_of
from calotype.projections.feed.commit_watcher import LOG_ENDS, CommitWatcher
from calotype.projections.past.row_versions import (
    FOLLOWER as VERSIONS_FOLLOWER,
)
from calotype.projections.past.row_versions import (
    IMAGE_VERSIONS,
    MEMBER_VERSIONS,
    blocks_at,
)
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.statements import within_bytes

WINDOW_EVENTS = 5000
"""How many events one page looks at for some types that may be rare."""
CHUNK_EVENTS = 100
"""How many events are looked up at once."""
STEP_IMAGES = 64
"""How many images of a snapshot are read at once."""
COUNTED_EVENTS = 50_000
"""How many events are looked at to count those of some types."""
PAGE_BYTES = 4 << 20
"""A page that has become this long ends early."""

_COLUMNS = "s.notification_id, s.originator_id, s.originator_version, s.topic, s.state"
_OF_ALL = f"SELECT {_COLUMNS}, '{FULL}' FROM stored_events s WHERE s.notification_id > :after"
# CROSS JOIN makes SQLite walk the tables in this order; PostgreSQL decides for itself.
_OF_PROJECT = (
    f"SELECT {_COLUMNS}, a.view FROM {EVENT_AUDIENCE.name} a CROSS JOIN stored_events s "
    "WHERE a.project = :project AND a.position > :after AND s.notification_id = a.position"
)
_OF_PROJECT_AND_IMAGE = (
    f"SELECT {_COLUMNS}, a.view FROM stored_events s CROSS JOIN {EVENT_AUDIENCE.name} a "
    "WHERE a.project = :project AND s.notification_id > :after AND a.position = s.notification_id"
)
_WINDOW_OF_PROJECT = (
    f"SELECT position FROM {EVENT_AUDIENCE.name} WHERE project = :project AND position > :after "
    "ORDER BY position LIMIT 1 OFFSET :skipped"
)
_HELD = "i.from_position <= :at AND i.to_position > :at"
_IMAGES = (
    f"SELECT i.id, i.document, '{FULL}' FROM {IMAGE_VERSIONS.name} i "
    f"WHERE i.id > :marker AND {_HELD} ORDER BY i.id LIMIT :limit"
)
_IMAGES_OF_PROJECT = (
    f"SELECT * FROM (SELECT i.id, i.document, '{OWN}' AS view FROM {IMAGE_VERSIONS.name} i "
    f"WHERE i.block IN (%s) AND i.owner = :project AND i.id > :marker AND {_HELD} "
    f"UNION ALL SELECT i.id, i.document, '{SHARED}' AS view "
    f"FROM {MEMBER_VERSIONS.name} m CROSS JOIN {IMAGE_VERSIONS.name} i "
    "WHERE m.member = :project AND m.from_position <= :at AND m.to_position > :at "
    f"AND i.id = m.image_id AND i.id > :marker AND {_HELD} AND i.visibility = 'shared' "
    "AND (i.owner IS NULL OR i.owner <> :project)) seen ORDER BY id LIMIT :limit"
)
BEFORE_ALL = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Question:
    """What a consumer wants to read."""

    project: str | None
    """Whose feed; None is the feed of operators, with everything."""
    after: int
    """The position that was read last; 0 for the beginning."""
    limit: int
    types: tuple[str, ...] = ()
    """Only these event types; empty for all."""
    image: UUID | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the feed."""

    events: list[tuple[int, bytes]]
    """Position and CloudEvent of each event, in order."""
    next: int
    """The position to read on after: nothing up to it is missing."""
    full: bool
    """Whether more may follow at once. The same question then always has this answer."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A page of the images as they were at a position, in order of their ids."""

    images: list[bytes]
    position: int
    next_marker: UUID | None
    """The image to read on after, or None when these were the last."""


def reader_of(actor: Actor) -> str | None:
    """The project whose feed the actor reads; None: everything. Raises Forbidden."""
    if may(actor, "get_all_events"):
        return None
    text = "Only readers of a project, auditors and administrators read the feed."
    require_call(actor, "get_events", text)
    if actor.project is None:
        raise Forbidden(text)
    return actor.project


def known_types(names: Iterable[str], field: str = "types") -> tuple[str, ...]:
    """The topics of event types, named with their prefix or without, each once and in order.

    Raises Invalid for one that does not exist.
    """
    types = tuple(sorted({topic_of(name) for name in names}))
    for name in types:
        if name not in LOG_EVENT_TYPES:
            shown = name.encode("utf-8", "replace").decode()[:40]
            raise Invalid(f"There is no event type '{shown}'; see /log/v1/schemas.", field)
    return types


class Feed:
    """The feed of one log. Requests with the same question at the same time share one read."""

    def __init__(self, recorder: GroupCommitRecorder) -> None:
        self._recorder = recorder
        self._positions: Positions | None = None
        self._reads: dict[Question, asyncio.Task[Page]] = {}
        self.watcher = CommitWatcher(recorder)

    async def positions(self) -> Positions:
        """The public form of this log's positions."""
        if self._positions is None:
            self._positions = await positions_of(self._recorder)
        return self._positions

    async def decode(self, text: str, field: str) -> int:
        """The position. Raises Invalid naming `field` for one that this log has not reached."""
        position = (await self.positions()).decode(text, field)
        if position > (await self._ends())[0]:
            raise Invalid(f"'{field}' is beyond the end of the event log.", field)
        return position

    async def head(self) -> int:
        """The last position of the log, which a feed may still be on the way to."""
        return (await self._ends())[0]

    async def page(self, question: Question) -> Page:
        """The next events, as many as the question's limit."""
        read = self._reads.get(question)
        if read is None:
            read = self._reads[question] = asyncio.create_task(self._read(question))
            read.add_done_callback(lambda _: self._reads.pop(question, None))
        # One consumer that vanishes must not end the read that others wait for.
        return await asyncio.shield(read)

    async def page_or_wait(self, question: Question, seconds: float) -> Page:
        """The same; while there is nothing, waits for something for so many seconds at most."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            page = await self.page(question)
            left = deadline - asyncio.get_running_loop().time()
            if page.events or page.full or left <= 0 or self.watcher.ended:
                return page
            await self.watcher.wait(question.project, page.next, left)

    async def at(
        self, project: str | None, positions: Sequence[int], *, limit_bytes: int | None = None
    ) -> dict[int, bytes]:
        """The CloudEvents of these positions, of those that the reader may know of.

        With `limit_bytes` only the first of them, until they have become so long.
        """
        known = await self.positions()
        events: dict[int, bytes] = {}
        waiting, size = sorted(positions), 0
        while waiting and (limit_bytes is None or size < limit_bytes):
            some = waiting[:CHUNK_EVENTS]
            values: dict[str, Any] = {f"p{n}": position for n, position in enumerate(some)}
            wanted = f" AND s.notification_id IN ({', '.join(f':{name}' for name in values)})"
            values |= {"after": 0, "project": project, "limit": len(some), "bytes": PAGE_BYTES}
            sql = (_OF_ALL if project is None else _OF_PROJECT_AND_IMAGE) + wanted
            place = "s.notification_id"
            sql += f" AND {within_bytes(place, sql.partition(' FROM ')[2])} ORDER BY {place}"
            rows = await self._recorder.fetch(sql, values)
            events |= {row[0]: encoded_event(known, row) for row in rows}
            read_bytes = sum(len(row[4]) for row in rows)
            reached = some[-1] if read_bytes < PAGE_BYTES else rows[-1][0]
            waiting = [position for position in waiting if position > reached]
            size += read_bytes
        return events

    async def ahead(self, question: Question) -> tuple[int, bool]:
        """How many events follow, up to the question's limit, and whether there are more.

        There may be more, too, where so many are looked at that none of them is wanted.
        """
        head, reached = await self._ends()
        stop = end = head if question.project is None else reached
        if question.types and question.image is None:
            stop = await self._end_of_window(question, end, COUNTED_EVENTS)
        elif question.project is None and question.image is None:
            count = max(0, end - question.after)  # Positions have no gaps.
            return min(count, question.limit), count > question.limit
        sql, _, values = self._statement(question, question.after, stop, question.limit + 1)
        counted = f"SELECT count(*) FROM ({sql} LIMIT :limit) ahead"
        rows = await self._recorder.fetch(counted, values, heavy=True)
        count = rows[0][0]
        return min(count, question.limit), count > question.limit or stop < end

    async def snapshot(
        self, project: str | None, position: int | None, marker: UUID, limit: int
    ) -> Snapshot:
        """The images that the reader may see at the position (None: the latest that
        can be read), after the image `marker`, without the public ones of others."""
        head, reached = await self._ends(VERSIONS_FOLLOWER)
        at = min(reached, head) if position is None else position
        if at > reached:
            raise Invalid("'snapshot' is a position that cannot be asked for yet.", "snapshot")
        values: dict[str, Any] = {"at": at}
        sql = _IMAGES
        if project is not None:
            blocks = {f"b{n}": block for n, block in enumerate(blocks_at(at, head))}
            sql = _IMAGES_OF_PROJECT % ", ".join(f":{name}" for name in blocks)
            values |= {"project": project, **blocks}
        positions = await self.positions()
        images: list[bytes] = []
        more, size = True, 0
        while more and len(images) < limit and size < PAGE_BYTES:
            wanted = min(STEP_IMAGES, limit - len(images))
            values |= {"marker": marker, "limit": wanted + 1}
            rows = await self._recorder.fetch(sql, values, heavy=True)
            more = len(rows) > wanted
            for row in rows[:wanted]:
                if size >= PAGE_BYTES:
                    more = True
                    break
                images.append(encoded_snapshot(positions, at, *row))
                marker, size = UUID(str(row[0])), size + len(images[-1])
        return Snapshot(images, at, marker if more else None)

    async def _ends(self, follower: str = FOLLOWER) -> tuple[int, int]:
        """The last position of the log, and of the tables that the follower keeps."""
        rows = await self._recorder.fetch(LOG_ENDS, {"name": follower})
        return rows[0][0] or 0, rows[0][1] or 0

    async def _read(self, question: Question) -> Page:
        head, reached = await self._ends()
        stop = end = head if question.project is None else reached
        if question.types and question.image is None:
            stop = await self._end_of_window(question, end, WINDOW_EVENTS)
        positions = await self.positions()
        rows = await self._rows(question, stop)
        events = [(row[0], encoded_event(positions, row)) for row in rows]
        whole = len(rows) < question.limit and sum(len(row[4]) for row in rows) < PAGE_BYTES
        if whole:
            return Page(events, max(stop, question.after), full=stop < end)
        return Page(events, events[-1][0], full=True)

    async def _end_of_window(self, question: Question, end: int, events: int) -> int:
        if question.project is None:
            return min(end, question.after + events)
        values = {"project": question.project, "after": question.after, "skipped": events - 1}
        rows = await self._recorder.fetch(_WINDOW_OF_PROJECT, values)
        return min(end, rows[0][0]) if rows else end

    async def _rows(self, question: Question, stop: int) -> list[tuple[Any, ...]]:
        """The next events, at most PAGE_BYTES and the one that passes them."""
        sql, order, values = self._statement(question, question.after, stop, question.limit)
        source = sql.partition(" FROM ")[2]
        # The limit again, because databases plan for few rows where there is one.
        sql += f" AND {within_bytes(order, source)} ORDER BY {order} LIMIT :limit"
        return await self._recorder.fetch(sql, {**values, "bytes": PAGE_BYTES})

    def _statement(
        self, question: Question, after: int, stop: int, limit: int
    ) -> tuple[str, str, dict[str, Any]]:
        """The query without its end, the column that it is ordered by, and its parameters."""
        values: dict[str, Any] = {"after": after, "stop": stop, "limit": limit}
        sql, order = _OF_ALL, "s.notification_id"
        if question.project is not None:
            values["project"] = question.project
            sql, order = _OF_PROJECT, "a.position"
        if question.image is not None:
            values["image"] = question.image
            sql = _OF_ALL if question.project is None else _OF_PROJECT_AND_IMAGE
            sql, order = f"{sql} AND s.originator_id = :image", "s.originator_version"
        elif question.project is not None:
            sql += " AND a.position <= :stop"
        sql += " AND s.notification_id <= :stop"
        if question.types:
            names = {f"t{n}": topic for n, topic in enumerate(question.types)}
            sql += f" AND s.topic IN ({', '.join(':' + name for name in names)})"
            values |= names
        return sql, order, values
