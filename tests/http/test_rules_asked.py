"""Each rule of the defaults is asked somewhere: closing it closes what it guards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from calotype.commands.policy.default_rules import DEFAULT_RULES
from calotype.commands.policy.policy import Policy
from calotype.ops.wiring.composition import versions_follower
from calotype.projections.seal import signed_note
from calotype.projections.seal.seal import sealer

NOT_THERE_YET = {
    "several stores": {"download_from_store", "get_image_location", "stores_info_detail"},
    "the locations API": {"service_api", "add_image_location", "fetch_image_location"},
    "import": {"copy_image"},
    "cache": {
        "manage_image_cache", "cache_image", "cache_list", "cache_delete", "cache_clean",
        "cache_prune", "list_cached_nodes",
    },
    "tasks": {"get_task", "get_tasks", "add_task", "modify_task", "tasks_api_access"},
    "metadata definitions": {rule.name for rule in DEFAULT_RULES if "metadef" in rule.name}
    | {"list_metadef_resource_types"},
}  # fmt: skip
"""Rules that only stand in the defaults for operators' files to name, by what they wait for."""

ADMIN, OWNER, MEMBER, AUDITOR = (
    ("ops", "admin"),
    ("p1", "member"),
    ("p2", "member"),
    ("a", "auditor"),
)
PATCH = "application/openstack-images-v2.1-json-patch"


@dataclass(frozen=True)
class Call:
    """A call that the rule decides about, by somebody who may make it by default."""

    caller: tuple[str, str]
    method: str
    path: str
    json: Any = None
    answers: tuple[int, int] = (200, 403)
    """With the default rule, and with one that holds for nobody."""


def _patch(path: str, value: Any, op: str = "replace") -> list[dict[str, Any]]:
    return [{"op": op, "path": path, "value": value}]


SEEK = {"position": "beginning"}
HOOK = {"url": "https://example.org/hook"}
CALLS = {
    "context_is_admin": Call(ADMIN, "GET", "/v2/images/{private}", answers=(200, 404)),
    "add_image": Call(OWNER, "POST", "/v2/images", {}, (201, 403)),
    "delete_image": Call(OWNER, "DELETE", "/v2/images/{queued}", answers=(204, 403)),
    "get_image": Call(OWNER, "GET", "/v2/images/{private}", answers=(200, 404)),
    "get_images": Call(OWNER, "GET", "/v2/images"),
    "modify_image": Call(OWNER, "PATCH", "/v2/images/{private}", _patch("/name", "x")),
    "publicize_image": Call(ADMIN, "PATCH", "/v2/images/{queued}", _patch("/visibility", "public")),
    "communitize_image": Call(
        OWNER, "PATCH", "/v2/images/{queued}", _patch("/visibility", "community")
    ),
    "download_image": Call(OWNER, "GET", "/v2/images/{private}/file"),
    "upload_image": Call(OWNER, "PUT", "/v2/images/{queued}/file", answers=(204, 403)),
    # Refused by default too, for what is wrong with the wish itself: see the test of its own.
    "set_image_location": Call(
        OWNER, "PATCH", "/v2/images/{queued}", _patch("/locations", []), (403, 403)
    ),
    "delete_image_location": Call(
        ADMIN,
        "PATCH",
        "/v2/images/{queued}",
        [{"op": "remove", "path": "/locations/0"}],
        (409, 403),
    ),
    "add_member": Call(OWNER, "POST", "/v2/images/{shared}/members", {"member": "p3"}),
    "delete_member": Call(OWNER, "DELETE", "/v2/images/{shared}/members/p2", answers=(204, 403)),
    "get_member": Call(MEMBER, "GET", "/v2/images/{shared}/members/p2", answers=(200, 404)),
    "get_members": Call(MEMBER, "GET", "/v2/images/{shared}/members"),
    "modify_member": Call(MEMBER, "PUT", "/v2/images/{shared}/members/p2", {"status": "rejected"}),
    "deactivate": Call(OWNER, "POST", "/v2/images/{active}/actions/deactivate", answers=(204, 403)),
    "reactivate": Call(OWNER, "POST", "/v2/images/{active}/actions/reactivate", answers=(204, 403)),
    "auditor": Call(AUDITOR, "GET", "/log/v1/checkpoint"),
    "get_image_history": Call(OWNER, "GET", "/log/v1/images/{private}/history"),
    "get_past_images": Call(OWNER, "GET", "/log/v1/images?as_of={now}"),
    "get_all_past_images": Call(
        AUDITOR, "GET", "/log/v1/images/{private}?as_of={now}", answers=(200, 404)
    ),
    "get_events": Call(OWNER, "GET", "/log/v1/events"),
    "get_all_events": Call(AUDITOR, "GET", "/log/v1/events"),
    "get_consumer": Call(OWNER, "GET", "/log/v1/consumers"),
    "use_consumer": Call(OWNER, "POST", "/log/v1/consumers/mine/fetch", {}),
    "modify_consumer": Call(OWNER, "POST", "/log/v1/consumers/mine/seek", SEEK),
    "get_webhooks": Call(OWNER, "GET", "/log/v1/webhooks"),
    "modify_webhooks": Call(OWNER, "PUT", "/log/v1/webhooks/mine", HOOK, (201, 403)),
    "manage_all_webhooks": Call(ADMIN, "GET", "/log/v1/webhooks?project=p1"),
    "restore_image": Call(OWNER, "POST", "/log/v1/images/{deleted}/restore"),
    "purge_image": Call(
        ADMIN, "POST", "/log/v1/images/{deleted}/purge", {"reason": "asked for"}, (204, 403)
    ),
    "get_seal": Call(AUDITOR, "GET", "/log/v1/checkpoint"),
}


def test_every_rule_of_the_defaults_guards_a_call_or_waits_for_its_feature() -> None:
    waiting = set().union(*NOT_THERE_YET.values())
    assert CALLS.keys() | waiting | {"default"} == {rule.name for rule in DEFAULT_RULES}
    assert not CALLS.keys() & waiting


@pytest.fixture
def log_url(tmp_path: Path) -> str:
    """Rules are asked in memory, so one kind of log is enough."""
    return f"sqlite:///{tmp_path / 'log.sqlite'}"


@pytest.fixture
async def cloud(open_cloud: Any) -> Any:
    cloud = await open_cloud(
        identity={"kind": "headers"},
        deletion={"retention_seconds": 3600},
        http={"show_multiple_locations": True},
    )
    follower = versions_follower(cloud.context)
    cloud.names = await _images(cloud)
    await follower.catch_up()
    recorder = cloud.context.log.recorder
    await sealer(recorder, signed_note.new_signer("cloud.example/images"), "test").catch_up()
    positions = await cloud.api.feed.positions()
    cloud.names["now"] = positions.encode(recorder.max_notification_id())
    return cloud


async def _images(cloud: Any) -> dict[str, str]:
    """An image of each kind that the calls need."""
    owner = cloud.caller(*OWNER)
    names = {
        "private": (await owner.create_active(visibility="private"))["id"],
        "active": (await owner.create_active())["id"],
        "queued": (await owner.create_bare())["id"],
        "shared": (await owner.create())["id"],
        "deleted": (await owner.create())["id"],
    }
    await owner.share(names["shared"], "p2")
    assert (await owner("DELETE", f"/v2/images/{names['deleted']}")).status == 204
    await owner("PUT", "/log/v1/consumers/mine", json={})
    return names


async def _status(cloud: Any, call: Call) -> int:
    caller = cloud.caller(*call.caller)
    headers = {"Content_Type": PATCH} if call.method == "PATCH" else {}
    data = None
    if call.path.endswith("/file") and call.method == "PUT":
        data, headers = b"0123456789", {"Content_Type": "application/octet-stream"}
    path = call.path.format(**cloud.names)
    return (await caller(call.method, path, json=call.json, data=data, **headers)).status


@pytest.mark.parametrize("rule", CALLS)
async def test_a_rule_that_holds_for_nobody_closes_the_call_that_it_guards(
    cloud: Any, rule: str
) -> None:
    call = CALLS[rule]
    cloud.api.use_policy(Policy({rule: "!"}))
    closed = await _status(cloud, call)
    cloud.api.use_policy(Policy())
    assert (await _status(cloud, call), closed) == call.answers


async def test_setting_places_of_image_data_is_refused_by_the_rule_for_it(cloud: Any) -> None:
    cloud.api.use_policy(Policy({"set_image_location": "!"}))
    with capture_logs() as lines:
        assert await _status(cloud, CALLS["set_image_location"]) == 403
    assert [line["rule"] for line in lines if "rule" in line] == ["set_image_location"]


async def test_the_rule_default_is_what_held_formerly(cloud: Any) -> None:
    listing = Call(("p1", ""), "GET", "/v2/images")
    for text, status in (("@", 200), ("!", 403)):
        cloud.api.use_policy(Policy({"default": text}, enforce_new_defaults=False))
        assert await _status(cloud, listing) == status


async def test_a_member_list_shows_whom_get_member_lets_the_caller_see(cloud: Any) -> None:
    path = f"/v2/images/{cloud.names['shared']}/members"
    owner = cloud.caller(*OWNER)
    assert len((await owner("GET", path)).json["members"]) == 1
    cloud.api.use_policy(Policy({"get_member": "!"}))
    answer = await owner("GET", path)
    assert (answer.status, answer.json["members"]) == (200, [])
    for method, expected in (("GET", 404), ("PUT", 403), ("DELETE", 403)):
        body = {"status": "accepted"} if method == "PUT" else None
        assert (await owner(method, f"{path}/p2", json=body)).status == expected, method


async def test_members_of_an_image_that_get_image_hides_are_404(cloud: Any) -> None:
    cloud.api.use_policy(Policy({"get_image": "!", "modify_member": "!"}))
    path = f"/v2/images/{cloud.names['shared']}/members"
    member = cloud.caller(*MEMBER)
    assert (await member("PUT", f"{path}/p2", json={"status": "accepted"})).status == 404
    assert (await member("POST", path, json={"member": "p3"})).status == 404
    assert (await member("GET", path)).status == 404


async def test_who_may_download_need_not_be_able_to_show(cloud: Any) -> None:
    cloud.api.use_policy(Policy({"get_image": "!"}))
    owner, image = cloud.caller(*OWNER), f"/v2/images/{cloud.names['private']}"
    assert (await owner("GET", image)).status == 404
    assert (await owner("GET", f"{image}/file")).body == b"0123456789"
    cloud.api.use_policy(Policy({"get_image": "!", "download_image": "!"}))
    assert (await owner("GET", f"{image}/file")).status == 404
