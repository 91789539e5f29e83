"""`calotype status`: how all parts of an installation are doing, and whether one needs a person."""

import asyncio
import os
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from calotype.ops.cli.sinks import described
from calotype.ops.cli.terminal.invocation import Invocation
from calotype.ops.jobs.remembering import misfits, places_of
from calotype.ops.settings.settings import Settings, SettingsError
from calotype.ops.wiring import composition
from calotype.ops.wiring.webhooks import webhooks_of
from calotype.projections.consumers.consumers import Consumers
from calotype.projections.consumers.status import described_now
from calotype.projections.engine.positions import positions_now
from calotype.projections.feed import audience
from calotype.projections.feed.feed import Feed
from calotype.projections.images.queries import Queries
from calotype.projections.past import row_versions
from calotype.projections.seal import seal
from calotype.projections.seal.reading import NotSealed, Sealed
from calotype.projections.webhooks.endpoint_worker import consumer_name
from calotype.projections.webhooks.endpoints import BY_OWNER
from calotype.stores.images.driver import StoreError
from calotype.stores.images.threads import threads_of
from calotype.stores.log.recorder import GroupCommitRecorder

OK, BEHIND, TROUBLE = "ok", "behind", "trouble"


@dataclass(frozen=True)
class Part:
    """One part, and how it is doing."""

    state: str
    """`ok`, `behind` or `trouble`."""
    part: str
    name: str = ""
    position: str | None = None
    behind: int | None = None
    """Events of the log that it has not dealt with yet."""
    parked: int | None = None
    detail: str = ""


def status(
    invocation: Invocation,
    most_behind: Annotated[
        int, typer.Option(min=0, help="Events that a part may be behind while it is served.")
    ] = 1000,
) -> None:
    """Show the log, its followers, seal, sinks, consumers and webhooks, the stores and the images.

    Exits with 1 when a part is in trouble, holds parked messages, or is behind: by more than
    --most-behind events, or by any while no process serves it.
    """
    settings = invocation.settings
    composition.require_log(settings)
    recorder = composition.recorder_of(settings)
    try:
        pending = recorder.pending_migrations()
        if pending or not composition.is_up_to_date(recorder):
            detail = f"not up to date ({', '.join(pending) or 'tables'}): run `calotype migrate`"
            parts = [Part(TROUBLE, "migrations", detail=detail)]
        else:
            parts = asyncio.run(_Look(settings, recorder, most_behind).parts())
    finally:
        recorder.close_now()
    titles = ("state", "part", "name", "position", "behind", "parked", "detail")
    invocation.out.rows(titles, map(asdict, parts))
    raise typer.Exit(0 if all(part.state == OK for part in parts) else 1)


class _Look:
    """One look at everything."""

    def __init__(self, settings: Settings, recorder: GroupCommitRecorder, most_behind: int) -> None:
        self._settings = settings
        self._recorder = recorder
        self._most_behind = most_behind
        self._positions = positions_now(recorder)
        self._head = recorder.max_notification_id() or 0
        self._consumers = Consumers(recorder, Feed(recorder))

    async def parts(self) -> list[Part]:
        """All parts, the log first."""
        looks = (
            self._log, self._followers, self._sinks, self._named_consumers, self._webhooks,
            self._stores, self._images,
        )  # fmt: skip
        return [part for look in looks for part in await look()]

    async def _log(self) -> list[Part]:
        processes = await self._recorder.live_leases("process:")
        unlike = misfits(self._recorder, places_of(self._settings, {}))
        detail = "; ".join(unlike) or f"{len(processes)} processes serve"
        position = self._positions.encode(self._head)
        return [
            Part(TROUBLE if unlike else OK, "log", position=position, detail=detail),
            Part(OK, "migrations", detail="up to date"),
        ]

    async def _followers(self) -> list[Part]:
        kept = self._settings.followers
        followers = (
            ("versions", row_versions.FOLLOWER, kept.versions),
            ("audience", audience.FOLLOWER, kept.audience),
            ("seal", seal.NAME, self._settings.audit.seal),
        )
        return [
            await self._follower(name, checkpoint)
            if on
            else Part(OK, "follower", name, detail="switched off")
            for name, checkpoint, on in followers
        ]

    async def _follower(self, name: str, checkpoint: str) -> Part:
        leaders = await self._recorder.live_leases(f"follower:{checkpoint}")
        reached = self._recorder.max_tracking_id(checkpoint) or 0
        behind = max(0, self._head - reached)
        detail = f"kept by {', '.join(sorted(leaders)) or 'nobody now'}"
        if checkpoint == seal.NAME:
            detail += "" if await self._is_signed() else "; no checkpoint is signed"
        state = self._pace(behind, bool(leaders))
        return Part(state, "follower", name, self._positions.encode(reached), behind, None, detail)

    async def _is_signed(self) -> bool:
        try:
            return bool(await Sealed(self._recorder).checkpoint())
        except NotSealed:
            return False

    async def _sinks(self) -> list[Part]:
        parts = []
        for name, table in self._settings.sinks.items():
            sink = await described(self._recorder, name, table)
            served, behind, parked = sink["served_by"], sink["behind"], sink["parked"]
            state = self._pace(behind or 0, bool(served))
            if sink["trouble"] or parked:
                state = TROUBLE
            detail = sink["trouble"] or f"served by {', '.join(served) or 'nobody now'}"
            parts.append(Part(state, "sink", name, sink["position"], behind, parked, detail))
        return parts

    async def _named_consumers(self) -> list[Part]:
        parts = []
        for consumer in await self._consumers.all():
            if not consumer.name.startswith(consumer_name("")):
                told = await described_now(self._consumers, consumer)
                detail = "stopped, because so much is parked" if told["stopped"] else ""
                parts.append(self._reader("consumer", told, TROUBLE if detail else OK, detail))
        return parts

    async def _webhooks(self) -> list[Part]:
        webhooks = webhooks_of(self._settings, self._recorder, self._consumers)
        parts = []
        for endpoint in await webhooks.all_of(None):
            told = await webhooks.described(endpoint)
            sound = told["state"] == "delivering" or endpoint.disabled == BY_OWNER
            detail = told["disabled_because"] or told["last_error"] or told["state"]
            parts.append(self._reader("webhook", told, OK if sound else TROUBLE, detail))
        return parts

    def _reader(self, kind: str, told: dict[str, Any], state: str, detail: str) -> Part:
        name = f"{told['name']} of {told['project']}" if told["project"] else told["name"]
        behind, parked = told.get("lag", {}).get("events", 0), told.get("parked", 0)
        if state == OK:
            state = TROUBLE if parked else self._pace(behind, served=True)
        return Part(state, kind, name, told.get("position"), behind, parked, detail)

    async def _stores(self) -> list[Part]:
        name, options = self._settings.store.name, self._settings.store_options()
        if not await asyncio.to_thread(os.path.isdir, options.get("directory", "/")):
            # Looking makes no directory.
            return [Part(OK, "store", name, detail="not made yet")]
        state, detail = OK, "can be used"
        try:
            for driver in composition.stores_of(self._settings).values():
                try:
                    await threads_of(driver).call(driver.check)
                    unlike = misfits(self._recorder, places_of(self._settings, {name: driver})[1:])
                    if unlike:
                        state, detail = TROUBLE, "; ".join(unlike)
                finally:
                    driver.close()
        except (StoreError, SettingsError) as error:
            state, detail = TROUBLE, str(error)
        return [Part(state, "store", name, detail=detail)]

    async def _images(self) -> list[Part]:
        queries = Queries(self._recorder)
        unsettled = await queries.unsettled()
        return [
            *(
                Part(OK, "images", status, detail=f"{images} images, {size} bytes")
                for status, images, size in sorted(await queries.counts())
            ),
            Part(OK, "uploads", detail=f"{unsettled} unsettled blobs"),
        ]

    def _pace(self, behind: int, served: bool) -> str:
        return BEHIND if behind > (self._most_behind if served else 0) else OK
