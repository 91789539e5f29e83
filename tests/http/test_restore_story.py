"""What was deleted comes back whole while its window is open, and then never again."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from calotype.commands.context import SYSTEM, cause_of
from calotype.commands.errors import CalotypeError
from calotype.commands.images import deletion
from calotype.ops.jobs.reconcile import reconcile
from calotype.ops.wiring.composition import parts_of, recorder_of

DAY = {"retention_seconds": 86400}


@pytest.fixture
async def keeping(open_cloud: Any) -> Any:
    """A cloud of projects that keeps what was deleted for a day."""
    return await open_cloud(identity={"kind": "headers"}, deletion=DAY)


async def restore(caller: Any, image_id: str) -> Any:
    return await caller("POST", f"/log/v1/images/{image_id}/restore")


async def drop(caller: Any, image_id: str) -> None:
    assert (await caller("DELETE", f"/v2/images/{image_id}")).status == 204


async def kinds(caller: Any, image_id: str) -> list[str]:
    answer = await caller("GET", f"/log/v1/images/{image_id}/history?limit=1000")
    return [change["type"] for change in answer.json["changes"]]


async def test_an_image_comes_back_with_all_that_it_had(keeping: Any) -> None:
    owner, friend = keeping.caller("p1", user="ann"), keeping.caller("p2")
    image = await owner.create_active(b"precious", name="n", tags=["t"], k="v")
    await owner.share(image["id"], "p2")
    await friend("PUT", f"/v2/images/{image['id']}/members/p2", json={"status": "accepted"})
    before = await owner.show(image["id"])
    await drop(owner, image["id"])
    await keeping.sweep()
    assert (await owner("GET", f"/v2/images/{image['id']}")).status == 404
    assert (await owner("POST", "/v2/images", json={"id": image["id"]})).status == 409
    assert len(keeping.stored()) == 1
    answer = await restore(owner, image["id"])
    assert answer.status == 200, answer.text
    assert {**answer.json, "updated_at": ""} == {**before, "updated_at": ""}
    assert await friend.names("?visibility=shared") == ["n"]
    assert await owner.found(tag="t") == await owner.found(k="v") == {"n"}
    assert (await friend("GET", f"/v2/images/{image['id']}/file")).body == b"precious"
    again = await restore(owner, image["id"])
    assert (again.status, again.headers["Content-Type"]) == (409, "application/problem+json")
    await drop(owner, image["id"])
    assert (await restore(owner, image["id"])).status == 200
    assert await owner.names() == ["n"]


async def test_every_status_comes_back_as_it_was(keeping: Any) -> None:
    owner = keeping.caller("p1")
    queued = await owner.create(name="queued")
    off = await owner.create_active()
    await owner("POST", f"/v2/images/{off['id']}/actions/deactivate")
    for image, status in ((queued, "queued"), (off, "deactivated")):
        await drop(owner, image["id"])
        assert (await restore(owner, image["id"])).json["status"] == status


async def test_who_may_not_delete_may_not_restore(keeping: Any) -> None:
    owner = keeping.caller("p1")
    image = await owner.create_active(visibility="community")
    assert (await restore(keeping.caller("p2"), image["id"])).status == 403
    await drop(owner, image["id"])
    for caller, status in (
        (keeping.caller("p1", "reader"), 403),
        (keeping.caller("p2"), 404),
        (keeping.caller(None, "reader"), 404),
    ):
        assert (await restore(caller, image["id"])).status == status
        answer = await caller("POST", f"/log/v1/images/{image['id']}/purge", json={"reason": "r"})
        assert answer.status == status
    answer = await owner("POST", f"/log/v1/images/{image['id']}/purge", json={"reason": "r"})
    assert answer.status == 403
    unknown = "11111111-2222-3333-4444-555555555555"
    assert (await restore(owner, unknown)).status == 404
    assert (await restore(keeping.caller("p9", "admin"), image["id"])).status == 200


async def test_what_was_deleted_without_retention_is_gone_and_says_so(projects: Any) -> None:
    owner = projects.caller("p1")
    image = await owner.create_active()
    await drop(owner, image["id"])
    answer = await restore(owner, image["id"])
    assert (answer.status, "without retention" in answer.json["detail"]) == (410, True)
    assert (await owner("GET", "/log/v1/restorable")).json["images"] == []
    await projects.sweep()
    assert projects.stored() == []


async def test_when_the_window_is_over_the_bytes_go_and_the_log_says_why(open_cloud: Any) -> None:
    cloud = await open_cloud(deletion={"retention_seconds": 0.3})
    image = await cloud.admin.create_active()
    await drop(cloud.admin, image["id"])
    assert (await cloud.admin("GET", "/log/v1/restorable")).json["total"]["held_bytes"] == 10
    async with asyncio.timeout(20):
        while cloud.stored():
            await cloud.sweep()
            await asyncio.sleep(0.02)
    answer = await restore(cloud.admin, image["id"])
    assert (answer.status, "retention was over at" in answer.json["detail"]) == (410, True)
    assert (await cloud.admin("GET", "/log/v1/restorable")).json["images"] == []
    changes = (await cloud.admin("GET", f"/log/v1/images/{image['id']}/history")).json["changes"]
    until = changes[-3]["details"]["retained_until"]
    assert [change["type"] for change in changes[-3:]] == [
        "image.deleted",
        "image.purged",
        "image.data_removed",
    ]
    assert changes[-1]["details"]["reason"] == (
        f"image was deleted by its event 4; retention was over at {until}"
    )


async def test_a_purge_ends_the_window_at_once_and_says_who_and_why(keeping: Any) -> None:
    admin, owner = keeping.caller("p9", "admin", user="root"), keeping.caller("p1")
    image = await owner.create_active()
    path = f"/log/v1/images/{image['id']}/purge"
    assert (await admin("POST", path, json={"reason": "r"})).status == 409
    await drop(owner, image["id"])
    for body in ({}, {"reason": ""}, {"reason": 5}, {"reason": "r", "x": 1}):
        assert (await admin("POST", path, json=body)).status == 400
    assert (await admin("POST", path, json={"reason": "court order"})).status == 204
    await keeping.sweep()
    assert keeping.stored() == []
    assert (await admin("POST", path, json={"reason": "again"})).status == 410
    answer = await restore(owner, image["id"])
    assert (answer.status, "purged: court order" in answer.json["detail"]) == (410, True)
    changes = (await admin("GET", f"/log/v1/images/{image['id']}/history")).json["changes"]
    assert changes[-2]["actor"]["user"] == "root"


async def test_the_list_is_paged_and_filtered_and_nobody_else_s(keeping: Any) -> None:
    ann, bob = keeping.caller("p1", user="ann"), keeping.caller("p1", user="bob")
    foreign, admin = keeping.caller("p2"), keeping.caller("p9", "admin")
    ids = []
    for number in range(7):
        image = await ann.create(name=f"n{number}")
        if number == 4:
            middle = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        await drop(ann if number % 2 else bob, image["id"])
        ids.append(image["id"])
    await drop(foreign, (await foreign.create(name="foreign"))["id"])

    async def names(caller: Any, query: str) -> list[str]:
        answer = await caller("GET", f"/log/v1/restorable?{query}")
        assert answer.status == 200, answer.text
        return sorted(image["name"] for image in answer.json["images"])

    assert await names(bob, "deleted_by=bob") == ["n0", "n2", "n4", "n6"]
    assert await names(bob, f"deleted_by=ann&deleted_before={middle}") == ["n1", "n3"]
    assert await names(bob, f"deleted_after={middle}") == ["n4", "n5", "n6"]
    assert await names(foreign, "") == ["foreign"]
    assert len(await names(admin, "")) == 8
    assert await names(admin, "owner=p2") == ["foreign"]
    seen, path = [], "/log/v1/restorable?limit=2"
    while path:
        page = (await ann("GET", path)).json
        seen += [image["id"] for image in page["images"]]
        # What was restored meanwhile does not break the links.
        assert (await restore(ann, seen[-1])).status == 200
        path = page.get("next")
    assert seen == ids[::-1]
    assert (await ann("GET", "/log/v1/restorable?owner=p2")).status == 403
    assert (await keeping.caller("p1", "reader")("GET", "/log/v1/restorable")).status == 403
    for query in ("x=1", "limit=0", "limit=1&limit=2", "marker=1", "deleted_after=now"):
        answer = await ann("GET", f"/log/v1/restorable?{query}")
        assert (answer.status, answer.json["field"]) == (400, query.partition("=")[0]), query


async def test_reconcile_leaves_retained_bytes_and_still_finds_orphans(keeping: Any) -> None:
    owner = keeping.caller("p1")
    image = await owner.create_active()
    await drop(owner, image["id"])
    (kept,) = keeping.stored()
    (keeping.directory / "stray").write_bytes(b"?")
    found = await reconcile(keeping.context, keeping.api.queries, grace_seconds=-5, dry_run=False)
    assert ([url.rpartition("/")[2] for url in found.orphans], found.missing) == (["stray"], [])
    assert keeping.stored() == [kept]
    kept.unlink()
    found = await reconcile(keeping.context, keeping.api.queries, grace_seconds=-5, dry_run=False)
    assert len(found.missing) == 1
    answer = await restore(owner, image["id"])
    assert (answer.status, "missing in store" in answer.json["detail"]) == (410, True)


async def test_of_restore_and_purge_at_once_exactly_one_wins(
    keeping: Any, log_url: str, tmp_path: Any
) -> None:
    """Two processes' worth of logs and caches on one database, again and again."""
    from calotype.commands.images.data import remove_garbage
    from calotype.ops.settings.settings import Settings

    settings = Settings(data=str(tmp_path), log={"url": log_url}, deletion=DAY)
    recorder = recorder_of(settings)
    other = parts_of(settings, recorder)
    owner = keeping.caller("p1")

    async def wish(context: Any, act: Any, *more: Any) -> bool:
        try:
            image = await act(context, SYSTEM, cause_of(SYSTEM, "req-1"), *more)
        except CalotypeError:
            return False
        if act is deletion.purge_image:
            await remove_garbage(context, image)
        return True

    for _ in range(12):
        image_id = (await owner.create_active())["id"]
        await drop(owner, image_id)
        outcomes = await asyncio.gather(
            wish(keeping.context, deletion.restore_image, image_id),
            wish(other, deletion.purge_image, image_id, "space"),
            wish(other, deletion.restore_image, image_id),
        )
        assert sum(outcomes) == 1, outcomes
        answer = await owner("GET", f"/v2/images/{image_id}/file")
        assert answer.status == (404 if outcomes[1] else 200)
        there = any(path.name.startswith(image_id) for path in keeping.stored())
        assert there is not outcomes[1]
    await recorder.close()
