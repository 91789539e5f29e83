"""Webhooks as those see them who manage them."""

import asyncio
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

WEBHOOKS = "/log/v1/webhooks"


async def test_the_secret_is_told_once(open_hooks: Any, receiver: Any) -> None:
    admin = (await open_hooks()).admin
    secret = await admin.hook(receiver.url)
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
    open_hooks: Any, becomes: Any, receiver: Any
) -> None:
    admin = (await open_hooks()).admin
    first = await admin.hook(receiver.url)
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
    secret = await admin.hook(receiver.url, enabled=False)
    told = (await admin("POST", f"{WEBHOOKS}/ci/test")).json
    assert (told["delivered"], told["status"], told["error"]) == (True, 204, None)
    [received] = receiver.got
    event = Webhook(secret).verify(received.body, received.headers)
    assert (event["type"], event["id"]) == ("org.calotype.webhook.test", told["message_id"])
    receiver.answer = lambda received: 500
    told = (await admin("POST", f"{WEBHOOKS}/ci/test")).json
    assert (told["delivered"], told["status"], told["error"]) == (False, 500, "answered 500")
    assert (await admin.hook_state())["failures"] == 0


async def test_nobody_reaches_the_webhooks_of_others(open_hooks: Any, receiver: Any) -> None:
    cloud = await open_hooks("headers")
    red, blue = cloud.caller("red"), cloud.caller("blue")
    admin = cloud.caller("ops", "admin")
    await red.hook(receiver.url + "/red")
    await admin.hook(receiver.url + "/ops", "audit")
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
    await cloud.caller("red").hook(receiver.url)
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
    await cloud.caller("blue").hook(receiver.url)


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
    await admin.hook(receiver.url)
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
