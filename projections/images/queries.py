"""Reads of the query tables: the only way in which the API learns about images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson

from calotype.commands.errors import Forbidden, Invalid
from calotype.commands.images.places import key_of, written_for
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import allows
from calotype.commands.policy.protections import Readable
from calotype.projections.images.listing import Direction, ListQuery, Moment
from calotype.projections.images.page_steps import PAGE_BYTES, PageSteps
from calotype.projections.images.pages import image_statement, marker_statement, visible_today
from calotype.projections.images.tables import BLOBS, IMAGES, MEMBERS
from calotype.stores.log.recorder import GroupCommitRecorder

_SHOW = image_statement(["i.locations"])
_DATA = image_statement(["i.locations", "i.size", "i.checksum"])
_MEMBERS = f"SELECT member, document FROM {MEMBERS.name} WHERE image_id = :id ORDER BY position"
# The first condition of these is that of the index: SQLite takes it only where it is spelled so.
_UNSETTLED = (
    f"SELECT count(*) FROM {BLOBS.name} WHERE state <> 'stored' AND state IN ('intended', 'doomed')"
)
_BLOBS_OF_IMAGE = f"SELECT url, holder FROM {BLOBS.name} WHERE image_id = :id AND store = :store"
_UPLOADS_OF_IMAGE = (
    "SELECT state FROM stored_events WHERE originator_id = :id AND topic = 'image.upload_started'"
)
_BLOB_BY_NAME = f"SELECT url FROM {BLOBS.name} WHERE store = :store AND url LIKE :end LIMIT 1"
_HOLDERS = f"SELECT DISTINCT holder FROM {BLOBS.name} WHERE holder IS NOT NULL"
_UPLOADS = (
    f"SELECT image_id, url, upload_id FROM {BLOBS.name} WHERE holder IS NOT NULL "
    "AND holder = :holder AND url > :after ORDER BY url LIMIT :limit"
)
_GARBAGE = (
    f"SELECT DISTINCT image_id FROM {BLOBS.name} WHERE state <> 'stored' AND state = 'doomed' "
    "AND holder IS NULL AND store = :store AND image_id > :after ORDER BY image_id LIMIT :limit"
)
_STORED_BLOBS = (
    f"SELECT url, image_id, store FROM {BLOBS.name} "
    "WHERE state IN ('stored', 'retained') AND url > :after "
    "ORDER BY url LIMIT :limit"
)
_COUNTS = f"SELECT status, count(*), coalesce(sum(size), 0) FROM {IMAGES.name} GROUP BY status"


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One row of the images table, as much of it as policy and answers need."""

    owner: str | None
    visibility: str
    status: str
    is_member: bool
    """Whether the asking project was offered the image."""
    document: str = ""
    locations: str = "[]"
    size: int | None = None
    checksum: str | None = None

    def has_member(self, project: str | None) -> bool:
        return bool(self.is_member)

    def facts(self) -> Mapping[str, Any]:
        """What rules may name of the image beside its owner, visibility and status."""
        facts: dict[str, Any] = orjson.loads(self.document)
        return {**facts, "image_id": facts["id"]}


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: `(document, locations, status)` of each image; and the next marker."""

    images: list[tuple[str, str, str]]
    next_marker: str | None


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that has not ended, as far as the log knows."""

    image_id: UUID
    url: str
    id: str
    holder: str


class Queries:
    """Named reads of the query tables, on any recorder."""

    def __init__(self, recorder: GroupCommitRecorder, page_bytes: int = PAGE_BYTES) -> None:
        """A page ends before its documents together are larger than `page_bytes`."""
        self._recorder = recorder
        self._page_bytes = page_bytes
        self._steps = PageSteps(recorder, page_bytes)

    async def image(self, aggregate_id: UUID, project: str | None) -> ImageRow | None:
        """The image's row with its document and locations, or None."""
        rows = await self._recorder.fetch(_SHOW, {"id": aggregate_id, "project": project})
        return ImageRow(*rows[0]) if rows else None

    async def image_data(self, aggregate_id: UUID, project: str | None) -> ImageRow | None:
        """The image's row with what a download needs, or None."""
        rows = await self._recorder.fetch(_DATA, {"id": aggregate_id, "project": project})
        return ImageRow(*rows[0]) if rows else None

    async def image_then(self, aggregate_id: UUID, actor: Actor, moment: Moment) -> ImageRow | None:
        """The image's row as it was, if the actor could see it then and may see it today."""
        values = {"id": aggregate_id, "project": actor.project, "at": moment.position}
        columns = ["i.locations", visible_today(":project", moment.tables.images)]
        rows = await self._recorder.fetch(image_statement(columns, moment), values)
        if not rows:
            return None
        *known, seen_today = rows[0]
        row = ImageRow(*known)
        seen = actor.is_admin or (seen_today and allows(actor, "get_image", row))
        return row if seen else None

    async def page(
        self,
        query: ListQuery,
        actor: Actor,
        moment: Moment | None = None,
        *,
        readable: Readable | None = None,
        gone: Callable[[], bool] = lambda: False,
    ) -> Page:
        """One page of the images that the actor lists, now or as of a moment.

        A filter by a custom property that is not `readable` (None: all are) fits no image. `gone`
        says whether the caller has gone, which ends a scan. Raises Invalid or Forbidden
        (marker), and TooLong.
        """
        query = replace(query, sort=_deciding(query.sort))
        filters = [name for name, _ in query.properties]
        if query.limit == 0 or (readable is not None and not readable.holds_all(filters)):
            return Page([], None)
        after = await self._marker(query, actor, moment) if query.marker is not None else None
        sees_all = actor.policy.shows_all(actor)
        images: list[tuple[Any, ...]] = []
        while True:
            rows = await self._steps.rows(query, actor, after, moment, gone)
            images += [row for row in rows if sees_all or await self._shown(actor, row[0])]
            cut = self._fitting(images, query.limit)
            more = len(rows) > query.limit or self._fitting(rows, query.limit) < len(rows)
            if cut < len(images) or not more:
                break
            after = rows[-1][4:]  # Fewer were seen than a page holds: read on behind the last row.
        page = [(row[0], row[2], row[3]) for row in images[:cut]]
        return Page(page, orjson.loads(page[-1][0])["id"] if cut < len(images) else None)

    def _fitting(self, rows: Sequence[tuple[Any, ...]], limit: int) -> int:
        """How many of the rows make a page: as many as it may have, and at least one."""
        left = self._page_bytes
        for number, row in enumerate(rows[:limit]):
            left -= len(row[0])
            if left < 0 and number:
                return number
        return min(len(rows), limit)

    async def _shown(self, actor: Actor, document: str) -> bool:
        """Whether an operator's rule, which looks at the image, lets the actor see this one."""
        facts = orjson.loads(document)
        shared = facts["visibility"] == "shared" and facts["owner"] != actor.project
        is_member = False
        if shared and actor.project is not None:
            members = await self.members(UUID(facts["id"]))
            is_member = any(member == actor.project for member, _ in members)
        row = ImageRow(facts["owner"], facts["visibility"], facts["status"], is_member, document)
        return actor.policy.holds("get_image", actor, row)

    async def _marker(
        self, query: ListQuery, actor: Actor, moment: Moment | None
    ) -> tuple[Any, ...]:
        unknown = Invalid(f"Invalid marker: there is no image {str(query.marker)[:64]}.")
        try:
            marker = UUID(query.marker)
        except ValueError:
            raise unknown from None
        values: dict[str, Any] = {"id": marker, "project": actor.project}
        if moment is not None:
            values["at"] = moment.position
        rows = await self._recorder.fetch(marker_statement(query, moment), values)
        if not rows:
            raise unknown
        if not allows(actor, "get_image", ImageRow(*rows[0][:5])):
            raise Forbidden("The marker is an image that you may not see.")
        return tuple(rows[0][5:])

    async def members(self, aggregate_id: UUID) -> list[tuple[str, str]]:
        """`(project, document)` of each member of an image, in the order of joining."""
        rows = await self._recorder.fetch(_MEMBERS, {"id": aggregate_id})
        return [(row[0], row[1]) for row in rows]

    async def unsettled(self) -> int:
        """How many uploads are under way and pieces of garbage not yet removed."""
        rows = await self._recorder.fetch(_UNSETTLED, heavy=True)
        return int(rows[0][0])

    async def holders(self) -> list[str]:
        """The processes that have uploads under way, as far as the log knows."""
        return [row[0] for row in await self._recorder.fetch(_HOLDERS, heavy=True)]

    async def uploads_of(self, holder: str, after: str, limit: int) -> list[Upload]:
        """Uploads that a process has under way, in order of URL, for paging."""
        values = {"holder": holder, "after": after, "limit": limit}
        rows = await self._recorder.fetch(_UPLOADS, values, heavy=True)
        return [Upload(_uuid(row[0]), row[1], row[2], holder) for row in rows]

    async def garbage(self, store: str, after: UUID, limit: int) -> list[UUID]:
        """Images with bytes in that store that can be removed, in order, for paging."""
        values = {"store": store, "after": after, "limit": limit}
        rows = await self._recorder.fetch(_GARBAGE, values, heavy=True)
        return [_uuid(row[0]) for row in rows]

    async def is_written(self, store: str, key: str) -> bool:
        """Whether a process is writing under this key of the store, as far as the log knows."""
        written = written_for(key)
        if written is None:
            return False
        values = {"id": UUID(written[0]), "store": store}
        rows = await self._recorder.fetch(_BLOBS_OF_IMAGE, values)
        return any(holder and key_of(written[0], url) == key for url, holder in rows)

    async def is_known(self, store: str, key: str) -> bool:
        """Whether an image knows of bytes under this key of the store, wherever that was then."""
        written = written_for(key)
        if written is not None:
            values: dict[str, Any] = {"id": UUID(written[0]), "store": store}
            rows = await self._recorder.fetch(_BLOBS_OF_IMAGE, values)
            return any(key_of(written[0], url) == key for url, _ in rows)
        # What somebody else put there is rare. A `_` fits any character, which only keeps more.
        values = {"store": store, "end": f"%/{key}"}
        return bool(await self._recorder.fetch(_BLOB_BY_NAME, values, heavy=True))

    async def has_begun(self, image_id: str, upload_id: str) -> bool:
        """Whether the log has the intent of this upload."""
        rows = await self._recorder.fetch(_UPLOADS_OF_IMAGE, {"id": UUID(image_id)})
        return any(orjson.loads(bytes(state))["upload_id"] == upload_id for (state,) in rows)

    async def stored_blobs(self, after: str, limit: int) -> list[tuple[str, UUID, str]]:
        """`(url, image, store)` of bytes that images stand on, in order of URL, for paging.

        Those of images that can be restored are among them.
        """
        rows = await self._recorder.fetch(
            _STORED_BLOBS, {"after": after, "limit": limit}, heavy=True
        )
        return [(row[0], _uuid(row[1]), row[2]) for row in rows]

    async def counts(self) -> list[tuple[str, int, int]]:
        """`(status, images, bytes)` for each status that occurs."""
        return [(row[0], row[1], int(row[2])) for row in await self._recorder.fetch(_COUNTS)]


def _deciding(
    sort: tuple[tuple[str, Direction], ...],
) -> tuple[tuple[str, Direction], ...]:
    """The keys up to the id, which no two images share."""
    keys = [key for key, _ in sort]
    return sort[: keys.index("id") + 1] if "id" in keys else sort


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)
