"""Webhooks at work: what endpoints get, when they fail, and whose events these are."""

import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from standardwebhooks import Webhook

from calotype.projections.consumers.account import Subscription
from calotype.projections.webhooks import endpoint_worker, health

WEBHOOKS = "/log/v1/webhooks"


async def test_every_event_arrives_signed_once_and_in_order(
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    cloud = await open_hooks()
    admin = cloud.admin
    await admin.create(name="before")
    secret = await admin.hook(receiver.url + "/in")
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
    told = await caller.hook_state()
    return told if told["position"] == position else None


async def test_types_narrow_what_is_sent(open_hooks: Any, becomes: Any, receiver: Any) -> None:
    admin = (await open_hooks()).admin
    await admin.hook(receiver.url, types=["image.tag_added"])
    image = await admin.create(name="a")
    await admin("PUT", f"/v2/images/{image['id']}/tags/t")
    await becomes(lambda: receiver.got)
    assert [event["type"] for event in receiver.events()] == ["org.calotype.image.tag_added"]


async def test_a_webhook_begins_where_it_is_told(
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    admin = (await open_hooks()).admin
    for name in ("a", "b", "c"):
        await admin.create(name=name)
    events = (await admin("GET", "/log/v1/events")).json
    await admin.hook(receiver.url + "/all", "all", start="beginning")
    await admin.hook(receiver.url + "/some", "some", start=events[0]["id"])
    await admin.hook(receiver.url + "/none", "none")
    await becomes(lambda: len(receiver.got) == 5)
    assert sorted(e["id"] for e in receiver.events("/all")) == [e["id"] for e in events]
    assert sorted(e["id"] for e in receiver.events("/some")) == [e["id"] for e in events[1:]]


async def test_a_failed_message_is_tried_again_with_the_same_id_and_holds_up_its_image_only(
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    admin = (await open_hooks(attempts=8)).admin
    secret = await admin.hook(receiver.url)
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
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    admin = (await open_hooks()).admin
    await admin.hook(receiver.url)
    receiver.answer = lambda received: 400 if received.event["type"].endswith("tag_added") else 204
    image = (await admin.create(name="a"))["id"]
    await admin("PUT", f"/v2/images/{image}/tags/t")
    await admin("DELETE", f"/v2/images/{image}/tags/t")
    messages = await becomes(lambda: admin.parked())
    await becomes(lambda: receiver.got[-1].event["type"].endswith("tag_removed"))
    assert [e["type"].removeprefix("org.calotype.image.") for e in receiver.events()] == [
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
    assert await admin.parked() == []
    assert (await admin("POST", path)).status == 404
    assert (await admin("POST", f"{WEBHOOKS}/ci/parked/all/redeliver")).json == {"redelivered": 0}


async def test_the_link_to_more_parked_messages_leads_there_whatever_the_project_is_called(
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    cloud = await open_hooks("headers", attempts=1)
    project = "a&b=c d%26ü"
    headers = {"X_Project_Id": project}
    owner, operator = cloud.caller(None), cloud.caller("ops", "admin")
    made = await owner("PUT", f"{WEBHOOKS}/ci", json={"url": receiver.url}, **headers)
    assert made.status == 201, made.text
    receiver.answer = lambda received: 400
    for _ in range(3):
        assert (await owner("POST", "/v2/images", json={}, **headers)).status == 201
    path = f"{WEBHOOKS}/ci/parked?limit=2&project={quote(project)}"

    async def all_parked() -> bool:
        told = (await operator("GET", path.replace("limit=2", "limit=9"))).json
        return len(told["parked"]) == 3

    await becomes(all_parked)
    first = (await operator("GET", path)).json
    second = await operator("GET", first["next"])
    assert second.status == 200, second.text
    assert len({one["position"] for one in first["parked"] + second.json["parked"]}) == 3
    assert "next" not in second.json


async def test_an_endpoint_that_is_gone_is_disabled_until_its_owner_says_otherwise(
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    admin = (await open_hooks()).admin
    await admin.hook(receiver.url)
    receiver.answer = lambda received: 410
    first = (await admin.create(name="a"))["id"]

    async def disabled() -> bool:
        return (await admin.hook_state())["state"] == "disabled"

    await becomes(disabled)
    told = await admin.hook_state()
    assert (told["enabled"], told["disabled_because"]) == (False, "the endpoint answered 410 Gone")
    assert told["last_error"] == "answered 410"
    second = (await admin.create(name="b"))["id"]
    receiver.answer = lambda received: 204
    assert (await admin("PUT", f"{WEBHOOKS}/ci", json={"url": receiver.url})).status == 200
    await becomes(lambda: {e["subject"] for e in receiver.events()} == {first, second})
    assert (await admin.hook_state())["state"] == "delivering"


async def test_an_endpoint_that_only_fails_is_disabled_in_the_end(
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    admin = (await open_hooks(attempts=1000, disable_after_seconds=1.0)).admin
    receiver.answer = lambda received: 503
    await admin.hook(receiver.url)
    await admin.create(name="a")

    async def state(name: str) -> Any:
        told = await admin.hook_state()
        return told if told["state"] == name else None

    failing = await becomes(lambda: state("failing"))
    assert failing["last_error"] == "answered 503"
    assert failing["failing_since"] is not None
    disabled = await becomes(lambda: state("disabled"))
    assert disabled["disabled_because"] == "nothing was delivered for too long"
    assert disabled["failures"] > 2


async def test_an_endpoint_is_left_alone_as_long_as_it_asks(
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    admin = (await open_hooks()).admin
    await admin.hook(receiver.url)
    receiver.answer = lambda received: (429, {"Retry-After": "1"}) if len(receiver.got) < 2 else 204
    await admin.create(name="a")
    await becomes(lambda: receiver.got)
    told = await becomes(lambda: failing_of(admin))
    assert told["next_try_at"] is not None
    await admin.create(name="b")
    await becomes(lambda: len(receiver.got) == 3)
    assert receiver.got[1].at - receiver.got[0].at > 0.9


async def failing_of(caller: Any) -> Any:
    told = await caller.hook_state()
    return told if told["state"] == "failing" else None


async def test_a_slow_endpoint_delays_no_other_and_images_go_side_by_side(
    open_hooks: Any, becomes: Any, receiver: Any
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
        await admin.hook(receiver.url + "/slow", f"slow{number}")
    await admin.hook(receiver.url + "/fast", "fast")
    try:
        for number in range(6):
            await admin.create(name=f"n{number}")
        await becomes(lambda: len(receiver.events("/fast")) == 6)
        assert len(receiver.events("/slow")) == 4
    finally:
        release.set()
    await becomes(lambda: len(receiver.events("/slow")) == 24)


async def test_images_of_one_endpoint_go_side_by_side_within_bounds(
    open_hooks: Any, becomes: Any, receiver: Any
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
    await admin.hook(receiver.url)
    for number in range(12):
        await admin.create(name=f"n{number}")
    await becomes(lambda: len(receiver.got) == 12 and not inside)
    assert most == 3


async def test_a_delivery_that_takes_long_is_made_once(
    open_hooks: Any, becomes: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_worker, "CLAIM_SECONDS", 1.0)
    monkeypatch.setattr(endpoint_worker, "PROLONG_SECONDS", 0.4)

    def answer(received: Any) -> int:
        time.sleep(2.0)  # Longer than a claim: this is what is tested.
        return 204

    receiver.answer = answer
    admin = (await open_hooks(timeout_seconds=30.0)).admin
    await admin.hook(receiver.url)
    image = (await admin.create(name="a"))["id"]
    await becomes(lambda: receiver.got)
    receiver.answer = lambda received: 204
    await admin("PUT", f"/v2/images/{image}/tags/t")
    await becomes(lambda: len(receiver.got) > 1)
    assert [e["type"].rpartition(".")[2] for e in receiver.events()] == ["created", "tag_added"]
    assert receiver.got[1].at - receiver.got[0].at > 1.9


async def test_a_deleted_webhook_gets_nothing_more_and_a_new_one_starts_afresh(
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    admin = (await open_hooks()).admin
    await admin.hook(receiver.url + "/old")
    await admin.create(name="a")
    await becomes(lambda: receiver.events("/old"))
    assert (await admin("DELETE", f"{WEBHOOKS}/ci")).status == 204
    assert (await admin("GET", f"{WEBHOOKS}/ci")).status == 404
    assert (await admin("DELETE", f"{WEBHOOKS}/ci")).status == 404
    await admin.create(name="b")
    secret = await admin.hook(receiver.url + "/new")
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


async def test_projects_have_their_own_and_get_what_their_feed_shows(
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    cloud = await open_hooks("headers")
    red, blue = cloud.caller("red"), cloud.caller("blue")
    admin = cloud.caller("ops", "admin")
    for caller, path in ((red, "/red"), (blue, "/blue"), (admin, "/ops")):
        await caller.hook(receiver.url + path)
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
    open_hooks: Any, becomes: Any, receiver: Any, tmp_path: Path
) -> None:
    file = tmp_path / "protections.conf"
    file.write_text(
        "[^x_secret$]\ncreate = @\nread = admin\nupdate = @\ndelete = @\n"
        "[.*]\ncreate = @\nread = @\nupdate = @\ndelete = @\n"
    )
    cloud = await open_hooks("headers", {"property_protections": {"file": str(file)}})
    red, admin = cloud.caller("red"), cloud.caller("ops", "admin")
    secret = await red.hook(receiver.url + "/red")
    await admin.hook(receiver.url + "/ops")
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
    [message] = await becomes(lambda: red.parked())
    assert message["event"]["data"]["properties"] == {"x_open": "open"}


async def test_after_an_outage_nothing_waits_for_its_own_next_attempt(
    open_hooks: Any, becomes: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LONGEST_PROBE_SECONDS", 0.3)
    # Each message alone would wait for many minutes.
    patience = {"first_retry_seconds": 600.0, "longest_retry_seconds": 6000.0}
    admin = (await open_hooks(**patience)).admin
    await admin.hook(receiver.url)
    receiver.answer = lambda received: 503
    images = []
    for number in range(3):
        images.append((await admin.create(name=f"n{number}"))["id"])
        await becomes(lambda: len(receiver.got) == len(images))
        await becomes(lambda: failed_so_often(admin, len(images)))
    receiver.answer = lambda received: 204
    images.append((await admin.create(name="later"))["id"])
    await becomes(lambda: len(receiver.got) == 7)
    assert receiver.events()[3]["subject"] == images[3]
    assert {event["subject"] for event in receiver.events()[4:]} == set(images[:3])
    # And a webhook that is put again does not wait either.
    receiver.answer = lambda received: 503
    await admin.create(name="last")
    await becomes(lambda: failed_so_often(admin, 1))
    receiver.answer = lambda received: 204
    assert (await admin("PUT", f"{WEBHOOKS}/ci", json={"url": receiver.url})).status == 200
    await becomes(lambda: len(receiver.got) == 9)


async def failed_so_often(caller: Any, count: int) -> bool:
    return (await caller.hook_state())["failures"] == count


async def test_what_happens_while_a_webhook_is_disabled_arrives_later(
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    admin = (await open_hooks()).admin
    await admin.hook(receiver.url, enabled=False)
    await admin.hook(receiver.url + "/other", "other")
    await admin.create(name="a")
    await becomes(lambda: receiver.events("/other"))
    told = await admin.hook_state()
    assert (told["state"], told["disabled_because"]) == ("disabled", "by its owner")
    assert told["lag"]["events"] == 1
    assert receiver.events() == []
    assert (await admin("PUT", f"{WEBHOOKS}/ci", json={"url": receiver.url})).status == 200
    await becomes(lambda: receiver.events() == receiver.events("/other"))


async def test_nothing_is_left_of_one_that_was_made_or_deleted_half_way(
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    cloud = await open_hooks()
    admin, webhooks = cloud.admin, cloud.api.webhooks
    await admin.create(name="before")
    # As a process leaves it that dies between the two steps of making one.
    await webhooks.consumers.put(None, "webhook:ci", Subscription(), start=0)
    await admin.hook(receiver.url + "/first")
    await admin.create(name="a")
    await becomes(lambda: receiver.events("/first"))
    # And between the two steps of deleting one.
    await webhooks.endpoints.delete("", "ci")
    await admin.create(name="between")
    await admin.hook(receiver.url + "/second")
    await admin.create(name="b")
    await becomes(lambda: receiver.events("/second"))
    names = [received.event["data"]["fields"]["name"] for received in receiver.got]
    assert names == ["a", "b"]


async def test_without_webhooks_nobody_leads_and_nothing_is_written(
    open_hooks: Any, becomes: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = await open_hooks()
    recorder, endpoints = cloud.context.log.recorder, cloud.api.webhooks.endpoints
    looks, look = 0, endpoints.all

    async def counted() -> Any:
        nonlocal looks
        looks += 1
        return await look()

    monkeypatch.setattr(endpoints, "all", counted)

    async def leaders() -> set[str]:
        return await recorder.live_leases("webhooks")

    await becomes(lambda: looks > 3)
    assert await leaders() == set()
    await cloud.admin.hook(receiver.url)
    assert await becomes(leaders) == {cloud.context.process_id}
    assert (await cloud.admin("DELETE", f"{WEBHOOKS}/ci")).status == 204

    async def nobody() -> bool:
        return await leaders() == set()

    await becomes(nobody)
