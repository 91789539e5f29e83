"""Operators' own rules: what they open and close, in lists as in single calls."""

import asyncio
from contextlib import suppress

import pytest
import structlog

from calotype.ops.settings import file_watching as files
from calotype.ops.settings.policy_files import load_policy, watch_policy
from calotype.ops.settings.settings import Policy as PolicySettings
from calotype.ops.settings.settings import SettingsError


async def test_a_rule_about_images_filters_lists_and_single_calls_alike(open_cloud, tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text("get_image: \"role:admin or (role:reader and 'yes':%(listed)s)\"\n")
    cloud = await open_cloud(identity={"kind": "headers"}, policy={"file": str(file)})
    owner = cloud.caller("p1")
    admin = cloud.caller("p1", "admin")
    for number in range(7):
        await owner.create(name=f"i{number}", listed="yes" if number % 3 == 0 else "no")
    shown = await owner.names("?sort=name:asc&limit=2")
    assert shown == ["i0", "i3"]
    answer = await owner("GET", "/v2/images?sort=name:asc&limit=2")
    following = await owner("GET", answer.json["next"])
    assert [image["name"] for image in following.json["images"]] == ["i6"]
    assert "next" not in following.json
    assert len(await admin.names("?limit=100")) == 7
    everything = (await admin("GET", "/v2/images?limit=100")).json["images"]
    for image in everything:
        for path in ("", "/members"):
            answer = await owner("GET", f"/v2/images/{image['id']}{path}")
            assert (answer.status == 404) == (image["listed"] == "no")


async def test_a_shared_image_is_out_of_reach_whatever_the_rules_say(open_cloud, tmp_path):
    file = tmp_path / "policy.json"
    file.write_text('{"get_image": "", "delete_image": "", "download_image": "@"}')
    cloud = await open_cloud(identity={"kind": "headers"}, policy={"file": str(file)})
    image = await cloud.caller("p1").create_active()
    stranger = cloud.caller("p2")
    for method, path in (("GET", ""), ("GET", "/file"), ("DELETE", "")):
        assert (await stranger(method, f"/v2/images/{image['id']}{path}")).status == 404
    assert (await cloud.caller("p1").show(image["id"]))["status"] == "active"


async def test_a_refusal_is_logged_with_rule_actor_target_and_request(projects):
    image = await projects.caller("p1").create(visibility="shared")
    reader = projects.caller("p1", "reader")
    with structlog.testing.capture_logs() as lines:
        answer = await reader("DELETE", f"/v2/images/{image['id']}")
    assert answer.status == 403
    line = next(line for line in lines if line["event"] == "refused")
    assert line["rule"] == "delete_image"
    assert line["actor"] == {"user": "someone", "project": "p1", "roles": ["reader"]}
    assert line["target"] == f"DELETE /v2/images/{image['id']}"
    assert line["request_id"] == answer.headers["x-openstack-request-id"]


async def test_a_changed_file_is_used_and_a_broken_one_changes_nothing(
    open_cloud, tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.02)
    file = tmp_path / "policy.yaml"
    file.write_text("add_image: '!'\n")
    cloud = await open_cloud(identity={"kind": "headers"}, policy={"file": str(file)})
    settings = PolicySettings(file=str(file))
    watching = asyncio.create_task(watch_policy(settings, cloud.api.use_policy))
    caller = cloud.caller("p1")

    async def until_it_answers(status: int) -> None:
        async with asyncio.timeout(20):
            while True:
                if (await caller("POST", "/v2/images", json={})).status == status:
                    return
                await asyncio.sleep(0.01)

    await until_it_answers(403)
    file.write_text("# nothing differs any more\n")
    await until_it_answers(201)
    in_force = cloud.api.policy
    with structlog.testing.capture_logs() as lines:
        file.write_text("get_images: ''\nadd_image: 'role:a or'\n")
        async with asyncio.timeout(20):
            while not lines:  # noqa: ASYNC110 - there is no event for a line
                await asyncio.sleep(0.01)
    assert "line 2" in lines[0]["error"]
    assert "add_image" in lines[0]["error"]
    assert cloud.api.policy is in_force
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


def test_directories_come_after_the_file_and_in_order(tmp_path) -> None:
    file, folder = tmp_path / "policy.yaml", tmp_path / "policy.d"
    folder.mkdir()
    file.write_text("get_images: '!'\nadd_image: '!'\n")
    (folder / "10.yaml").write_text("get_images: role:one\n")
    (folder / "20.yaml").write_text("get_images: role:two\n")
    policy = load_policy(PolicySettings(file=str(file), directories=[str(folder)]))
    assert (policy.texts["get_images"], policy.texts["add_image"]) == ("role:two", "!")


def test_a_file_that_cannot_be_read_names_the_setting(tmp_path) -> None:
    with pytest.raises(SettingsError, match=r"policy.file: .*missing.yaml"):
        load_policy(PolicySettings(file=str(tmp_path / "missing.yaml")))
