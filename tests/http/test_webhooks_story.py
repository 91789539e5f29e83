"""Webhooks as callers see them, with a deliverer at work and real endpoints."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from calotype.ops.settings import Settings
from calotype.ops.webhook_wiring import deliverer_of
from calotype.ops.wiring import audience_follower
from calotype.projections.webhooks import delivering, line

WEBHOOKS = "/log/v1/webhooks"
LOOPBACK = {
    "plain_http": True,
    "allow": ["127.0.0.0/8"],
    "first_retry_seconds": 0.1,
    "longest_retry_seconds": 0.4,
    "timeout_seconds": 5.0,
    "attempts": 3,
}


@asynccontextmanager
async def at_work(cloud: Any, **webhooks: Any) -> AsyncIterator[Any]:
    """A cloud with everything running that webhooks need."""
    settings = Settings(webhooks={**LOOPBACK, **webhooks})
    api = cloud.api
    deliverer = deliverer_of(settings, cloud.parts, api.webhooks, lambda: api.policy)
    tasks = [
        asyncio.create_task(audience_follower(cloud.parts, api.feed.waking).run()),
        asyncio.create_task(deliverer.run()),
    ]
    yield cloud
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def open_hooks(
    open_cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Any]]:
    """Starts a cloud of one administrator with webhooks that lead to loopback."""
    monkeypatch.setattr(delivering, "CHANGES_SECONDS", 0.1)  # Only so that tests are quick.
    async with AsyncExitStack() as stack:

        async def start(
            identity: str = "none", more: dict[str, Any] | None = None, **webhooks: Any
        ) -> Any:
            settings = {**LOOPBACK, **webhooks}
            cloud = await open_cloud(identity={"kind": identity}, webhooks=settings, **(more or {}))
            return await stack.enter_async_context(at_work(cloud, **webhooks))

        yield start


async def becomes(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Waits until the condition is true, or what it gives when awaited."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.02)


async def hook(caller: Any, url: str, name: str = "ci", **more: Any) -> str:
    """Makes a webhook; its secret."""
    answer = await caller("PUT", f"{WEBHOOKS}/{name}", json={"url": url, **more})
    assert answer.status == 201, answer.text
    return answer.json["secret"]


async def state_of(caller: Any, name: str = "ci") -> dict[str, Any]:
    answer = await caller("GET", f"{WEBHOOKS}/{name}")
    assert answer.status == 200, answer.text
    return answer.json


async def test_every_event_arrives_signed_once_and_in_order(open_hooks: Any, receiver: Any) -> None:
    cloud = await open_hooks()
    admin = cloud.admin
    await admin.create(name="before")
    secret = await hook(admin, receiver.url + "/in")
    image = await admin.create_active(name="a")
    for tag in ("t", "u"):
        assert (await admin("PUT", f"/v2/images/{image['id']}/tags/{tag}")).status == 204
    await becomes(lambda: len(receiver.got) >= 5)
    feed = (await admin("GET", "/log/v1/events")).json[1:]
    assert receiver.events("/in") == feed
    for received in receiver.got:
        assert received.headers["content-type"] == "application/cloudevents+json"
        assert Webhook(secret).verify(received.body, received.headers) == received.event
    ids = [received.headers["webhook-id"] for received in receiver.got]
    assert len(set(ids)) == len(ids)
    told = await becomes(lambda: told_all(admin, feed[-1]["id"]))
    assert (told["state"], told["lag"]) == ("delivering", {"events": 0, "more": False})
    assert (told["waiting"], told["parked"], told["stopped"]) == (0, 0, False)


async def told_all(caller: Any, position: str) -> Any:
    told = await state_of(caller)
    return told if told["position"] == position else None


async def test_the_secret_is_told_once(open_hooks: Any, receiver: Any) -> None:
    admin = (await open_hooks()).admin
    secret = await hook(admin, receiver.url)
    assert secret.startswith("whsec_")
    again = await admin("PUT", f"{WEBHOOKS}/ci", json={"url": receiver.url + "/other"})
    assert again.status == 200
    assert again.json["url"] == receiver.url + "/other"
    answers = [
        again,
        await admin("GET", f"{WEBHOOKS}/ci"),
        await admin("GET", WEBHOOKS),
        await admin("POST", f"{WEBHOOKS}/ci/test"),
        await admin("GET", f"{WEBHOOKS}/ci/parked"),
    ]
    for answer in answers:
        assert answer.status == 200
        assert secret.removeprefix("whsec_") not in answer.text
        assert "secret" not in answer.text


async def test_a_new_secret_signs_beside_the_former_for_a_while(
    open_hooks: Any, receiver: Any
) -> None:
    admin = (await open_hooks()).admin
    first = await hook(admin, receiver.url)
    answer = await admin("POST", f"{WEBHOOKS}/ci/rotate", json={"overlap_seconds": 3600})
    second = answer.json["secret"]
    assert (await admin("POST", f"{WEBHOOKS}/ci/test")).json["delivered"]
    both = receiver.got[-1]
    for secret in (first, second):
        Webhook(secret).verify(both.body, both.headers)
    third = (await admin("POST", f"{WEBHOOKS}/ci/rotate", json={"overlap_seconds": 0})).json[
        "secret"
    ]
    await admin.create(name="a")
    await becomes(lambda: len(receiver.got) == 2)
    alone = receiver.got[-1]
    Webhook(third).verify(alone.body, alone.headers)
    for secret in (first, second):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(alone.body, alone.headers)


async def test_a_test_message_tells_what_came_of_it(open_hooks: Any, receiver: Any) -> None:
    admin = (await open_hooks()).admin
    secret = await hook(admin, receiver.url, enabled=False)
    told = (await admin("POST", f"{WEBHOOKS}/ci/test")).json
    assert (told["delivered"], told["status"], told["error"]) == (True, 204, None)
    [received] = receiver.got
    event = Webhook(secret).verify(received.body, received.headers)
    assert (event["type"], event["id"]) == ("calotype.test", told["message_id"])
    receiver.answer = lambda received: 500
    told = (await admin("POST", f"{WEBHOOKS}/ci/test")).json
    assert (told["delivered"], told["status"], told["error"]) == (False, 500, "answered 500")
    assert (await state_of(admin))["failures"] == 0


async def test_types_narrow_what_is_sent(open_hooks: Any, receiver: Any) -> None:
    admin = (await open_hooks()).admin
    await hook(admin, receiver.url, types=["image.tag_added"])
    image = await admin.create(name="a")
    await admin("PUT", f"/v2/images/{image['id']}/tags/t")
    await becomes(lambda: receiver.got)
    assert [event["type"] for event in receiver.events()] == ["image.tag_added"]


async def test_a_webhook_begins_where_it_is_told(open_hooks: Any, receiver: Any) -> None:
    admin = (await open_hooks()).admin
    for name in ("a", "b", "c"):
        await admin.create(name=name)
    events = (await admin("GET", "/log/v1/events")).json
    await hook(admin, receiver.url + "/all", "all", start="beginning")
    await hook(admin, receiver.url + "/some", "some", start=events[0]["id"])
    await hook(admin, receiver.url + "/none", "none")
    await becomes(lambda: len(receiver.got) == 5)
    assert sorted(e["id"] for e in receiver.events("/all")) == [e["id"] for e in events]
    assert sorted(e["id"] for e in receiver.events("/some")) == [e["id"] for e in events[1:]]


async def test_a_failed_message_is_tried_again_with_the_same_id_and_holds_up_its_image_only(
    open_hooks: Any, receiver: Any
) -> None:
    admin = (await open_hooks(attempts=8)).admin
    secret = await hook(admin, receiver.url)
    bad = (await admin.create(name="bad"))["id"]
    await becomes(lambda: receiver.got)
    refused = 0

    def answer(received: Any) -> int:
        nonlocal refused
        if received.event["subject"] == bad and refused < 3:
            refused += 1
            return 500
        return 204

    receiver.answer = answer
    for tag in ("t", "u"):
        await admin("PUT", f"/v2/images/{bad}/tags/{tag}")
    others = [(await admin.create(name=f"n{n}"))["id"] for n in range(5)]
    await becomes(lambda: len(receiver.got) == 1 + 3 + 2 + 5)
    of_bad = [r for r in receiver.got[1:] if r.event["subject"] == bad]
    assert [r.event["data"]["tag"] for r in of_bad] == ["t", "t", "t", "t", "u"]
    assert len({r.headers["webhook-id"] for r in of_bad[:4]}) == 1
    assert {r.event["subject"] for r in receiver.got} == {bad, *others}
    for received in of_bad:
        Webhook(secret).verify(received.body, received.headers)


async def test_what_fails_too_often_is_parked_and_sent_again_on_demand(
    open_hooks: Any, receiver: Any
) -> None:
    admin = (await open_hooks()).admin
    await hook(admin, receiver.url)
    receiver.answer = lambda received: 400 if received.event["type"] == "image.tag_added" else 204
    image = (await admin.create(name="a"))["id"]
    await admin("PUT", f"/v2/images/{image}/tags/t")
    await admin("DELETE", f"/v2/images/{image}/tags/t")
    messages = await becomes(lambda: parked_of(admin))
    await becomes(lambda: receiver.got[-1].event["type"] == "image.tag_removed")
    assert [e["type"].removeprefix("image.") for e in receiver.events()] == [
        "created",
        *["tag_added"] * 3,
        "tag_removed",
    ]
    [message] = messages
    assert (message["attempts"], message["error"]) == (3, "answered 400")
    assert message["event"] == receiver.events()[1]
    receiver.answer = lambda received: 204
    path = f"{WEBHOOKS}/ci/parked/{message['position']}/redeliver"
    answer = await admin("POST", path)
    assert (answer.status, answer.json) == (202, {"redelivered": 1})
    await becomes(lambda: len(receiver.got) == 6)
    assert receiver.got[5].headers["webhook-id"] == receiver.got[1].headers["webhook-id"]
    assert await parked_of(admin) == []
    assert (await admin("POST", path)).status == 404
    assert (await admin("POST", f"{WEBHOOKS}/ci/parked/all/redeliver")).json == {"redelivered": 0}


async def parked_of(caller: Any) -> list[dict[str, Any]]:
    answer = await caller("GET", f"{WEBHOOKS}/ci/parked")
    assert answer.status == 200, answer.text
    return answer.json["parked"]


async def test_an_endpoint_that_is_gone_is_disabled_until_its_owner_says_otherwise(
    open_hooks: Any, receiver: Any
) -> None:
    admin = (await open_hooks()).admin
    await hook(admin, receiver.url)
    receiver.answer = lambda received: 410
    first = (await admin.create(name="a"))["id"]

    async def disabled() -> bool:
        return (await state_of(admin))["state"] == "disabled"

    await becomes(disabled)
    told = await state_of(admin)
    assert (told["enabled"], told["disabled_because"]) == (False, "the endpoint answered 410 Gone")
    assert told["last_error"] == "answered 410"
    second = (await admin.create(name="b"))["id"]
    receiver.answer = lambda received: 204
    assert (await admin("PUT", f"{WEBHOOKS}/ci", json={"url": receiver.url})).status == 200
    await becomes(lambda: {e["subject"] for e in receiver.events()} == {first, second})
    assert (await state_of(admin))["state"] == "delivering"


async def test_an_endpoint_that_only_fails_is_disabled_in_the_end(
    open_hooks: Any, receiver: Any
) -> None:
    admin = (await open_hooks(attempts=1000, disable_after_seconds=1.0)).admin
    receiver.answer = lambda received: 503
    await hook(admin, receiver.url)
    await admin.create(name="a")

    async def state(name: str) -> Any:
        told = await state_of(admin)
        return told if told["state"] == name else None

    failing = await becomes(lambda: state("failing"))
    assert failing["last_error"] == "answered 503"
    assert failing["failing_since"] is not None
    disabled = await becomes(lambda: state("disabled"))
    assert disabled["disabled_because"] == "nothing was delivered for too long"
    assert disabled["failures"] > 2


async def test_an_endpoint_is_left_alone_as_long_as_it_asks(open_hooks: Any, receiver: Any) -> None:
    admin = (await open_hooks()).admin
    await hook(admin, receiver.url)
    receiver.answer = lambda received: (429, {"Retry-After": "1"}) if len(receiver.got) < 2 else 204
    await admin.create(name="a")
    await becomes(lambda: receiver.got)
    told = await becomes(lambda: failing_of(admin))
    assert told["next_try_at"] is not None
    await admin.create(name="b")
    await becomes(lambda: len(receiver.got) == 3)
    assert receiver.got[1].at - receiver.got[0].at > 0.9


async def failing_of(caller: Any) -> Any:
    told = await state_of(caller)
    return told if told["state"] == "failing" else None


async def test_a_slow_endpoint_delays_no_other_and_images_go_side_by_side(
    open_hooks: Any, receiver: Any
) -> None:
    release = threading.Event()

    def answer(received: Any) -> int:
        if received.path == "/slow":
            release.wait(20)
        return 204

    receiver.answer = answer
    # Not one place is shared here, so every endpoint has only its own.
    admin = (await open_hooks(deliveries=0, deliveries_per_webhook=4)).admin
    for number in range(4):
        await hook(admin, receiver.url + "/slow", f"slow{number}")
    await hook(admin, receiver.url + "/fast", "fast")
    try:
        for number in range(6):
            await admin.create(name=f"n{number}")
        await becomes(lambda: len(receiver.events("/fast")) == 6)
        assert len(receiver.events("/slow")) == 4
    finally:
        release.set()
    await becomes(lambda: len(receiver.events("/slow")) == 24)


async def test_images_of_one_endpoint_go_side_by_side_within_bounds(
    open_hooks: Any, receiver: Any
) -> None:
    inside, most = 0, 0
    lock, full = threading.Lock(), threading.Event()

    def answer(received: Any) -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            if inside == 3:
                full.set()
        full.wait(20)
        with lock:
            inside -= 1
        return 204

    receiver.answer = answer
    admin = (await open_hooks(deliveries_per_webhook=3)).admin
    await hook(admin, receiver.url)
    for number in range(12):
        await admin.create(name=f"n{number}")
    await becomes(lambda: len(receiver.got) == 12 and not inside)
    assert most == 3


async def test_a_delivery_that_takes_long_is_made_once(
    open_hooks: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "CLAIM_SECONDS", 1.0)
    monkeypatch.setattr(line, "PROLONG_SECONDS", 0.4)

    def answer(received: Any) -> int:
        time.sleep(2.0)  # Longer than a claim: this is what is tested.
        return 204

    receiver.answer = answer
    admin = (await open_hooks(timeout_seconds=30.0)).admin
    await hook(admin, receiver.url)
    image = (await admin.create(name="a"))["id"]
    await becomes(lambda: receiver.got)
    receiver.answer = lambda received: 204
    await admin("PUT", f"/v2/images/{image}/tags/t")
    await becomes(lambda: len(receiver.got) > 1)
    assert [e["type"] for e in receiver.events()] == ["image.created", "image.tag_added"]
    assert receiver.got[1].at - receiver.got[0].at > 1.9


async def test_a_deleted_webhook_gets_nothing_more_and_a_new_one_starts_afresh(
    open_hooks: Any, receiver: Any
) -> None:
    admin = (await open_hooks()).admin
    await hook(admin, receiver.url + "/old")
    await admin.create(name="a")
    await becomes(lambda: receiver.events("/old"))
    assert (await admin("DELETE", f"{WEBHOOKS}/ci")).status == 204
    assert (await admin("GET", f"{WEBHOOKS}/ci")).status == 404
    assert (await admin("DELETE", f"{WEBHOOKS}/ci")).status == 404
    await admin.create(name="b")
    secret = await hook(admin, receiver.url + "/new")
    await admin.create(name="c")
    await becomes(lambda: receiver.events("/new"))
    # Nothing of what came after the change goes where it led before, or is signed as before.
    changed = await admin("PUT", f"{WEBHOOKS}/ci", json={"url": receiver.url + "/newer"})
    assert changed.status == 200
    await admin.create(name="d")
    await becomes(lambda: receiver.events("/newer"))
    names = {
        path: [e["data"]["fields"]["name"] for e in receiver.events(path)]
        for path in ("/old", "/new", "/newer")
    }
    assert names == {"/old": ["a"], "/new": ["c"], "/newer": ["d"]}
    for received in receiver.got[1:]:
        Webhook(secret).verify(received.body, received.headers)


# ---- whose webhooks they are ----


async def test_projects_have_their_own_and_get_what_their_feed_shows(
    open_hooks: Any, receiver: Any
) -> None:
    cloud = await open_hooks("headers")
    red, blue = cloud.caller("red"), cloud.caller("blue")
    admin = cloud.caller("ops", "admin")
    for caller, path in ((red, "/red"), (blue, "/blue"), (admin, "/ops")):
        await hook(caller, receiver.url + path)
    image = (await red.create(name="r", visibility="shared"))["id"]
    await red.share(image, "blue")
    await blue.create(name="b")
    await becomes(lambda: len(receiver.got) == 3 + 2 + 2)
    for caller, path in ((red, "/red"), (blue, "/blue"), (admin, "/ops")):
        feed = (await caller("GET", "/log/v1/events")).json
        assert sorted(receiver.events(path), key=lambda e: e["id"]) == feed
    assert {e["view"] for e in receiver.events("/red")} == {"own"}
    assert {e["view"] for e in receiver.events("/ops")} == {"full"}


async def test_protected_properties_are_told_to_those_only_who_may_read_them(
    open_hooks: Any, receiver: Any, tmp_path: Path
) -> None:
    file = tmp_path / "protections.conf"
    file.write_text(
        "[^x_secret$]\ncreate = @\nread = admin\nupdate = @\ndelete = @\n"
        "[.*]\ncreate = @\nread = @\nupdate = @\ndelete = @\n"
    )
    cloud = await open_hooks("headers", {"property_protections": {"file": str(file)}})
    red, admin = cloud.caller("red"), cloud.caller("ops", "admin")
    secret = await hook(red, receiver.url + "/red")
    await hook(admin, receiver.url + "/ops")
    await red.create(name="a", x_secret="MARKER", x_open="open")
    await becomes(lambda: len(receiver.got) == 2)
    assert receiver.events("/ops")[0]["data"]["properties"] == {
        "x_secret": "MARKER",
        "x_open": "open",
    }
    [told] = [received for received in receiver.got if received.path == "/red"]
    assert told.event["data"]["properties"] == {"x_open": "open"}
    Webhook(secret).verify(told.body, told.headers)
    receiver.answer = lambda received: 400
    await red.create(name="b", x_secret="MARKER", x_open="open")
    [message] = await becomes(lambda: parked_of(red))
    assert message["event"]["data"]["properties"] == {"x_open": "open"}


async def test_nobody_reaches_the_webhooks_of_others(open_hooks: Any, receiver: Any) -> None:
    cloud = await open_hooks("headers")
    red, blue = cloud.caller("red"), cloud.caller("blue")
    admin = cloud.caller("ops", "admin")
    await hook(red, receiver.url + "/red")
    await hook(admin, receiver.url + "/ops", "audit")
    for name in ("ci", "audit"):
        for method, path in (
            ("GET", ""), ("DELETE", ""), ("POST", "/test"), ("POST", "/rotate"),
            ("GET", "/parked"), ("POST", "/parked/all/redeliver"),
        ):  # fmt: skip
            answer = await blue(method, f"{WEBHOOKS}/{name}{path}")
            assert answer.status == 404, (method, path)
            assert answer.json["title"] == "Not Found"
    assert (await blue("GET", WEBHOOKS)).json == {"webhooks": []}
    assert (await blue("GET", f"{WEBHOOKS}/ci?project=red")).status == 403
    assert (await blue("PUT", f"{WEBHOOKS}/x?project=red", json={"url": "x"})).status == 403
    everybodys = (await admin("GET", WEBHOOKS)).json["webhooks"]
    assert [(one["project"], one["name"]) for one in everybodys] == [(None, "audit"), ("red", "ci")]
    of_red = (await admin("GET", f"{WEBHOOKS}?project=red")).json["webhooks"]
    assert [one["name"] for one in of_red] == ["ci"]
    assert (await admin("GET", f"{WEBHOOKS}/ci?project=red")).json["project"] == "red"
    assert (await admin("DELETE", f"{WEBHOOKS}/ci?project=red")).status == 204


async def test_readers_look_and_members_change(open_hooks: Any, receiver: Any) -> None:
    cloud = await open_hooks("headers")
    await hook(cloud.caller("red"), receiver.url)
    reader = cloud.caller("red", "reader")
    assert (await reader("GET", WEBHOOKS)).status == 200
    assert (await reader("GET", f"{WEBHOOKS}/ci")).status == 200
    for method, path in (("PUT", ""), ("DELETE", ""), ("POST", "/test"), ("POST", "/rotate")):
        answer = await reader(method, f"{WEBHOOKS}/ci{path}")
        assert answer.status == 403, (method, path)
    stranger = cloud.caller("red", "nothing")
    assert (await stranger("GET", WEBHOOKS)).status == 403
    homeless = cloud.caller(None, "member")
    assert (await homeless("PUT", f"{WEBHOOKS}/x", json={"url": receiver.url})).status == 403


async def test_a_project_has_so_many_and_no_more_also_at_once(
    open_hooks: Any, receiver: Any
) -> None:
    cloud = await open_hooks("headers", per_project=3)
    red = cloud.caller("red")
    answers = await asyncio.gather(
        *(red("PUT", f"{WEBHOOKS}/n{n}", json={"url": receiver.url}) for n in range(8))
    )
    assert sorted(a.status for a in answers) == [201] * 3 + [413] * 5
    kept = (await red("GET", WEBHOOKS)).json["webhooks"]
    assert len(kept) == 3
    assert (
        await red("PUT", f"{WEBHOOKS}/{kept[0]['name']}", json={"url": receiver.url})
    ).status == 200
    names = {one.name for one in await cloud.api.webhooks.consumers.all()}
    assert names == {f"webhook:{one['name']}" for one in kept}
    await hook(cloud.caller("blue"), receiver.url)


SENSELESS = [
    ({}, "url"),
    ({"url": 1}, "url"),
    ({"url": "http://10.0.0.1/"}, "url"),
    ({"url": "http://169.254.169.254/latest/meta-data"}, "url"),
    ({"url": "http://0x0a.1/"}, "url"),
    ({"url": "ftp://127.0.0.1/"}, "url"),
    ({"url": "http://u:p@127.0.0.1/"}, "url"),
    ({"url": "http://127.0.0.1/", "types": "image.created"}, "types"),
    ({"url": "http://127.0.0.1/", "types": ["image.nonsense"]}, "types"),
    ({"url": "http://127.0.0.1/", "types": [1]}, "types"),
    ({"url": "http://127.0.0.1/", "enabled": "yes"}, "enabled"),
    ({"url": "http://127.0.0.1/", "start": 0}, "start"),
    ({"url": "http://127.0.0.1/", "start": "tomorrow"}, "start"),
    ({"url": "http://127.0.0.1/", "start": "p000000000000-1"}, "start"),
    ({"url": "http://127.0.0.1/", "secret": "whsec_MARKER"}, "secret"),
]
NO_NAMES = ["A", "-a", "a%20b", "a%2Fb", "x" * 64, "%00", "%C3%A9", "a:b", "a%0A"]


async def test_what_makes_no_sense_is_refused_by_field_and_leaves_nothing(
    open_hooks: Any,
) -> None:
    cloud = await open_hooks()
    admin = cloud.admin
    asked = [("ci", body, field) for body, field in SENSELESS]
    asked += [(name, {"url": "http://127.0.0.1/"}, "name") for name in NO_NAMES]
    for name, body, field in asked:
        answer = await admin("PUT", f"{WEBHOOKS}/{name}", json=body)
        assert answer.status == 400, (name, body)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json["field"] == field, (name, body)
        assert "MARKER" not in answer.text
    for name in NO_NAMES:
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/test"), ("POST", "/rotate")):
            assert (await admin(method, f"{WEBHOOKS}/{name}{path}")).status == 404
    assert (await admin("GET", WEBHOOKS)).json == {"webhooks": []}
    assert await cloud.api.webhooks.consumers.all() == []


async def test_a_request_that_says_more_than_is_known_is_refused(
    open_hooks: Any, receiver: Any
) -> None:
    admin = (await open_hooks()).admin
    await hook(admin, receiver.url)
    for method, path, body in (
        ("GET", "?limit=3", None),
        ("GET", "/ci?all=1", None),
        ("POST", "/ci/rotate", {"overlap": 1}),
        ("POST", "/ci/rotate", {"overlap_seconds": "1"}),
        ("POST", "/ci/rotate", {"overlap_seconds": True}),
        ("POST", "/ci/rotate", {"overlap_seconds": -1}),
        ("POST", "/ci/rotate", {"overlap_seconds": 1e300}),
        ("GET", "/ci/parked?limit=0", None),
        ("GET", "/ci/parked?after=x", None),
        ("GET", "/ci?project=a&project=b", None),
        ("GET", "/ci?project=%00", None),
        ("POST", "/ci/parked/x/redeliver", None),
    ):
        answer = await admin(method, WEBHOOKS + path, json=body)
        assert answer.status == 400, (method, path, answer.text)
        assert answer.json["field"]
