"""The feed as programs see it: batches, long polls, snapshots, and who is told what."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from calotype.ops.wiring.composition import audience_follower, versions_follower
from calotype.projections.feed import feed
from calotype.projections.past.row_versions import FOLLOWER

EVENTS = "/log/v1/events"
STREAM = {"Accept": "text/event-stream"}


@asynccontextmanager
async def followers(cloud: Any) -> AsyncIterator[Any]:
    tasks = [
        asyncio.create_task(versions_follower(cloud.context).run()),
        asyncio.create_task(audience_follower(cloud.context, cloud.api.feed.watcher).run()),
    ]
    yield cloud
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def open_feed(cloud: Any) -> AsyncIterator[Any]:
    """A cloud of one administrator."""
    async with followers(cloud):
        yield cloud


@pytest.fixture
async def told(projects: Any) -> AsyncIterator[Any]:
    """A cloud of several projects."""
    async with followers(projects):
        yield projects


def next_of(answer: Any) -> str:
    link = answer.headers["Link"]
    assert link.endswith('>; rel="next"')
    return link[1:].partition(">")[0]


async def settled(cloud: Any) -> None:
    """Waits until the feeds of projects have everything."""
    head = cloud.context.log.recorder.max_notification_id() or 0
    for _ in range(500):
        if (await cloud.api.feed._ends())[1] >= head:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the audience was not decided in time")


async def all_events(caller: Any, path: str = f"{EVENTS}?limit=3") -> list[dict[str, Any]]:
    """Everything, page by page, until a page is not full."""
    events: list[dict[str, Any]] = []
    while True:
        answer = await caller("GET", path)
        assert answer.status == 200, answer.text
        events += answer.json
        if "immutable" not in answer.headers["Cache-Control"]:
            return events
        path = next_of(answer)


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("org.calotype.image.") for event in events]


async def test_every_event_comes_once_in_order_as_a_cloudevent(open_feed: Any) -> None:
    admin = open_feed.admin
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    image = await admin.create_active(name="a")
    headers = {"X_Openstack_Request_Id": "req-9", "traceparent": trace}
    assert (await admin("PUT", f"/v2/images/{image['id']}/tags/t", **headers)).status == 204
    events = await all_events(admin)
    assert types(events) == ["created", "upload_started", "data_stored", "tag_added"]
    assert [event["data"]["version"] for event in events] == [1, 2, 3, 4]
    assert len({event["id"] for event in events}) == 4
    tagged = events[-1]
    assert tagged["specversion"] == "1.0"
    assert tagged["subject"] == image["id"]
    assert tagged["time"] == tagged["data"]["timestamp"]
    assert tagged["datacontenttype"] == "application/json"
    assert (tagged["traceparent"], tagged["requestid"]) == (trace, "req-9")
    assert (tagged["project"], tagged["view"]) == ("default", "full")
    assert tagged["data"]["tag"] == "t"
    assert (tagged["type"], tagged["dataschema"]) == (
        "org.calotype.image.tag_added",
        "urn:calotype:schema:org.calotype.image.tag_added:1",
    )
    for name in (tagged["type"], "image.tag_added"):
        schema = (await admin("GET", f"/log/v1/schemas/{name}?version=1")).json
        assert schema["$id"] == tagged["dataschema"]
        found = (await admin("GET", f"{EVENTS}?types={name}")).json
        assert [event["id"] for event in found] == [tagged["id"]]
    assert len({event["source"] for event in events}) == 1


async def test_full_pages_stay_as_they_are_and_the_last_one_is_asked_again(
    open_feed: Any,
) -> None:
    admin = open_feed.admin
    for _ in range(3):
        await admin.create()
    first = await admin("GET", f"{EVENTS}?limit=2")
    assert first.headers["Content-Type"] == "application/cloudevents-batch+json"
    assert first.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert first.headers["Calotype-Position"] == first.json[-1]["id"]
    last = await admin("GET", next_of(first))
    assert (len(last.json), last.headers["Cache-Control"]) == (1, "private, no-cache")
    again = await admin("GET", next_of(first), If_None_Match=last.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    assert again.headers["Link"] == last.headers["Link"]
    await admin.create()
    grown = await admin("GET", next_of(first), If_None_Match=last.headers["ETag"])
    assert (grown.status, len(grown.json)) == (200, 2)
    same = await admin("GET", f"{EVENTS}?limit=2")
    assert (same.body, same.headers["ETag"]) == (first.body, first.headers["ETag"])
    assert (await admin("GET", f"{EVENTS}?limit=2", If_None_Match="*")).status == 304


async def test_types_and_an_image_narrow_the_feed(open_feed: Any) -> None:
    admin = open_feed.admin
    one, other = await admin.create_active(), await admin.create_active()
    created = await all_events(admin, f"{EVENTS}?types=image.created&limit=1")
    assert [event["subject"] for event in created] == [one["id"], other["id"]]
    of_one = await all_events(admin, f"{EVENTS}?image={one['id']}&limit=2")
    assert types(of_one) == ["created", "upload_started", "data_stored"]
    both = f"{EVENTS}?image={other['id']}&types=image.data_stored,image.created"
    assert types(await all_events(admin, both)) == ["created", "data_stored"]


@pytest.mark.parametrize("project", ["p1", None])
async def test_rare_types_are_found_however_much_lies_between(
    told: Any, monkeypatch: pytest.MonkeyPatch, project: str | None
) -> None:
    monkeypatch.setattr("calotype.projections.feed.feed.WINDOW_EVENTS", 4)
    monkeypatch.setattr(
        "calotype.projections.feed.feed._WINDOW_OF_PROJECT",
        "SELECT position FROM event_audience_2 WHERE project = :project AND position > :after "
        "ORDER BY position LIMIT 1 OFFSET 3",
    )
    owner = told.caller("p1")
    for _ in range(3):
        await owner.create_active()
    last = await owner.create()
    assert (await owner("PUT", f"/v2/images/{last['id']}/tags/t")).status == 204
    await settled(told)
    reader = owner if project else told.caller("x", "auditor")
    found = await all_events(reader, f"{EVENTS}?types=image.tag_added")
    assert [event["subject"] for event in found] == [last["id"]]


async def test_a_long_poll_answers_when_something_happens_and_not_before(told: Any) -> None:
    owner = told.caller("p1")
    start = (await owner("GET", EVENTS)).headers["Calotype-Position"]
    polling = asyncio.create_task(owner("GET", f"{EVENTS}?after={start}&wait=30"))
    await told.caller("p2").create()
    done, _ = await asyncio.wait({polling}, timeout=0.5)
    assert not done
    mine = await owner.create()
    answer = await asyncio.wait_for(polling, 5)
    assert [event["subject"] for event in answer.json] == [mine["id"]]
    await settled(told)
    empty = await owner("GET", f"{next_of(answer)}&wait=1")
    assert (empty.status, empty.json) == (200, [])


async def test_a_project_is_told_of_its_own_images_and_of_those_shared_with_it(
    told: Any,
) -> None:
    owner, member, other = told.caller("p1", user="the-owner"), told.caller("p2"), told.caller("p3")
    shared = await owner.create_active(visibility="shared", name="s")
    hidden = await owner.create_active(visibility="private", name="secret")
    path = f"/v2/images/{shared['id']}/members"
    for project in ("p2", "project-four"):
        assert (await owner("POST", path, json={"member": project})).status == 200
    assert (await owner("PUT", f"/v2/images/{shared['id']}/tags/t")).status == 204
    await told.caller("p9").create(visibility="private")
    await settled(told)
    assert {event["subject"] for event in await all_events(owner)} == {shared["id"], hidden["id"]}
    events = await all_events(member)
    assert types(events) == ["member_added", "tag_added"]
    assert {event["view"] for event in events} == {"shared"}
    assert events[0]["data"]["member"] == "p2"
    assert await all_events(other) == []
    text = str(events)
    for secret in ("the-owner", "secret", "file://", told.context.process_id, "project-four"):
        assert secret not in text
    own = await all_events(owner)
    assert own[0]["data"]["actor"]["user"] == "the-owner"
    assert "file://" not in str(own)
    assert told.context.process_id not in str(own)
    for operator in (told.caller("x", "admin"), told.caller("x", "auditor")):
        everything = await all_events(operator)
        assert len(everything) == told.context.log.recorder.max_notification_id()
        assert "file://" in str(everything)
    assert (await told.caller("p1", "nothing")("GET", EVENTS)).status == 403
    assert (await told.caller(None)("GET", EVENTS)).status == 403


async def test_who_loses_sight_of_an_image_learns_that_and_nothing_more(told: Any) -> None:
    owner, member = told.caller("p1"), told.caller("p2")
    image = await owner.create(visibility="shared", name="open")
    path = f"/v2/images/{image['id']}/members"
    assert (await owner("POST", path, json={"member": "p2"})).status == 200
    replaced = [
        {"op": "replace", "path": "/visibility", "value": "private"},
        {"op": "replace", "path": "/name", "value": "TOPSECRET"},
    ]
    assert (await owner.patch(image["id"], *replaced)).status == 200
    assert (await owner("PUT", f"/v2/images/{image['id']}/tags/hush")).status == 204
    assert (await owner("DELETE", f"{path}/p2")).status in (204, 403)
    await settled(told)
    events = await all_events(member)
    assert [event["view"] for event in events] == ["shared", "withdrawn"]
    assert set(events[1]["data"]) == {"timestamp", "version"}
    assert "TOPSECRET" not in str(events)
    assert "hush" not in str(events)
    # What was handed out once stays: sharing it again does not rewrite the past.
    back = {"op": "replace", "path": "/visibility", "value": "shared"}
    assert (await owner.patch(image["id"], back)).status == 200
    await settled(told)
    assert (await all_events(member))[:2] == events


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("after=nonsense", "after"),
        ("after=p000000000000-1", "after"),
        ("after=", "after"),
        ("types=image.exploded", "types"),
        ("types=", "types"),
        ("types=image.created,", "types"),
        ("image=7", "image"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("wait=61", "wait"),
        ("wait=1.5", "wait"),
        ("snapshot=yes", "snapshot"),
        ("snapshot=true&wait=1", "wait"),
        ("snapshot=true&marker=x", "marker"),
        ("marker=3b2f0c7e-5d1a-4c68-9f27-6a0d8e4b1c95", "marker"),
        ("afer=1", "afer"),
        ("limit=1&limit=2", "limit"),
        ("types=%00", "types"),
        ("types=%ff", "types"),
    ],
)
async def test_bad_input_is_a_problem_that_names_the_parameter(
    cloud: Any, query: str, field: str
) -> None:
    for headers in ({}, STREAM):
        answer = await cloud.admin("GET", f"{EVENTS}?{query}", **headers)
        assert answer.status == 400, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json["field"] == field


async def test_positions_of_the_future_and_of_other_logs_are_refused(open_feed: Any) -> None:
    admin = open_feed.admin
    await admin.create()
    positions = await open_feed.api.feed.positions()
    ahead = await admin("GET", f"{EVENTS}?after={positions.encode(2)}")
    assert (ahead.status, ahead.json["field"]) == (400, "after")
    assert (await admin("GET", f"{EVENTS}?after={positions.encode(1)}")).json == []
    foreign = await admin("GET", EVENTS, Last_Event_ID="p000000000000-1", **STREAM)
    assert (foreign.status, foreign.json["field"]) == (400, "Last-Event-ID")


async def test_a_snapshot_is_the_images_at_a_position_and_then_everything_after_it(
    told: Any,
) -> None:
    owner, other = told.caller("p1"), told.caller("p2")
    mine = {(await owner.create(name=f"n{n}"))["id"] for n in range(4)}
    gone = await owner.create()
    assert (await owner("DELETE", f"/v2/images/{gone['id']}")).status == 204
    shared = await other.create(visibility="shared")
    assert (
        await other("POST", f"/v2/images/{shared['id']}/members", json={"member": "p1"})
    ).status == 200
    await other.create(visibility="private")
    await _snapshot_of(told, owner, mine | {shared["id"]})
    everything = told.caller("x", "admin")
    assert len(await _snapshot_of(told, everything, None)) == 7


async def _snapshot_of(told: Any, caller: Any, expected: set[str] | None) -> list[Any]:
    head = told.context.log.recorder.max_notification_id()
    for _ in range(200):
        answer = await caller("GET", f"{EVENTS}?snapshot=true&limit=2")
        if answer.headers["Calotype-Position"].endswith(f"-{head:x}"):
            break
        await asyncio.sleep(0.02)
    found, position = list(answer.json), answer.headers["Calotype-Position"]
    # What happens while the snapshot is read belongs to what follows it.
    late = await caller.create(name="late")
    while "snapshot=" in next_of(answer):
        answer = await caller("GET", next_of(answer))
        assert answer.headers["Calotype-Position"] == position
        assert "immutable" in answer.headers["Cache-Control"]
        found += answer.json
    assert {event["type"] for event in found} == {"org.calotype.image.snapshot"}
    ids = [event["subject"] for event in found]
    assert len(set(ids)) == len(ids)
    assert late["id"] not in ids
    if expected is not None:
        assert set(ids) == expected
        shown = next(event for event in found if event["view"] == "own")
        assert shown["data"] == await caller.show(shown["subject"])
    after = await caller("GET", f"{next_of(answer)}&wait=10")
    assert [event["subject"] for event in after.json] == [late["id"]]
    return ids


async def test_pages_end_where_they_become_long(
    open_feed: Any, monkeypatch: pytest.MonkeyPatch, becomes: Any
) -> None:
    """Of events, of snapshots and of what is looked up for consumers; and nothing is missing."""
    monkeypatch.setattr(feed, "PAGE_BYTES", 3000)
    admin = open_feed.admin
    ids = [(await admin.create(note="x" * 1024))["id"] for _ in range(7)]
    await settled(open_feed)
    recorder = open_feed.context.log.recorder
    await becomes(lambda: recorder.max_tracking_id(FOLLOWER) == 7)
    for query in ("", "&types=image.created"):
        page = await admin("GET", f"{EVENTS}?limit=100{query}")
        assert len(page.json) == 2
        events = await all_events(admin, f"{EVENTS}?limit=100{query}")
        assert [event["subject"] for event in events] == ids
    found, path = [], f"{EVENTS}?snapshot=true&limit=100"
    while "snapshot" in path:
        page = await admin("GET", path)
        assert 0 < len(page.json) <= 2
        found += [image["data"]["id"] for image in page.json]
        path = next_of(page)
    assert found == sorted(ids)
    positions = list(range(1, 8))
    assert [*await open_feed.api.feed.at(None, positions)] == positions
    assert [*await open_feed.api.feed.at(None, positions, limit_bytes=3000)] == [1, 2]
