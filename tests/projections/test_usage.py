"""What projects have: counters that are the fold of the log at every moment, and made again."""

import asyncio
import random
import secrets
import sqlite3
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from calotype.commands.errors import CalotypeError, LimitExceeded
from calotype.commands.images import deletion
from calotype.commands.images.image import Image, create
from calotype.commands.images.usage import USAGE, counts
from calotype.commands.policy.actor import Cause
from calotype.commands.policy.quotas import ProjectLimits, Quotas, SameForAll
from calotype.ops.wiring.composition import is_up_to_date, migrate
from calotype.projections.images.rows import rows_of
from calotype.projections.rebuild.registry import PROJECTIONS
from calotype.projections.rebuild.usage import counters_and_totals, recount, totals_at
from calotype.projections.rebuild.verify import differences
from calotype.stores.log.errors import TooManyConflicts
from calotype.stores.log.log import EventLog, event_mapper
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import added

FIELDS: dict[str, Any] = {
    "name": "n",
    "visibility": "shared",
    "protected": False,
    "os_hidden": False,
    "disk_format": "raw",
    "container_format": "bare",
    "min_disk": 0,
    "min_ram": 0,
}
PROJECTS = ["red", "blue", "green"]
LIMITS = ProjectLimits(images=6, uploading=3, bytes=100)


def _cause() -> Cause:
    return Cause({"user": "u", "project": "p", "roles": []}, "req-1", None, secrets.token_hex(8))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def log_url(request: Any, tmp_path: Any) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.sqlite'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
async def recorders(log_url: str) -> AsyncIterator[list[GroupCommitRecorder]]:
    """Two on one log, as two processes have them."""
    both = [open_log(log_url), open_log(log_url)]
    await asyncio.to_thread(migrate, both[0])
    yield both
    for recorder in both:
        await recorder.close()


def _logs(recorders: list[GroupCommitRecorder]) -> list[EventLog]:
    return [
        EventLog(recorder, rows_of, Quotas(recorder, SameForAll(LIMITS))) for recorder in recorders
    ]


def _some_wish(choice: random.Random) -> Any:
    """Something that may happen to an image; many of them are refused."""
    number = secrets.token_hex(4)
    size = choice.choice([None, 5, 20, 60])

    def store(image: Image, cause: Cause) -> None:
        came = image.announced_size or choice.choice([0, 5, 40])
        image.store_data(
            cause,
            upload_id=image.upload_id or "",
            url=next((url for url, blob in image.blobs.items() if blob.holder), ""),
            size=came,
            virtual_size=None,
            checksum="c",
            os_hash_algo="sha512",
            os_hash_value="v",
        )

    def start(image: Image, cause: Cause) -> None:
        place = {"store": "default", "url": f"file:///{number}", "holder": "h"}
        image.start_upload(cause, upload_id=number, announced_size=size, **place)

    def give(image: Image, cause: Cause) -> None:
        change = {"properties": {}, "removed_properties": [], "tags": None}
        image.update(cause, fields={"owner": choice.choice(PROJECTS)}, **change)

    return choice.choice(
        [
            start,
            start,
            store,
            store,
            lambda image, cause: image.fail_upload(
                cause, upload_id=image.upload_id or "", reason="r"
            ),
            lambda image, cause: image.delete(cause, retention_seconds=choice.choice([0.0, 99.0])),
            deletion.restore,
            give,
        ]
    )


async def _live(log: EventLog, ids: list[UUID], choice: random.Random, steps: int) -> int:
    """Random wishes; how many a limit refused."""
    refused = 0
    for _ in range(steps):
        try:
            if len(ids) < 3 or choice.random() < 0.3:
                image_id = str(uuid4())
                fields = {**FIELDS, "owner": choice.choice(PROJECTS)}
                image = create(_cause(), image_id=image_id, fields=fields, tags=[], properties={})
                await log.create(image)
                ids.append(image.id)
            else:
                wish = _some_wish(choice)
                await log.change(choice.choice(ids), _alive(wish), wish, _cause())
        except LimitExceeded:
            refused += 1
        except (CalotypeError, TooManyConflicts):
            pass
    return refused


def _alive(wish: Any) -> Any:
    def check(image: Image | None) -> None:
        assert image is not None
        if (image.status == "deleted") != (wish is deletion.restore):
            raise CalotypeError

    return check


def _walk(recorder: GroupCommitRecorder) -> dict[str, tuple[int, ...]]:
    """What projects have after the last event; looks at every position on the way."""
    mapper, images, totals = event_mapper(), {}, {}
    for found in recorder.select_notifications(1, 100_000):
        image: Any = images.get(found.originator_id)
        before = image.usage if image else None
        image = mapper.to_domain_event(found).mutate(image)
        images[found.originator_id] = image
        for count in counts(before, image.usage):
            totals[count.key] = added(totals.get(count.key), count.amounts)
            grown = [amount > 0 for amount in count.amounts]
            for name, value, grows in zip(USAGE.columns[1:], totals[count.key], grown, strict=True):
                limit = getattr(LIMITS, name.name, None)
                assert value >= 0
                assert not grows or limit is None or value <= limit, (found.id, name.name, value)
    return {project: held for project, held in totals.items() if any(held)}


def _fits(recorder: GroupCommitRecorder) -> bool:
    there, expected = counters_and_totals(recorder)
    return sorted(there) == sorted(expected)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_in_two_processes_the_counters_are_the_fold_of_the_log(
    recorders: Any, seed: int
) -> None:
    ids: list[UUID] = []
    crowd = [
        _live(log, ids, random.Random(100 * seed + number), 60)
        for number, log in enumerate(_logs(recorders) * 3)
    ]
    refused = sum(await asyncio.gather(*crowd))
    assert refused > 0
    totals = await asyncio.to_thread(_walk, recorders[0])
    there, expected = await asyncio.to_thread(counters_and_totals, recorders[0])
    assert {row[0]: tuple(row[1:]) for row in there} == totals
    assert sorted(there) == sorted(expected)


async def test_a_log_without_counters_gets_them_when_it_is_migrated(
    recorders: Any, log_url: str
) -> None:
    """As an installation of a former version does, with uploads under way."""
    old = EventLog(recorders[0], rows_of)
    await _live(old, [], random.Random(7), 80)
    assert not await asyncio.to_thread(_fits, recorders[0])
    _execute(log_url, f"DROP TABLE {USAGE.name}")
    assert not await asyncio.to_thread(is_up_to_date, recorders[0])
    await asyncio.to_thread(migrate, recorders[0])
    assert await asyncio.to_thread(is_up_to_date, recorders[0])
    assert await asyncio.to_thread(_fits, recorders[0])


async def test_counting_again_is_exact_while_others_write(recorders: Any) -> None:
    logs, ids = _logs(recorders), []
    await _live(logs[0], ids, random.Random(1), 50)
    living = asyncio.gather(*(_live(log, ids, random.Random(n), 80) for n, log in enumerate(logs)))
    for _ in range(5):
        await asyncio.to_thread(recount, recorders[1])
        assert await asyncio.to_thread(_fits, recorders[1])
    await living
    assert await asyncio.to_thread(_fits, recorders[0])


async def test_the_sum_at_a_former_position_is_what_it_was_then(recorders: Any) -> None:
    log = _logs(recorders)[0]
    await _live(log, ids := [], random.Random(3), 40)
    then = recorders[0].max_notification_id()
    totals = await asyncio.to_thread(totals_at, recorders[0], then)
    await _live(log, ids, random.Random(4), 40)
    assert await asyncio.to_thread(totals_at, recorders[0], then) == totals


def _execute(log_url: str, sql: str) -> None:
    if log_url.startswith("sqlite"):
        with sqlite3.connect(log_url.removeprefix("sqlite:///"), timeout=30) as connection:
            connection.execute(sql)
        connection.close()
    else:
        with psycopg.connect(log_url) as server:
            server.execute(sql.encode())


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        (f"UPDATE {USAGE.name} SET bytes = bytes + 1 WHERE project = 'red'", "differs in bytes"),
        (f"DELETE FROM {USAGE.name} WHERE project = 'red'", "missing"),
        (f"INSERT INTO {USAGE.name} VALUES ('nobody', 1, 0, 0, 0, 0)", "not in the log"),
    ],
)
async def test_verifying_finds_a_counter_that_is_wrong(
    recorders: Any, log_url: str, sql: str, what: str
) -> None:
    fields = {**FIELDS, "owner": "red"}
    image = create(_cause(), image_id=str(uuid4()), fields=fields, tags=[], properties={})
    await _logs(recorders)[0].create(image)
    usage = next(known for known in PROJECTIONS if known.name == "usage")
    assert await asyncio.to_thread(lambda: list(differences(recorders[0], usage))) == []
    _execute(log_url, sql)
    found = await asyncio.to_thread(lambda: list(differences(recorders[0], usage)))
    assert [(each.table, each.what) for each in found] == [(USAGE.name, what)]
