"""The past as callers see it: histories, images and lists as of a moment, and differences."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from calotype.ops.wiring.composition import versions_follower


@pytest.fixture
async def followed(cloud: Any) -> AsyncIterator[Any]:
    """A cloud of one administrator whose past is kept by a running follower."""
    task = asyncio.create_task(versions_follower(cloud.context).run())
    yield cloud
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def shared(projects: Any) -> AsyncIterator[Any]:
    """The same with projects."""
    task = asyncio.create_task(versions_follower(projects.context).run())
    yield projects
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def patched(document: Any, patch: list[dict[str, Any]]) -> Any:
    """RFC 6902 for whole documents and top-level members, written without the code under test."""
    for operation in patch:
        path = operation["path"]
        if path == "":
            document = None if operation["op"] == "remove" else dict(operation["value"])
            continue
        assert path[0] == "/"
        name = path[1:].replace("~1", "/").replace("~0", "~")
        assert (name in document) == (operation["op"] != "add")
        if operation["op"] == "remove":
            del document[name]
        else:
            document[name] = operation["value"]
    return document


async def changes_of(caller: Any, image_id: str, page: int = 2) -> list[dict[str, Any]]:
    """The whole history, page by page."""
    changes: list[dict[str, Any]] = []
    path = f"/log/v1/images/{image_id}/history?limit={page}"
    while path:
        answer = await caller("GET", path)
        assert answer.status == 200, answer.text
        assert 0 < len(answer.json["changes"]) <= page
        changes += answer.json["changes"]
        path = answer.json.get("next")
    return changes


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


async def test_a_history_says_who_did_what_by_which_request(shared: Any) -> None:
    ann, bob = shared.caller("p1", user="ann"), shared.caller("p1", user="bob")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    image = await ann.create_active(name="a", **{"a/b~c": "1"})
    image_id = image["id"]
    headers = {"X_Openstack_Request_Id": "req-77", "traceparent": trace}
    assert (await bob("PUT", f"/v2/images/{image_id}/tags/t", **headers)).status == 204
    await bob.patch(image_id, {"op": "remove", "path": "/a~1b~0c"})
    await ann.share(image_id, "p2")
    present = await ann.show(image_id)
    changes = await changes_of(ann, image_id)
    assert [change["type"] for change in changes] == [
        "image.created",
        "image.upload_started",
        "image.data_stored",
        "image.tag_added",
        "image.updated",
        "image.member_added",
    ]
    tagging, removing, sharing = changes[3:]
    assert tagging["actor"] == {"user": "bob", "project": "p1", "roles": ["member", "reader"]}
    assert (tagging["request_id"], tagging["trace_id"]) == ("req-77", trace.split("-")[1])
    assert {"op": "replace", "path": "/tags", "value": ["t"]} in tagging["patch"]
    assert {"op": "remove", "path": "/a~1b~0c"} in removing["patch"]
    assert (sharing["details"], sharing["patch"]) == ({"member": "p2"}, [])
    document = None
    for change in changes:
        document = patched(document, change["patch"])
    assert document == present
    text = str(changes)
    assert "file://" not in text
    assert shared.context.process_id not in text


async def test_a_deleted_image_keeps_its_history_for_its_owner_and_for_auditors(
    shared: Any,
) -> None:
    owner, other = shared.caller("p1"), shared.caller("p2")
    image = await owner.create_active(visibility="community")
    path = f"/log/v1/images/{image['id']}/history"
    assert (await other("GET", path)).status == 403
    assert (await owner("DELETE", f"/v2/images/{image['id']}")).status == 204
    await shared.sweep()
    for caller in (owner, shared.caller("p3", "admin"), shared.caller("p3", "auditor")):
        changes = await changes_of(caller, image["id"])
        kinds = [change["type"] for change in changes]
        assert kinds[-2:] == ["image.deleted", "image.data_removed"]
        assert {"op": "replace", "path": "/status", "value": "deleted"} in changes[-2]["patch"]
        assert changes[-1]["actor"]["user"] == "calotype"
    for caller in (other, shared.caller("p3"), shared.caller(None, "reader")):
        answer = await caller("GET", path)
        assert (answer.status, answer.json["status"]) == (404, 404)


async def test_a_private_image_s_past_is_nobody_else_s(shared: Any) -> None:
    owner, other = shared.caller("p1"), shared.caller("p2")
    image = await owner.create(name="secret", visibility="private")
    at = now()
    for path in ("", "/history", "/diff"):
        query = {"": f"?as_of={at}", "/history": "", "/diff": f"?from={at}&to={at}"}[path]
        answer = await other("GET", f"/log/v1/images/{image['id']}{path}{query}")
        assert answer.status == 404, path
    answer = await other("GET", f"/log/v1/images?as_of={at}&visibility=all")
    assert answer.json["images"] == []
    assert (await shared.caller("p9", "nothing")("GET", f"/log/v1/images?as_of={at}")).status == 403


async def test_today_s_permissions_hold_for_what_was_open_then(shared: Any) -> None:
    """What is private by now is not seen through its public past, nor is what is deleted."""
    admin, other = shared.caller("p1", "admin"), shared.caller("p2")
    closed = await admin.create(name="closed", visibility="public")
    gone = await admin.create(name="gone", visibility="public")
    still = await admin.create(name="still", visibility="public")
    given = await admin.create(name="given", owner="p2", visibility="private")
    lent = await admin.create(name="lent", visibility="shared")
    await admin.share(lent["id"], "p2", "accepted")
    at = now()
    path = f"/log/v1/images?as_of={at}&sort=name:asc"

    async def names(caller: Any) -> list[str]:
        answer = await caller("GET", path)
        assert answer.status == 200, answer.text
        return [image["name"] for image in answer.json["images"]]

    assert await names(other) == ["closed", "given", "gone", "lent", "still"]
    change = {"op": "replace", "path": "/visibility", "value": "private"}
    assert (await admin.patch(closed["id"], change)).status == 200
    assert (await admin("DELETE", f"/v2/images/{gone['id']}")).status == 204
    assert (await admin("DELETE", f"/v2/images/{given['id']}")).status == 204
    assert (await admin("DELETE", f"/v2/images/{lent['id']}/members/p2")).status == 204
    assert await names(other) == ["given", "still"]
    assert await names(admin) == ["closed", "given", "gone", "lent", "still"]
    assert await names(shared.caller("p3", "auditor")) == await names(admin)
    for image, status in ((closed, 404), (gone, 404), (lent, 404), (still, 200), (given, 200)):
        answer = await other("GET", f"/log/v1/images/{image['id']}?as_of={at}")
        assert answer.status == status, image["name"]


QUERIES = (
    "limit=1000",
    "limit=1000&sort=name:asc,size:desc",
    "limit=1000&sort_key=updated_at&sort_dir=asc",
    "limit=1000&tag=t1",
    "limit=1000&tag=t1&tag=t2",
    "limit=1000&kind=k1",
    "limit=1000&kind=k1&tag=t2&sort=name:desc",
    "limit=1000&status=active",
    "limit=1000&name=in:a,b",
    "limit=1000&os_hidden=true",
    "limit=1000&visibility=all&size_min=3",
    "limit=1000&visibility=shared&member_status=all",
)


async def _wish(chance: random.Random, callers: list[Any], images: list[str]) -> None:
    """One random change; many are refused, and that is fine."""
    caller = chance.choice(callers)
    if not images or chance.random() < 0.2:
        fields = {"visibility": chance.choice(["shared", "private", "community"])}
        tags = chance.sample(["t1", "t2", "t3"], chance.randrange(3))
        kind = chance.choice(["k1", "k2"])
        name = chance.choice(["a", "b", "c"])
        image = await caller.create_bare(name=name, tags=tags, kind=kind, **fields)
        images.append(image["id"])
        return
    image_id = chance.choice(images)
    path = f"/v2/images/{image_id}"
    act = chance.randrange(8)
    if act == 0:
        await caller("PUT", f"{path}/tags/{chance.choice(['t1', 't2'])}")
    elif act == 1:
        await caller("DELETE", f"{path}/tags/{chance.choice(['t1', 't2'])}")
    elif act == 2:
        await caller.upload(image_id, b"x" * chance.randrange(1, 6))
    elif act == 3:
        change = {"op": "add", "path": "/kind", "value": chance.choice(["k1", "k2"])}
        await caller.patch(image_id, change)
    elif act == 4:
        change = {"op": "replace", "path": "/os_hidden", "value": chance.random() < 0.5}
        await caller.patch(image_id, change)
    elif act == 5:
        await caller("POST", f"{path}/members", json={"member": chance.choice(["p1", "p2"])})
    elif act == 6:
        status = {"status": chance.choice(["accepted", "rejected"])}
        await caller("PUT", f"{path}/members/{caller.headers['X-Project-Id']}", json=status)
    elif chance.random() < 0.5:
        await caller("DELETE", path)


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_list_as_of_a_moment_is_what_the_list_showed(shared: Any, seed: int) -> None:
    """By position and by time, with every filter, for the administrator and for a project."""
    chance = random.Random(seed)
    callers = [shared.caller("p1"), shared.caller("p2")]
    admin = shared.caller("p0", "admin")
    images: list[str] = []
    seen: list[tuple[str, str, str, list[Any]]] = []
    positions = await shared.api.moments.positions()
    for _ in range(24):
        for _ in range(chance.randrange(1, 5)):
            await _wish(chance, callers, images)
        query = chance.choice(QUERIES)
        answer = await admin("GET", f"/v2/images?{query}")
        head = await asyncio.to_thread(shared.context.log.recorder.max_notification_id)
        seen.append((now(), positions.encode(head), query, answer.json["images"]))
    filled = 0
    for time, position, query, listed in seen:
        for moment in (time, position):
            answer = await admin("GET", f"/log/v1/images?{query}&as_of={moment}")
            assert answer.status == 200, answer.text
            assert answer.json["images"] == listed, query
            assert answer.json["as_of"] == position
            assert answer.headers["Calotype-Position"] == position
        for image in listed[:3]:
            answer = await admin("GET", f"/log/v1/images/{image['id']}?as_of={position}")
            assert answer.json == image
        filled += bool(listed)
    assert filled > 5
    # With nothing changed since, a project sees as of now what it sees now, through every branch.
    for caller in callers:
        for query in QUERIES:
            expected = (await caller("GET", f"/v2/images?{query}")).json["images"]
            answer = await caller("GET", f"/log/v1/images?{query}&as_of={now()}")
            assert answer.json["images"] == expected, query


async def test_pages_of_the_past_stay_in_the_past(followed: Any) -> None:
    """While others create and delete, the links lead through the list as it was."""
    admin = followed.admin
    made = [(await admin.create(name=f"i{n}"))["id"] for n in range(7)]
    path: str | None = f"/log/v1/images?limit=3&sort=name:asc&as_of={now()}"
    names: list[str] = []
    while path:
        answer = await admin("GET", path)
        assert answer.status == 200, answer.text
        names += [image["name"] for image in answer.json["images"]]
        path = answer.json.get("next")
        await admin.create(name="i0a")
        await admin("DELETE", f"/v2/images/{made.pop()}")
    assert names == [f"i{n}" for n in range(7)]


async def test_two_moments_are_compared(followed: Any) -> None:
    admin = followed.admin
    before = now()
    image = await admin.create_bare(name="a")
    path = f"/log/v1/images/{image['id']}"
    first = (await changes_of(admin, image["id"]))[0]["position"]
    await admin.upload(image["id"], b"abc")
    await admin.patch(image["id"], {"op": "add", "path": "/color", "value": "red"})
    present = await admin.show(image["id"])
    last = now()
    there = (await admin("GET", f"{path}/diff?from={first}&to={last}")).json
    assert patched(dict(image), there["patch"]) == present
    back = (await admin("GET", f"{path}/diff?from={last}&to={first}")).json
    assert patched(dict(present), back["patch"]) == image
    assert there["from"] == first == back["to"]
    born = (await admin("GET", f"{path}/diff?from={before}&to={last}")).json
    assert born["patch"] == [{"op": "add", "path": "", "value": present}]
    assert (await admin("DELETE", f"/v2/images/{image['id']}")).status == 204
    died = (await admin("GET", f"{path}/diff?from={last}&to={now()}")).json
    assert died["patch"] == [{"op": "remove", "path": ""}]
    nowhere = await admin("GET", f"{path}/diff?from={before}&to={before}")
    assert nowhere.status == 404


BAD_MOMENTS = (
    "yesterday",
    "2026-01-31",
    "2026-01-31T12:00:00",
    "2026-02-31T12:00:00Z",
    "2026-01-31T12:00:60Z",
    "0001-01-01T00:00:00%2B23:00",
    "9999-12-31T23:59:59Z",
    "p0-1",
    "12",
    "p%00",
    "%F0%9F%95%B0",
    "",
)


@pytest.mark.parametrize("moment", BAD_MOMENTS)
async def test_a_bad_moment_is_a_problem_that_names_its_field(followed: Any, moment: str) -> None:
    image = uuid.uuid4()
    for path, field in (
        (f"/log/v1/images?as_of={moment}", "as_of"),
        (f"/log/v1/images/{image}?as_of={moment}", "as_of"),
        (f"/log/v1/images/{image}/diff?to=2026-01-01T00:00:00Z&from={moment}", "from"),
    ):
        answer = await followed.admin("GET", path)
        assert answer.status == 400, path
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert (answer.json["status"], answer.json["title"]) == (400, "Bad Request")
        assert field in answer.json["detail"] or "%00" in path


async def test_other_bad_questions_name_their_field(followed: Any) -> None:
    image = (await followed.admin.create())["id"]
    positions = await followed.api.moments.positions()
    beyond = positions.encode(10**6)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for path, field in (
        (f"/log/v1/images?as_of={beyond}", "as_of"),
        (f"/log/v1/images?as_of={tomorrow}", "as_of"),
        ("/log/v1/images?as_of=p000000000000-1", "as_of"),
        ("/log/v1/images", "as_of"),
        (f"/log/v1/images?as_of={now()}&as_of={now()}", "as_of"),
        (f"/log/v1/images/{image}/diff?from={now()}", "to"),
        (f"/log/v1/images/{image}/history?after=p000000000000-1", "after"),
        (f"/log/v1/images/{image}/history?limit=0", "limit"),
        (f"/log/v1/images/{image}/history?limit=-1", "limit"),
        (f"/log/v1/images/{image}/history?colour=1", "colour"),
        (f"/log/v1/images/{image}/history?limit=1&limit=2", "limit"),
    ):
        answer = await followed.admin("GET", path)
        assert (answer.status, answer.json.get("field")) == (400, field), path
    for path in ("history", f"diff?from={now()}&to={now()}"):
        answer = await followed.admin("GET", f"/log/v1/images/{uuid.uuid4()}/{path}")
        assert answer.status == 404, path
        assert (await followed.admin("GET", f"/log/v1/images/nonsense/{path}")).status == 404


async def test_before_the_first_event_there_was_nothing(followed: Any) -> None:
    before = now()
    image = await followed.admin.create()
    answer = await followed.admin("GET", f"/log/v1/images?as_of={before}")
    assert answer.json["images"] == []
    path = f"/log/v1/images/{image['id']}?as_of={answer.json['as_of']}"
    assert (await followed.admin("GET", path)).status == 404


async def test_a_past_that_is_not_ready_is_503_with_a_time_to_come_back(cloud: Any) -> None:
    """Nobody follows the log here; histories need nobody to."""
    cloud.api.moments._wait_seconds = 0.05
    image = await cloud.admin.create()
    answer = await cloud.admin("GET", f"/log/v1/images?as_of={now()}")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert len(await changes_of(cloud.admin, image["id"])) == 1
