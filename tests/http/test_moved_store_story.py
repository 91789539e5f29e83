"""The directory or endpoint of a store moves: what was stored before is served, and cleaned up."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from calotype.commands.context import SYSTEM, cause_of
from calotype.commands.images.events import LocationsChanged
from calotype.commands.images.image import image_uuid
from calotype.ops.jobs.reconcile import reconcile

SHOWN = {"show_image_direct_url": True, "show_multiple_locations": True}


def at(directory: Path) -> dict[str, Any]:
    return {"kind": "file", "directory": str(directory)}


@pytest.fixture
async def moved(open_cloud: Any, tmp_path: Path) -> Any:
    """`(cloud, image, data, old URL)`: the image was stored before its store moved."""
    old, new = tmp_path / "old", tmp_path / "new"
    before = await open_cloud(store=at(old), http=SHOWN, deletion={"retention_seconds": 3600.0})
    image = await before.admin.create_active(b"stored before")
    shutil.move(old, new)
    after = await open_cloud(store=at(new), http=SHOWN, deletion={"retention_seconds": 3600.0})
    return after, image, image["direct_url"]


async def test_data_is_served_from_where_the_store_is_now(moved: Any) -> None:
    cloud, image, old_url = moved
    answer = await cloud.admin("GET", f"/v2/images/{image['id']}/file")
    assert (answer.status, answer.body) == (200, b"stored before")
    shown = await cloud.admin.show(image["id"])
    assert shown["direct_url"] == (cloud.directory / old_url.rpartition("/")[2]).as_uri()
    assert [place["url"] for place in shown["locations"]] == [shown["direct_url"]]
    listed = (await cloud.admin("GET", "/v2/images")).json["images"]
    assert listed == [shown]


async def test_locations_can_be_named_by_their_url_of_today_and_of_before(moved: Any) -> None:
    cloud, image, old_url = moved
    today = (await cloud.admin.show(image["id"]))["direct_url"]
    for number, url in enumerate((today, old_url)):
        place = {"url": url, "metadata": {"number": str(number)}}
        change = {"op": "replace", "path": "/locations", "value": [place]}
        answer = await cloud.admin.patch(image["id"], change)
        assert answer.status == 200, answer.text
        (location,) = answer.json["locations"]
        assert location["url"] == today
        assert location["metadata"] == {"number": str(number), "store": "default"}
    answer = await cloud.admin("GET", f"/v2/images/{image['id']}/file")
    assert answer.body == b"stored before"
    gone = {"op": "add", "path": "/locations/-", "value": {"url": today + "0", "metadata": {}}}
    assert (await cloud.admin.patch(image["id"], gone)).status == 400


async def test_reconcile_knows_what_was_stored_before_the_move(moved: Any) -> None:
    cloud, image, _ = moved
    found = await reconcile(cloud.context, cloud.api.queries, grace_seconds=-5, dry_run=False)
    assert (found.orphans, found.missing) == ([], [])
    cloud.stored()[0].unlink()
    found = await reconcile(cloud.context, cloud.api.queries, grace_seconds=-5, dry_run=False)
    assert len(found.missing) == 1
    assert image["id"] in found.missing[0]


async def test_what_somebody_else_put_into_the_store_is_no_orphan_after_a_move(
    moved: Any, open_cloud: Any, tmp_path: Path
) -> None:
    cloud, image, old_url = moved
    url = f"{Path(old_url).parent}/by-hand".replace("file:/", "file:///")
    stranger = cloud.directory / "by-hand"
    stranger.write_bytes(b"of somebody else")
    stored = await cloud.context.log.load(image_uuid(image["id"]))
    blob = next(iter(stored.blobs.values()))
    stored.trigger_event(
        LocationsChanged,
        locations=[*stored.locations, {"url": url, "metadata": {"store": "default"}}],
        stores={blob.url: "default", url: "default"},
        size=stored.size,
        checksum=stored.checksum,
        os_hash_algo=stored.os_hash_algo,
        os_hash_value=stored.os_hash_value,
        **cause_of(SYSTEM, "req-1").facts(),
    )
    await cloud.context.log._append(stored, None)
    found = await reconcile(cloud.context, cloud.api.queries, grace_seconds=-5, dry_run=False)
    assert found.orphans == []
    assert stranger.exists()
    places = (await cloud.admin.show(image["id"]))["locations"]
    assert places[1]["url"] == url


async def test_deleting_restoring_and_purging_find_the_bytes(moved: Any) -> None:
    cloud, image, _ = moved
    path = f"/v2/images/{image['id']}"
    assert (await cloud.admin("DELETE", path)).status == 204
    answer = await cloud.admin("POST", f"/log/v1/images/{image['id']}/restore")
    assert answer.status == 200, answer.text
    assert (await cloud.admin("GET", f"{path}/file")).body == b"stored before"
    assert (await cloud.admin("DELETE", path)).status == 204
    answer = await cloud.admin(
        "POST", f"/log/v1/images/{image['id']}/purge", json={"reason": "space"}
    )
    assert answer.status == 204, answer.text
    await cloud.sweep()
    assert cloud.stored() == []


async def test_no_answer_and_no_event_names_a_directory_of_the_server(
    open_cloud: Any, tmp_path: Path
) -> None:
    cloud = await open_cloud()
    image = await cloud.admin.create_active(b"data")
    shutil.rmtree(cloud.directory)
    down = await cloud.admin("GET", f"/v2/images/{image['id']}/file")
    assert down.status == 503
    assert "Store 'default'" in down.text
    queued = await cloud.admin.create_bare()
    up = await cloud.admin.upload(queued["id"], b"data")
    assert up.status == 503
    history = await cloud.admin("GET", f"/log/v1/images/{queued['id']}/history")
    assert "Store 'default'" in history.text
    for answer in (down, up, history):
        assert str(tmp_path) not in answer.text
