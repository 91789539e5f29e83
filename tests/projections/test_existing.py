"""image.exists: every period is told of once, of the images that were there at its end."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from calotype.commands.images.events import Created, Deactivated, Deleted
from calotype.commands.policy.actor import Cause
from calotype.ops.wiring.composition import migrate
from calotype.projections.engine.follower import Follower
from calotype.projections.engine.positions import Positions
from calotype.projections.past.row_version_follower import RowVersionFolder
from calotype.projections.past.row_versions import FOLLOWER
from calotype.projections.sinks import exists_audit
from calotype.projections.sinks.delivery import Delivery
from calotype.projections.sinks.exists_audit import AUDITS, Existing, beginning_of, end_of
from calotype.projections.sinks.oslo import OsloEncoder, OsloEnvelope
from calotype.projections.sinks.rabbitmq import RabbitMQ, Topology
from calotype.stores.log.append import Append
from calotype.stores.log.log import event_mapper
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder

CAUSE = Cause({"user": "u", "project": "p", "roles": []}, "req-1", None, "c")
EIGHT = datetime(2026, 11, 24, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
IDS = [UUID(int=n) for n in range(1, 6)]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def recorder(request: Any, tmp_path: Path) -> AsyncIterator[GroupCommitRecorder]:
    url = (
        f"sqlite:///{tmp_path / 'log.sqlite'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    recorder = open_log(url)
    migrate(recorder)
    yield recorder
    await recorder.close()


class Auditor:
    """Makes audits with a clock of its own, and notes what is told."""

    def __init__(self, recorder: GroupCommitRecorder, period: Any = "hour") -> None:
        self.recorder = recorder
        self.now = EIGHT
        self.told: list[dict[str, Any]] = []
        self.ids: list[str] = []
        envelope = OsloEnvelope(Positions("0a1b2c3d4e5f"))
        self.existing = Existing(
            recorder, "s", envelope, period, now=lambda: self.now, page_images=2
        )

    async def page(self, *, crash: bool = False) -> bool:
        """Tells one page; a crash comes before it is written down. False: nothing is due."""
        due = await self.existing.next_page()
        if due is None:
            return False
        page, changes = due
        for _, message in page.messages:
            self.ids.append(message.id)
            self.told.append(json.loads(json.loads(message.body)["oslo.message"]))
        if not crash:
            await self._write(changes)
        return True

    async def all_until(self, now: datetime) -> None:
        self.now = now
        while await self.page():
            pass

    async def _write(self, changes: Sequence[Any]) -> None:
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self.recorder.submit(Append((), lambda: changes, None, future))
        await future


async def happen(recorder: GroupCommitRecorder, *events: tuple[int, str, datetime]) -> None:
    """Images, by number, are created and deleted at these times."""
    stored = []
    for number, what, moment in events:
        fields = {
            "name": f"image {number}",
            "visibility": "shared",
            "protected": False,
            "os_hidden": False,
            "owner": "p",
            "disk_format": None,
            "container_format": None,
            "min_disk": 0,
            "min_ram": 0,
        }
        facts: dict[str, Any] = {"originator_id": IDS[number], "timestamp": moment, **CAUSE.facts()}
        event: Any
        if what == "created":
            event = Created(
                originator_version=1,
                originator_topic="image",
                image_id=str(IDS[number]),
                fields=fields,
                tags=["t"],
                properties={"os_distro": "debian"},
                **facts,
            )
        else:
            event = Deleted(originator_version=2, retained_until=None, **facts)
        stored.append(event_mapper().to_stored_event(event))
    recorder.insert_events(stored)
    await Follower(recorder, FOLLOWER, RowVersionFolder(recorder), holder="h").catch_up()


def numbers(told: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Which image was told of, and for which period's end."""
    return [
        (IDS.index(UUID(each["payload"]["id"])), each["payload"]["audit_period_ending"][11:16])
        for each in told
    ]


async def test_a_period_is_told_of_as_it_was_at_its_end(recorder: GroupCommitRecorder) -> None:
    auditor = Auditor(recorder)
    await auditor.all_until(EIGHT + MINUTE)
    await happen(
        recorder,
        (0, "created", EIGHT + 5 * MINUTE),
        (1, "created", EIGHT + 6 * MINUTE),
        (2, "created", EIGHT + 7 * MINUTE),
        (1, "deleted", EIGHT + 8 * MINUTE),
        (3, "created", EIGHT + 61 * MINUTE),
        (2, "deleted", EIGHT + 62 * MINUTE),
    )
    await auditor.all_until(EIGHT + 60 * MINUTE + timedelta(seconds=9))
    assert auditor.told == []
    await auditor.all_until(EIGHT + 65 * MINUTE)
    assert numbers(auditor.told) == [(0, "09:00"), (2, "09:00")]
    told = auditor.told[0]
    assert (told["event_type"], told["priority"]) == ("image.exists", "INFO")
    assert told["timestamp"] == "2026-11-24 09:00:00.000000"
    payload = told["payload"]
    assert payload["audit_period_beginning"] == "2026-11-24T08:00:00Z"
    assert payload["properties"] == {"os_distro": "debian"}
    assert payload["deleted"] is False
    await auditor.all_until(EIGHT + 90 * MINUTE)
    assert len(auditor.told) == 2


async def test_periods_in_which_nothing_ran_are_told_of_later(
    recorder: GroupCommitRecorder,
) -> None:
    auditor = Auditor(recorder)
    await auditor.all_until(EIGHT)
    await happen(recorder, (0, "created", EIGHT + 5 * MINUTE), (1, "created", EIGHT + 70 * MINUTE))
    await Auditor(recorder).all_until(EIGHT)  # Another process that looks in.
    await auditor.all_until(EIGHT + 190 * MINUTE)
    assert numbers(auditor.told) == [
        (0, "09:00"),
        (0, "10:00"),
        (1, "10:00"),
        (0, "11:00"),
        (1, "11:00"),
    ]
    assert len(set(auditor.ids)) == len(auditor.ids)


async def test_a_crash_repeats_one_page_with_the_same_ids(recorder: GroupCommitRecorder) -> None:
    auditor = Auditor(recorder)
    await auditor.all_until(EIGHT)
    await happen(recorder, *((n, "created", EIGHT + n * MINUTE) for n in range(5)))
    auditor.now = EIGHT + 61 * MINUTE
    assert await auditor.page()
    assert await auditor.page(crash=True)
    # What happens meanwhile is no part of the period.
    await happen(recorder, (2, "deleted", EIGHT + 62 * MINUTE))
    heir = Auditor(recorder)
    await heir.all_until(EIGHT + 63 * MINUTE)
    assert numbers(auditor.told) == [(n, "09:00") for n in range(4)]
    assert numbers(heir.told) == [(n, "09:00") for n in (2, 3, 4)]
    assert heir.ids[:2] == auditor.ids[2:]
    assert heir.told[:2] == auditor.told[2:]
    rows = recorder.fetch_now(f"SELECT done_until, position FROM {AUDITS.name}")
    assert [tuple(row) for row in rows] == [("2026-11-24T09:00:00.000000Z", None)]


async def test_a_page_of_an_audit_ends_early_where_it_becomes_long(
    recorder: GroupCommitRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exists_audit, "PAGE_BYTES", 1)
    auditor = Auditor(recorder)
    await auditor.all_until(EIGHT)
    await happen(recorder, *((n, "created", EIGHT + n * MINUTE) for n in range(3)))
    auditor.now = EIGHT + 61 * MINUTE
    for told in (1, 2, 3):
        assert await auditor.page()
        assert len(auditor.told) == told
    await auditor.all_until(EIGHT + 62 * MINUTE)
    assert numbers(auditor.told) == [(0, "09:00"), (1, "09:00"), (2, "09:00")]


async def test_an_audit_waits_for_the_tables_of_the_past(recorder: GroupCommitRecorder) -> None:
    auditor = Auditor(recorder)
    await auditor.all_until(EIGHT)
    await happen(recorder, (0, "created", EIGHT + MINUTE))
    event = Deactivated(
        originator_id=IDS[0], originator_version=2, timestamp=EIGHT + 2 * MINUTE, **CAUSE.facts()
    )
    recorder.insert_events([event_mapper().to_stored_event(event)])
    await auditor.all_until(EIGHT + 61 * MINUTE)
    assert auditor.told == []
    await Follower(recorder, FOLLOWER, RowVersionFolder(recorder), holder="h").catch_up()
    await auditor.all_until(EIGHT + 62 * MINUTE)
    assert [each["payload"]["status"] for each in auditor.told] == ["deactivated"]


def test_periods_are_those_of_utc() -> None:
    moment = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert beginning_of(moment, "hour") == datetime(2026, 12, 31, 23, tzinfo=UTC)
    assert beginning_of(moment, "day") == datetime(2026, 12, 31, tzinfo=UTC)
    assert end_of(moment, "hour") == end_of(moment, "day") == datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.slow
async def test_the_leader_of_a_sink_tells_of_them_beside_the_events(
    recorder: GroupCommitRecorder, rabbitmq: Any
) -> None:
    topic = f"n{uuid4().hex}"
    now = EIGHT
    envelope = OsloEnvelope(Positions("0a1b2c3d4e5f"), topics=[topic])

    async def look_again(position: int) -> None:
        await asyncio.sleep(0.02)

    served = Delivery(
        recorder,
        "s",
        OsloEncoder(recorder, envelope),
        RabbitMQ([rabbitmq.url], Topology(exchange=topic)),
        holder="h",
        wait=look_again,
        chore=Existing(recorder, "s", envelope, "hour", now=lambda: now, page_images=2),
    )
    await served.register()
    task = asyncio.create_task(served.run())
    told: list[tuple[str, str]] = []

    async def arrives(count: int) -> None:
        async with asyncio.timeout(20):
            while len(told) < count:
                for each in await asyncio.to_thread(rabbitmq.drain, f"{topic}.info"):
                    told.append((each["event_type"], each["payload"]["id"]))
                await asyncio.sleep(0.02)

    async with asyncio.timeout(20):
        while not recorder.fetch_now(f"SELECT sink FROM {AUDITS.name}"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await happen(recorder, *((n, "created", EIGHT + n * MINUTE) for n in range(5)))
    await arrives(5)
    assert {kind for kind, _ in told} == {"image.create"}
    now = EIGHT + 61 * MINUTE
    await arrives(10)
    assert sorted(told[5:]) == [("image.exists", str(image_id)) for image_id in IDS]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
