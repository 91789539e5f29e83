"""One sweep reaches everything, however much there is, and no store holds up another."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from calotype.commands.context import SYSTEM, CommandContext, cause_of, new_id
from calotype.commands.images.image import Image, create
from calotype.ops.jobs.sweeper import give_up_forgotten, sweep
from calotype.ops.settings.settings import Settings
from calotype.ops.wiring import composition
from calotype.projections.images.queries import Queries
from calotype.stores.images.file import FileDriver
from calotype.stores.images.threads import threads_of

UPLOADS = 600
"""More than a page."""
FIELDS: dict[str, Any] = {
    "name": None,
    "owner": "red",
    "visibility": "shared",
    "protected": False,
    "os_hidden": False,
    "disk_format": "raw",
    "container_format": "bare",
    "min_disk": 0,
    "min_ram": 0,
}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def context(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CommandContext]:
    log = {"url": request.getfixturevalue("postgres_url")} if request.param != "sqlite" else {}
    settings = Settings(data=str(tmp_path), log=log)
    recorder = composition.recorder_of(settings)
    await asyncio.to_thread(composition.migrate, recorder)
    yield composition.parts_of(settings, recorder)
    await recorder.close()


async def _begin(
    context: CommandContext, count: int, holder: str, store: str = "default"
) -> list[UUID]:
    """Images whose data a process is said to be receiving."""

    async def one() -> UUID:
        cause = cause_of(SYSTEM, "req-" + new_id())
        image_id, upload_id = new_id(), "0123456789ab"
        image = create(cause, image_id=image_id, fields=dict(FIELDS), tags=[], properties={})
        await context.log.create(image)
        driver = context.stores[store]
        await context.log.change(
            UUID(image_id),
            lambda image: None,
            Image.start_upload,
            cause,
            upload_id=upload_id,
            store=store,
            url=driver.url_of(f"{image_id}-{upload_id}"),
            holder=holder,
        )
        return UUID(image_id)

    return [
        id_
        for _ in range(0, count, 50)
        for id_ in await asyncio.gather(*(one() for _ in range(50)))
    ]


async def test_one_sweep_gives_up_all_uploads_of_a_process_that_is_gone(
    context: CommandContext,
) -> None:
    await _begin(context, UPLOADS, "gone")
    kept = await _begin(context, 50, "here")
    queries = Queries(context.log.recorder)
    swept = await sweep(context, queries, lambda holder: holder == "gone")
    assert (swept.uploads_given_up, swept.blobs_removed) == (UPLOADS, UPLOADS)
    assert await queries.holders() == ["here"]
    assert len(await queries.uploads_of("here", "", 100)) == len(kept)
    assert await queries.unsettled() == len(kept)


async def test_a_process_gives_up_what_it_does_not_run_and_nothing_else(
    context: CommandContext,
) -> None:
    await _begin(context, 50, context.process_id)
    others = await _begin(context, 50, "here")
    queries = Queries(context.log.recorder)
    context.uploads.add("0123456789ab")
    assert await give_up_forgotten(context, queries) == 0
    context.uploads.clear()
    assert await give_up_forgotten(context, queries) == 50
    assert await queries.uploads_of(context.process_id, "", 100) == []
    assert len(await queries.uploads_of("here", "", 100)) == len(others)


async def test_a_store_that_fails_keeps_its_garbage_and_holds_up_no_other(
    context: CommandContext, tmp_path: Path
) -> None:
    (tmp_path / "lost").mkdir()
    lost = FileDriver(tmp_path / "lost")
    (tmp_path / "lost" / ".incoming").rmdir()  # As of a file system that is not mounted.
    context.stores["lost"] = lost  # type: ignore[index]
    threads_of(lost).deadline_seconds = 5.0
    await _begin(context, 600, "gone", "lost")
    await _begin(context, 50, "gone")
    queries = Queries(context.log.recorder)
    swept = await sweep(context, queries, lambda holder: True)
    assert (swept.uploads_given_up, swept.blobs_removed) == (650, 50)
    (tmp_path / "lost" / ".incoming").mkdir()
    assert (await sweep(context, queries, lambda holder: True)).blobs_removed == 600
