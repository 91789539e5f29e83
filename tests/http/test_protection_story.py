"""Protected properties: who may write them, and that nobody else finds them anywhere."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import DEFAULT_POLICY
from calotype.http.identity.identity import Identity
from calotype.http.log import event_stream
from calotype.ops.settings import file_watching as files
from calotype.ops.settings.policy_files import load_policy, watch_policy
from calotype.ops.settings.settings import Policy as PolicySettings
from calotype.ops.settings.settings import PropertyProtections, SettingsError
from calotype.ops.wiring.composition import audience_follower, versions_follower

ROLES = """
# Billing writes its codes, and only billing sees them.
[^x_billing_]
create = billing
read = billing
update = billing
delete = billing

[^x_licence$]
create = admin, member
read = @
update = admin
delete = !

[.*]
create = @
read = @
update = @
delete = @
"""
CODE, VALUE = "x_billing_code", "K-4711"


def _settings(tmp_path: Path, text: str = ROLES, form: str = "roles") -> dict[str, Any]:
    file = tmp_path / "protections.conf"
    file.write_text(text)
    return {
        "identity": {"kind": "headers"},
        "property_protections": {"file": str(file), "format": form},
    }


@pytest.fixture
async def protected(open_cloud: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """A cloud with protections, whose past and feed are kept by running followers."""
    cloud = await open_cloud(**_settings(tmp_path))
    tasks = [
        asyncio.create_task(versions_follower(cloud.context).run()),
        asyncio.create_task(audience_follower(cloud.context, cloud.api.feed.watcher).run()),
    ]
    yield cloud
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def settled(cloud: Any) -> None:
    """Waits until the feeds of projects and the versions have everything."""
    head = cloud.context.log.recorder.max_notification_id() or 0
    while (await cloud.api.feed._ends())[1] < head:  # noqa: ASYNC110 - tables tell nobody
        await asyncio.sleep(0.01)
    while (await cloud.api.feed._ends("image_versions_2"))[1] < head:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def step(op: str, name: str, value: str | None = None) -> dict[str, Any]:
    return {"op": op, "path": f"/{name}"} | ({} if value is None else {"value": value})


async def test_only_who_may_creates_changes_and_removes_a_property(protected: Any) -> None:
    member = protected.caller("p1", "member")
    admin = protected.caller("p1", "admin")
    refused = await member("POST", "/v2/images", json={"name": "a", CODE: VALUE})
    assert refused.status == 403
    assert "reserved" in refused.text
    image = await member.create(x_licence="yes", free="1")
    assert (image["x_licence"], image["free"]) == ("yes", "1")
    for change, status in (
        (step("replace", "x_licence", "no"), 403),
        (step("add", "x_licence", "no"), 403),
        (step("remove", "x_licence"), 403),
        (step("add", CODE, VALUE), 403),
        (step("replace", "free", "2"), 200),
        (step("remove", "free"), 200),
    ):
        assert (await member.patch(image["id"], change)).status == status, change
    assert (await member.show(image["id"]))["x_licence"] == "yes"
    assert (await admin.patch(image["id"], step("replace", "x_licence", "no"))).status == 200
    assert (await admin.patch(image["id"], step("remove", "x_licence"))).status == 403
    assert (await member.show(image["id"]))["x_licence"] == "no"
    # One step that is refused takes all others with it.
    steps = (step("add", "free", "3"), step("replace", "x_licence", "yes"))
    assert (await member.patch(image["id"], *steps)).status == 403
    assert "free" not in await member.show(image["id"])


async def test_what_one_cannot_read_is_not_there_and_cannot_be_overwritten(protected: Any) -> None:
    biller, owner = protected.caller("p1", "member,billing"), protected.caller("p1")
    image = await biller.create(name="a", **{CODE: VALUE})
    assert image[CODE] == VALUE
    assert CODE not in await owner.show(image["id"])
    for change, status in (
        (step("replace", CODE, "x"), 409),
        (step("remove", CODE), 409),
        (step("add", CODE, "x"), 403),
        (step("remove", "x_billing_other"), 409),
        (step("add", "x_billing_other", "x"), 403),
    ):
        assert (await owner.patch(image["id"], change)).status == status, change
    assert (await owner.old_patch(image["id"], {"add": f"/{CODE}", "value": "x"})).status == 403
    assert (await biller.show(image["id"]))[CODE] == VALUE


async def test_changes_by_who_cannot_read_a_property_keep_it(protected: Any) -> None:
    biller, owner = protected.caller("p1", "member,billing"), protected.caller("p1")
    image = await biller.create_active(name="a", **{CODE: VALUE})
    image_id = image["id"]
    patched = await owner.patch(image_id, step("replace", "name", "b"), step("add", "free", "1"))
    assert patched.status == 200
    assert CODE not in patched.json
    assert (await owner("PUT", f"/v2/images/{image_id}/tags/t")).status == 204
    for action in ("deactivate", "reactivate"):
        assert (await owner("POST", f"/v2/images/{image_id}/actions/{action}")).status == 204
    await owner.share(image_id, "p2")
    kept = await biller.show(image_id)
    assert (kept["name"], kept["free"], kept[CODE]) == ("b", "1", VALUE)


async def test_a_filter_by_an_unreadable_property_tells_nothing(protected: Any) -> None:
    biller, owner = protected.caller("p1", "member,billing"), protected.caller("p1")
    for name, value in (("a", VALUE), ("b", "other")):
        await biller.create(name=name, free="1", **{CODE: value})
    assert await biller.found(**{CODE: VALUE}) == {"a"}
    assert await owner.found(**{CODE: VALUE}) == set()
    assert await owner.found(free="1", **{CODE: VALUE}) == set()
    assert await owner.found(free="1") == {"a", "b"}
    for path in ("/v2/images?", "/log/v1/images?as_of={now}&"):
        await settled(protected)
        newest = (await owner("GET", "/log/v1/events?limit=1000")).headers["Calotype-Position"]
        path = path.format(now=newest)
        guesses = [await owner("GET", f"{path}{CODE}={value}") for value in (VALUE, "wrong")]
        assert [guess.json["images"] for guess in guesses] == [[], []]
        found = await biller("GET", f"{path}{CODE}={VALUE}")
        assert [image["name"] for image in found.json["images"]] == ["a"]


async def test_an_unreadable_property_is_in_no_answer_about_present_or_past(
    protected: Any,
) -> None:
    biller, owner = protected.caller("p1", "member,billing"), protected.caller("p1")
    image = await biller.create(name="a", free="1", visibility="shared", **{CODE: VALUE})
    image_id = image["id"]
    await biller.patch(image_id, step("replace", CODE, VALUE + "-2"))
    await biller.patch(image_id, step("remove", CODE), step("add", "x_billing_2", VALUE))
    await biller.patch(image_id, step("add", "free2", "2"))
    await owner.share(image_id, "p2")
    await settled(protected)
    changes = (await biller("GET", f"/log/v1/images/{image_id}/history")).json["changes"]
    first, last = changes[0]["position"], changes[-1]["position"]
    events = "/log/v1/events"
    paths = [
        "/v2/images", f"/v2/images/{image_id}", f"/v2/images/{image_id}/members",
        f"/log/v1/images/{image_id}/history", f"/log/v1/images/{image_id}?as_of={first}",
        f"/log/v1/images?as_of={first}", f"/log/v1/images?as_of={last}",
        f"/log/v1/images/{image_id}/diff?from={first}&to={last}",
        f"/log/v1/images/{image_id}/diff?from={first}&to={changes[1]['position']}",
        events, f"{events}?image={image_id}", f"{events}?types=image.created,image.updated",
        f"{events}?snapshot=true", f"{events}?snapshot={first}",
    ]  # fmt: skip
    auditor = protected.caller("p9", "auditor,reader")
    member = protected.caller("p2")
    told = 0
    for path in paths:
        for reader in (owner, auditor, member):
            answer = await reader("GET", path)
            assert b"x_billing" not in answer.body, path
            assert VALUE.encode() not in answer.body, path
            told += answer.status == 200 and b"free" in answer.body
        seen = await biller("GET", path)
        assert seen.status == 200
        assert path.endswith("members") or VALUE.encode() in seen.body, path
    assert told > 20  # The others were shown the rest of the image all the while.
    # That something changed is told, and when, but not what.
    answer = await owner("GET", f"/log/v1/images/{image_id}/history")
    patches = [change["patch"] for change in answer.json["changes"]]
    assert {step["path"] for patch in patches[1:3] for step in patch} <= {"/updated_at"}


async def test_members_of_a_consumer_are_each_handed_what_they_may_read(protected: Any) -> None:
    biller, owner = protected.caller("p1", "member,billing"), protected.caller("p1")
    await biller.create(name="a", free="1", **{CODE: VALUE})
    await settled(protected)
    path = "/log/v1/consumers/c"
    assert (await owner("PUT", path, json={"max_attempts": 1})).status == 201
    handed = await owner("POST", f"{path}/fetch", json={})
    (delivery,) = handed.json["deliveries"]
    assert delivery["event"]["data"]["properties"] == {"free": "1"}
    failed = [{"token": delivery["token"], "error": "no"}]
    assert (await owner("POST", f"{path}/ack", json={"failed": failed})).status == 200
    for member, properties in ((owner, {"free": "1"}), (biller, {"free": "1", CODE: VALUE})):
        (parked,) = (await member("GET", f"{path}/parked")).json["parked"]
        assert parked["event"]["data"]["properties"] == properties


async def test_no_page_of_the_feed_is_kept_for_ever_where_protections_may_change(
    protected: Any,
) -> None:
    auditor = protected.caller("p1", "auditor,member")
    for _ in range(3):
        await auditor.create()
    page = await auditor("GET", "/log/v1/events?limit=2")
    assert len(page.json) == 2
    assert page.headers["Cache-Control"] == "private, no-cache"


async def test_a_restored_image_has_what_was_hidden_from_who_restores_it(
    open_cloud: Any, tmp_path: Path
) -> None:
    cloud = await open_cloud(deletion={"retention_seconds": 60}, **_settings(tmp_path))
    biller, owner = cloud.caller("p1", "member,billing"), cloud.caller("p1")
    image = await biller.create(name="a", **{CODE: VALUE})
    assert (await owner("DELETE", f"/v2/images/{image['id']}")).status == 204
    listed = await owner("GET", "/log/v1/restorable")
    restored = await owner("POST", f"/log/v1/images/{image['id']}/restore")
    assert (listed.status, restored.status) == (200, 200)
    assert CODE not in listed.text + restored.text
    assert (await biller.show(image["id"]))[CODE] == VALUE


async def test_rules_of_the_policy_protect_properties_and_services_count(
    open_cloud: Any, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("billing: role:billing and project_id:p1\n")
    text = "\n".join(
        f"[{pattern}]\n" + "".join(f"{key} = {rule}\n" for key in keys)
        for pattern, rule in (("^x_billing_", "billing"), (".*", "default"))
        for keys in [("create", "read", "update", "delete")]
    )
    settings = _settings(tmp_path, text, "policies") | {"policy": {"file": str(policy)}}
    cloud = await open_cloud(**settings)
    biller, owner = cloud.caller("p1", "member,billing"), cloud.caller("p1")
    elsewhere = cloud.caller("p2", "member,billing")
    image = await biller.create(name="a", visibility="community", free="1", **{CODE: VALUE})
    for stranger in (owner, elsewhere):
        shown = await stranger.show(image["id"])
        assert (shown["free"], CODE in shown) == ("1", False)
    assert (await biller.show(image["id"]))[CODE] == VALUE
    assert (await elsewhere("POST", "/v2/images", json={CODE: VALUE})).status == 403


async def test_a_refusal_is_logged_with_property_and_right(protected: Any) -> None:
    with structlog.testing.capture_logs() as lines:
        await protected.caller("p1")("POST", "/v2/images", json={CODE: VALUE})
    line = next(line for line in lines if line["event"] == "refused")
    assert line["rule"] == f"property '{CODE}' create"
    assert VALUE not in str(line)


async def test_files_are_read_again_together_or_not_at_all(
    open_cloud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.02)
    policy = tmp_path / "policy.yaml"
    policy.write_text("seers: role:member\n")
    section = "create = seers\nread = seers\nupdate = seers\ndelete = seers\n"
    settings = _settings(tmp_path, f"[.*]\n{section}", "policies")
    file = Path(settings["property_protections"]["file"])
    cloud = await open_cloud(policy={"file": str(policy)}, **settings)
    watching = asyncio.create_task(
        watch_policy(
            PolicySettings(file=str(policy)),
            cloud.api.use_policy,
            PropertyProtections(**settings["property_protections"]),
        )
    )
    member = cloud.caller("p1")

    async def until_it_answers(status: int) -> None:
        async with asyncio.timeout(20):
            while (await member("POST", "/v2/images", json={"x": "1"})).status != status:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def complaint() -> str:
        with structlog.testing.capture_logs() as lines:
            async with asyncio.timeout(20):
                while not any(line["log_level"] == "error" for line in lines):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        return next(line["error"] for line in lines if line["log_level"] == "error")

    def write(where: Path, text: str) -> None:
        where.write_text(text)

    await until_it_answers(201)
    write(file, f"[^y]\n{section}")
    await until_it_answers(403)
    write(file, f"[.*]\n{section}")
    await until_it_answers(201)
    in_force = cloud.api.policy
    write(file, "[.*]\ncreate = seers\n")
    assert "[.*] read: is missing" in await complaint()
    assert cloud.api.policy is in_force
    write(file, f"[.*]\n{section}")
    write(policy, "others: role:member\n")
    assert "there is no rule 'seers'" in await complaint()
    assert "seers" in cloud.api.policy.texts
    await until_it_answers(201)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


async def test_a_stream_that_is_open_follows_changed_protections_and_roles(
    protected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "JUDGED_AGAIN_SECONDS", 0.02)
    biller, owner = protected.caller("p1", "member,billing"), protected.caller("p1")
    response = await protected.client.get(
        "/log/v1/events", headers={**owner.headers, "Accept": "text/event-stream"}
    )

    async def until(text: bytes) -> bytes:
        read = b""
        async with asyncio.timeout(20):
            while text not in read:
                read += await response.content.readany()
        return read

    await biller.create(name="closed", **{CODE: VALUE})
    assert VALUE.encode() not in await until(b'"closed"')
    in_force = protected.api.policy
    protected.api.use_policy(load_policy(PolicySettings()))
    await biller.create(name="opened", **{CODE: VALUE})
    assert VALUE.encode() in await until(b'"opened"')
    protected.api.use_policy(in_force)
    await biller.create(name="again", **{CODE: VALUE})
    assert VALUE.encode() not in await until(b'"again"')
    judged = asyncio.Event()

    class AsBiller(Identity):
        def identify(self, request: Any) -> Actor:
            judged.set()
            return Actor(
                "someone", "p1", frozenset({"member", "reader", "billing"}), policy=DEFAULT_POLICY
            )

    protected.api.identity = AsBiller()
    await asyncio.wait_for(judged.wait(), 20)
    await biller.create(name="promoted", **{CODE: VALUE})
    assert VALUE.encode() in await until(b'"promoted"')
    response.close()


async def test_a_file_that_cannot_be_used_keeps_the_service_from_starting(
    open_cloud: Any, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"property_protections.file: .*\[a\] create: is miss"):
        await open_cloud(**_settings(tmp_path, "[a]\n"))


@pytest.mark.slow
async def test_roles_of_tokens_and_of_the_service_that_asks_open_properties(
    open_cloud: Any, tmp_path: Path, keystone: Any
) -> None:
    text = ROLES.replace("create = billing\nread = billing", "create = member\nread = service")
    settings = _settings(tmp_path, text)
    settings["identity"] = {"kind": "keystone"}
    cloud = await open_cloud(keystone=keystone.settings, **settings)
    nova = {"X_Service_Token": keystone.token("nova", "service")}
    member, reader = ({"X_Auth_Token": keystone.token(user)} for user in ("member", "reader"))
    made = await cloud.admin("POST", "/v2/images", json={"name": "a", CODE: VALUE}, **member)
    assert (made.status, CODE in made.json) == (201, False)
    path, filtered = f"/v2/images/{made.json['id']}", f"/v2/images?{CODE}={VALUE}"
    for user in (member, reader):
        assert CODE not in (await cloud.admin("GET", path, **user)).json
        assert (await cloud.admin("GET", path, **user, **nova)).json[CODE] == VALUE
        assert (await cloud.admin("GET", filtered, **user)).json["images"] == []
        assert len((await cloud.admin("GET", filtered, **user, **nova)).json["images"]) == 1
