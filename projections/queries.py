"""Reads of the query tables: the only way in which the API learns about images."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson

from calotype.commands.errors import Forbidden, Invalid, Unavailable
from calotype.commands.keys import key_of, written_for
from calotype.commands.policy import Actor, allows
from calotype.commands.protections import Readable
from calotype.projections import walks
from calotype.projections.listing import Direction, ListQuery, Moment
from calotype.projections.pages import marker_statement, page_statement, visible_today
from calotype.projections.spans import IMAGE_SPANS, MEMBER_SPANS
from calotype.projections.tables import BLOBS, IMAGES, MEMBERS
from calotype.stores.log.log import ReadTooLong
from calotype.stores.log.recorder import GroupCommitRecorder

_MEMBERSHIP = (
    f"EXISTS (SELECT 1 FROM {MEMBERS.name} m WHERE m.image_id = i.id AND m.member = :project)"
)
_SHOW = (
    f"SELECT i.owner, i.visibility, i.status, {_MEMBERSHIP}, i.document, i.locations "
    f"FROM {IMAGES.name} i WHERE i.id = :id"
)
_SHOW_THEN = (
    f"SELECT i.owner, i.visibility, i.status, EXISTS (SELECT 1 FROM {MEMBER_SPANS.name} m "
    "WHERE m.image_id = i.id AND m.member = :project "
    "AND m.from_position <= :at AND m.to_position > :at), i.document, i.locations, "
    f"{visible_today(':project')} FROM {IMAGE_SPANS.name} i "
    "WHERE i.id = :id AND i.from_position <= :at AND i.to_position > :at"
)
_DATA = (
    f"SELECT i.owner, i.visibility, i.status, {_MEMBERSHIP}, i.document, i.locations, "
    f"i.size, i.checksum FROM {IMAGES.name} i WHERE i.id = :id"
)
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


LOOK_SECONDS = 0.25
"""How often a scan asks whether anybody still waits for it."""


class TooLong(Unavailable):
    """A list took longer to read than reads may (503)."""

    headers = {"Retry-After": "30"}


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
    """One page of a list: `(document, locations, status)` of each image, and where it goes on."""

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

    def __init__(self, recorder: GroupCommitRecorder) -> None:
        self._recorder = recorder

    async def image(self, aggregate_id: UUID, project: str | None) -> ImageRow | None:
        """The image's row with its document and locations, or None."""
        rows = await self._recorder.fetch(_SHOW, {"id": aggregate_id, "project": project})
        if not rows:
            return None
        return ImageRow(*rows[0])

    async def image_data(self, aggregate_id: UUID, project: str | None) -> ImageRow | None:
        """The image's row with what a download needs, or None."""
        rows = await self._recorder.fetch(_DATA, {"id": aggregate_id, "project": project})
        if not rows:
            return None
        return ImageRow(*rows[0])

    async def image_then(self, aggregate_id: UUID, actor: Actor, moment: Moment) -> ImageRow | None:
        """The image's row as it was, if the actor could see it then and may see it today."""
        values = {"id": aggregate_id, "project": actor.project, "at": moment.position}
        rows = await self._recorder.fetch(_SHOW_THEN, values)
        if not rows:
            return None
        *columns, seen_today = rows[0]
        row = ImageRow(*columns)
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
        tells that nobody would get the answer; a scan ends then. Raises Invalid or Forbidden
        (marker), and TooLong.
        """
        query = replace(query, sort=_telling(query.sort))
        filters = [name for name, _ in query.properties]
        if query.limit == 0 or (readable is not None and not readable.holds_all(filters)):
            return Page([], None)
        after = await self._marker(query, actor, moment) if query.marker is not None else None
        sees_all = actor.policy.shows_all(actor)
        images: list[tuple[str, str, str]] = []
        while True:
            rows = await self._rows(query, actor, after, moment, gone)
            seen = [row for row in rows if sees_all or await self._shown(actor, row[0])]
            images += [(row[0], row[2], row[3]) for row in seen]
            if len(images) > query.limit or len(rows) <= query.limit:
                break
            after = rows[-1][4:]  # Fewer were seen than a page holds: read on behind the last row.
        more = len(images) > query.limit
        images = images[: query.limit]
        return Page(images, orjson.loads(images[-1][0])["id"] if more else None)

    async def _rows(
        self,
        query: ListQuery,
        actor: Actor,
        after: tuple[Any, ...] | None,
        moment: Moment | None,
        gone: Callable[[], bool],
    ) -> list[tuple[Any, ...]]:
        """The rows of a page, and one more if there are more; see `page_statement`."""
        try:
            if moment is None:
                return await self._bounded(query, actor, after, gone)
            sql, parameters = page_statement(query, actor, after, moment)
            if query.filters or query.tags or query.properties:
                return await self._scan(sql, parameters, gone)
            return await self._recorder.fetch(sql, parameters, heavy=True)
        except ReadTooLong:
            raise TooLong(
                "This list took too long to find; ask for it by fewer or other filters, or by one "
                "that fits fewer images."
            ) from None

    async def _bounded(
        self,
        query: ListQuery,
        actor: Actor,
        after: tuple[Any, ...] | None,
        gone: Callable[[], bool],
    ) -> list[tuple[Any, ...]]:
        """The same for the present, read in steps of which all but the last are bounded."""
        if walks.is_impossible(query):
            return []
        drivers = walks.drivers(query)
        walk = walks.walk(query, actor, after, drivers[0] if len(drivers) == 1 else None)
        if walk is not None and walk.bound is None:
            rows = await self._recorder.fetch(walk.sql, walk.parameters, heavy=True)
            return [row[:-1] for row in rows]
        driver, promising = await self._best_driver(query, actor, drivers)
        if promising and (walk is None or walks.is_rare(driver)):
            page = await self._few(query, actor, after, driver)
            if page is not None:
                return page
            promising = False
        found: list[tuple[Any, ...]] = []
        walk = walks.walk(query, actor, after, driver)
        if walk is not None:
            rows = await self._recorder.fetch(walk.sql, walk.parameters, heavy=True)
            found = [row[:-2] for row in rows if row[-2]]
            if len(found) > query.limit or not rows or rows[-1][-1] != walk.bound:
                return found
            ended = rows[-1][4:-2]
        if promising:
            page = await self._few(query, actor, after, driver)
            if page is not None:
                return page
        rest = replace(query, limit=query.limit - len(found))
        start = after if walk is None else ended
        return found + await self._scan(*page_statement(rest, actor, start), gone)

    async def _best_driver(
        self, query: ListQuery, actor: Actor, drivers: list[walks.Driver]
    ) -> tuple[walks.Driver | None, bool]:
        """The condition that leaves the fewest rows, and whether these may be few.

        None stands for the sets that the caller lists, where their order is not that of the list.
        """
        choices: list[walks.Driver | None] = [*drivers]
        if not actor.is_admin and not walks.has_order_of_sets(query, actor):
            choices.append(None)
        if len(choices) <= 1:
            return (choices[0], True) if choices else (None, False)
        sql, parameters = walks.count_statement(query, actor, choices)
        [counts] = await self._recorder.fetch(sql, parameters, heavy=True)
        fewest, best = min(zip(counts, range(len(choices)), strict=True))
        return choices[best], fewest <= walks.few(query)

    async def _few(
        self,
        query: ListQuery,
        actor: Actor,
        after: tuple[Any, ...] | None,
        driver: walks.Driver | None,
    ) -> list[tuple[Any, ...]] | None:
        """The page, if the driver leaves few rows; otherwise None."""
        sql, parameters = walks.few_statement(query, actor, after, driver)
        rows = await self._recorder.fetch(sql, parameters, heavy=True)
        if rows[0][0] > walks.few(query):
            return None
        return [row[1:] for row in rows if row[1] is not None]

    async def _scan(
        self, sql: str, parameters: dict[str, Any], gone: Callable[[], bool]
    ) -> list[tuple[Any, ...]]:
        """Rows of a statement that may read very many, unless the caller goes meanwhile."""
        scan = asyncio.ensure_future(self._recorder.fetch(sql, parameters, scan=True))
        try:
            while not (await asyncio.wait([scan], timeout=LOOK_SECONDS))[0]:
                if gone():
                    raise ReadTooLong("the caller has gone")
            return scan.result()
        finally:
            scan.cancel()

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
        owner, visibility, is_member, document, *marks = rows[0]
        if not allows(actor, "get_image", ImageRow(owner, visibility, "", is_member, document)):
            raise Forbidden("The marker is an image that you may not see.")
        return tuple(marks)

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


def _telling(
    sort: tuple[tuple[str, Direction], ...],
) -> tuple[tuple[str, Direction], ...]:
    """The keys up to the id, after which none tells images apart."""
    keys = [key for key, _ in sort]
    return sort[: keys.index("id") + 1] if "id" in keys else sort


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)
