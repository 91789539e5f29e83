"""`image.exists`: at the end of every period, each existing image, as it was at that moment.

An audit reads the row versions, so that it is the same whenever it is made: one that was missed,
because no process ran, is made later. A row holds its progress, written with the fence of the
sink's leader.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID, uuid5

import orjson

from calotype.commands.images.events import api_time, clock_text
from calotype.projections.engine.follower import reached
from calotype.projections.past.as_of import rfc3339
from calotype.projections.past.row_versions import FOLLOWER, IMAGE_VERSIONS, MOMENTS
from calotype.projections.sinks import glance
from calotype.projections.sinks.contract import Message
from calotype.projections.sinks.oslo import OsloEnvelope
from calotype.projections.sinks.pages import PAGE_BYTES, PAGE_EVENTS, Page
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Change, Column, Replace, Table

Period = Literal["hour", "day"]

SETTLE_SECONDS = 10.0
"""How long after its end a period is audited: what happened in it is in the log by then."""
LOOK_SECONDS = 1.0

_NAMESPACE = UUID("3f0b6a52-7a4e-5d0f-9f44-7d1f0c2b9e31")
_START = UUID(int=0)

AUDITS = Table(
    name="sink_audits_1",
    columns=(
        Column("id", "uuid"),
        Column("sink", "text"),
        Column("done_until", "text"),
        Column("position", "integer", nullable=True),
        Column("marker", "uuid", nullable=True),
    ),
    key=("id",),
    owner="id",
)
"""The end of the last period that was sent. `position` and `marker` are of the running audit:
the moment, and the last image that was sent."""

_ROW = f"SELECT done_until, position, marker FROM {AUDITS.name} WHERE sink = :sink"
_HEAD = "SELECT max(notification_id) FROM stored_events"
_UNTIL = (
    f"SELECT position FROM {MOMENTS.name} WHERE clock < :clock "
    "ORDER BY clock DESC, position DESC LIMIT 1"
)
_IMAGES = (
    f"SELECT i.id, i.document FROM {IMAGE_VERSIONS.name} i WHERE i.id > :marker "
    "AND i.from_position <= :at AND i.to_position > :at ORDER BY i.id LIMIT :limit"
)


@dataclass(frozen=True, slots=True)
class _Audit:
    """One period, and the progress of its audit."""

    beginning: datetime
    ending: datetime
    position: int
    marker: UUID


class Existing:
    """Makes the audits of one sink, page by page; `Delivery` publishes them."""

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        sink: str,
        envelope: OsloEnvelope,
        period: Period,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        page_images: int = PAGE_EVENTS,
    ) -> None:
        self._recorder = recorder
        self._sink = sink
        self._row_id = uuid5(_NAMESPACE, sink)
        self._envelope = envelope
        self._period = period
        self._now = now
        self._page_images = page_images
        self._not_before = datetime.min.replace(tzinfo=UTC)

    async def next_page(self) -> tuple[Page, Sequence[Change]] | None:
        """The next images of the audit that is due, with the row to write when they are sent."""
        if self._now() < self._not_before:
            return None
        rows = await self._recorder.fetch(_ROW, {"sink": self._sink})
        if not rows:  # The first period is sent when it is over.
            return Page(0, full=False), [self._row(beginning_of(self._now(), self._period))]
        audit = await self._due(*rows[0])
        if audit is None:
            return None
        return await asyncio.to_thread(self._read_page, audit)

    def _read_page(self, audit: _Audit) -> tuple[Page, Sequence[Change]]:
        values = {"marker": audit.marker, "at": audit.position, "limit": self._page_images}
        found = self._recorder.fetch_now(_IMAGES, values)
        page = Page(audit.position, full=True)
        size, marker = 0, audit.marker
        for image_id, document in found:
            if size >= PAGE_BYTES:
                break
            told = self._messages(audit, document)
            page.messages += [(audit.position, message) for message in told]
            size += sum(len(message.body) for message in told)
            marker = UUID(str(image_id))
        if not found or (len(found) < self._page_images and marker == UUID(str(found[-1][0]))):
            return page, [self._row(audit.ending)]
        return page, [self._row(audit.beginning, audit.position, marker)]

    async def _due(
        self, done_until: str, position: int | None, marker: UUID | str | None
    ) -> _Audit | None:
        beginning = rfc3339(done_until)
        ending = end_of(beginning, self._period)
        if position is not None:
            return _Audit(beginning, ending, position, UUID(str(marker)))
        due_at = ending + timedelta(seconds=SETTLE_SECONDS)
        if self._now() < due_at:
            self._not_before = due_at
            return None
        head = (await self._recorder.fetch(_HEAD))[0][0] or 0
        if await reached(self._recorder, FOLLOWER) < head:
            self._not_before = self._now() + timedelta(seconds=LOOK_SECONDS)
            return None
        rows = await self._recorder.fetch(_UNTIL, {"clock": clock_text(ending)})
        return _Audit(beginning, ending, rows[0][0] if rows else 0, _START)

    def _messages(self, audit: _Audit, document: str) -> list[Message]:
        image = orjson.loads(document)
        ending = api_time(audit.ending)
        return self._envelope.messages(
            glance.exists(image, api_time(audit.beginning), ending),
            name=f"exists/{image['id']}/{ending}",
            position=audit.position,
            ordering_key=image["id"],
            moment=audit.ending,
            headers={"calotype-position": self._envelope.positions.encode(audit.position)},
        )

    def _row(
        self, done_until: datetime, position: int | None = None, marker: UUID | None = None
    ) -> Replace:
        row = (self._row_id, self._sink, clock_text(done_until), position, marker)
        return Replace(AUDITS, self._row_id, [row])


def beginning_of(moment: datetime, period: Period) -> datetime:
    """The beginning of the period (UTC) that the moment lies in."""
    hour = moment.hour if period == "hour" else 0
    return moment.replace(hour=hour, minute=0, second=0, microsecond=0)


def end_of(moment: datetime, period: Period) -> datetime:
    """The end of the period (UTC) that the moment lies in."""
    return beginning_of(moment, period) + timedelta(**{f"{period}s": 1})
