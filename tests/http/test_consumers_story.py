"""Named consumers as programs see them: made, fetched from, answered, watched and repaired."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from calotype.ops.wiring.composition import audience_follower

CONSUMERS = "/log/v1/consumers"
BILLING = f"{CONSUMERS}/billing"


@pytest.fixture
async def told(projects: Any) -> AsyncIterator[Any]:
    """A cloud of several projects, whose feeds follow the log."""
    following = audience_follower(projects.context, projects.api.feed.watcher)
    task = asyncio.create_task(following.run())
    yield projects
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def fetched(caller: Any, path: str = BILLING, **asked: Any) -> list[dict[str, Any]]:
    answer = await caller("POST", f"{path}/fetch", json=asked)
    assert answer.status == 200, answer.text
    return answer.json["deliveries"]


async def acked(caller: Any, *deliveries: Any, path: str = BILLING) -> list[str]:
    tokens = [delivery["token"] for delivery in deliveries]
    answer = await caller("POST", f"{path}/ack", json={"tokens": tokens})
    assert answer.status == 200, answer.text
    return [result["result"] for result in answer.json["results"]]


async def test_a_consumer_is_made_fetches_acknowledges_and_tells_how_far_it_is(
    admin: Any,
) -> None:
    first, second = await admin.create(name="a"), await admin.create(name="b")
    assert (await admin("PUT", f"/v2/images/{first['id']}/tags/t")).status == 204
    made = await admin("PUT", BILLING, json={"types": ["image.created", "image.tag_added"]})
    assert made.status == 201, made.text
    assert made.json["lag"] == {"events": 3, "more": False}
    assert made.json["types"] == ["image.created", "image.tag_added"]
    assert (made.json["project"], made.json["created_by"]) == (None, "admin")
    again = await admin("PUT", BILLING, json={"types": ["image.tag_added", "image.created"]})
    assert again.status == 200
    assert again.json == made.json
    deliveries = await fetched(admin, member="m1", ack_seconds=90)
    events = [delivery["event"] for delivery in deliveries]
    assert [event["subject"] for event in events] == [first["id"], second["id"]]
    assert events == (await admin("GET", "/log/v1/events?limit=2")).json
    deadline = datetime.fromisoformat(deliveries[0]["deadline"])
    assert 80 < (deadline - datetime.now(UTC)).total_seconds() < 91
    shown = (await admin("GET", BILLING)).json
    assert (shown["claimed"], shown["waiting"], shown["parked"]) == (2, 1, 0)
    assert shown["lag"] == {"events": 3, "more": False}
    assert 0 <= shown["oldest_claim_seconds"] < 30
    assert [(m["member"], m["claimed"]) for m in shown["members"]] == [("m1", 2)]
    assert shown["position"].endswith("-0")
    assert await acked(admin, *deliveries) == ["acknowledged"] * 2
    [last] = await fetched(admin)
    assert last["event"]["data"]["tag"] == "t"
    assert await acked(admin, last) == ["acknowledged"]
    shown = (await admin("GET", BILLING)).json
    assert shown["lag"]["events"] == shown["claimed"] == 0
    assert shown["position"] == shown["taken_to"] == last["event"]["id"]
    assert shown["oldest_claim_seconds"] is None
    listed = (await admin("GET", CONSUMERS)).json["consumers"]
    assert [one["name"] for one in listed] == ["billing"]
    assert (await admin("DELETE", BILLING)).status == 204
    gone = await admin("GET", BILLING)
    assert gone.status == 404
    assert gone.headers["Content-Type"] == "application/problem+json"


async def test_bodies_are_optional_where_all_has_a_default(admin: Any) -> None:
    image = await admin.create()
    assert (await admin("PUT", BILLING)).status == 201
    answer = await admin("POST", f"{BILLING}/fetch")
    assert [one["event"]["subject"] for one in answer.json["deliveries"]] == [image["id"]]


async def test_two_members_share_the_work_by_image(admin: Any) -> None:
    await admin("PUT", BILLING)
    images = [await admin.create() for _ in range(4)]
    for image in images:
        assert (await admin("PUT", f"/v2/images/{image['id']}/tags/t")).status == 204
    one = await fetched(admin, member="one", limit=2)
    two = await fetched(admin, member="two")
    subjects = [[d["event"]["subject"] for d in part] for part in (one, two)]
    assert [len(part) for part in subjects] == [2, 2]
    assert sorted(sum(subjects, [])) == sorted(image["id"] for image in images)
    assert await fetched(admin, member="three") == []
    await acked(admin, two[0])
    [next_one] = await fetched(admin, member="one")
    assert next_one["event"]["subject"] == two[0]["event"]["subject"]
    assert next_one["event"]["type"] == "org.calotype.image.tag_added"
    members = (await admin("GET", BILLING)).json["members"]
    assert {m["member"]: m["claimed"] for m in members} == {"one": 3, "two": 1, "three": 0}


async def test_failed_events_come_again_are_parked_and_are_redelivered(admin: Any) -> None:
    image = await admin.create()
    assert (await admin("PUT", f"/v2/images/{image['id']}/tags/t")).status == 204
    wishes = {"max_attempts": 2, "on_parked": "hold"}
    assert (await admin("PUT", BILLING, json=wishes)).json["on_parked"] == "hold"
    results = []
    for _ in range(2):
        [delivery] = await fetched(admin, wait=20)
        failure = {"token": delivery["token"], "error": "boom", "retry_after_seconds": 0}
        answer = await admin("POST", f"{BILLING}/ack", json={"failed": [failure]})
        results += answer.json["results"]
    assert [(r["result"], r["status"]) for r in results] == [("failed", 200), ("parked", 200)]
    again = await admin("POST", f"{BILLING}/ack", json={"tokens": [delivery["token"]]})
    assert again.json["results"] == [
        {"token": delivery["token"], "result": "settled", "status": 409}
    ]
    assert await fetched(admin) == []
    [parked] = (await admin("GET", f"{BILLING}/parked")).json["parked"]
    assert (parked["attempts"], parked["error"]) == (2, "boom")
    assert parked["event"] == delivery["event"]
    path = f"{BILLING}/parked/{parked['position']}"
    assert (await admin("POST", f"{path}/redeliver")).status == 204
    missing = await admin("POST", f"{path}/redeliver")
    assert (missing.status, missing.json["field"]) == (404, "position")
    [delivery] = await fetched(admin)
    assert (delivery["event"]["id"], delivery["attempt"]) == (parked["position"], 1)
    assert await acked(admin, delivery) == ["acknowledged"]
    [delivery] = await fetched(admin)
    assert delivery["event"]["type"] == "org.calotype.image.tag_added"


async def test_a_discarded_event_is_given_up(admin: Any) -> None:
    await admin.create()
    await admin("PUT", BILLING, json={"max_attempts": 1})
    [delivery] = await fetched(admin)
    await admin("POST", f"{BILLING}/ack", json={"failed": [{"token": delivery["token"]}]})
    path = f"{BILLING}/parked/{delivery['event']['id']}"
    assert (await admin("POST", f"{path}/discard")).status == 204
    assert (await admin("POST", f"{path}/discard")).status == 404
    assert (await admin("GET", f"{BILLING}/parked")).json == {"parked": []}
    assert (await admin("GET", BILLING)).json["lag"]["events"] == 0


async def test_a_claim_that_ran_out_is_answered_410_and_an_extended_one_is_not(
    admin: Any,
) -> None:
    await admin("PUT", BILLING)
    await admin.create()
    [delivery] = await fetched(admin, member="slow", ack_seconds=1)
    assert await fetched(admin, member="fast") == []
    [again] = await fetched(admin, member="fast", wait=20)
    assert again["event"] == delivery["event"]
    assert (delivery["attempt"], again["attempt"]) == (1, 2)
    answer = await admin("POST", f"{BILLING}/ack", json={"tokens": [delivery["token"]]})
    assert answer.json["results"][0] == {
        "token": delivery["token"], "result": "expired", "status": 410,
    }  # fmt: skip
    extended = await admin(
        "POST", f"{BILLING}/extend", json={"tokens": [again["token"]], "ack_seconds": 500}
    )
    assert extended.json["results"][0]["result"] == "extended"
    released = await admin("POST", f"{BILLING}/ack", json={"released": [again["token"]]})
    assert released.json["results"][0]["result"] == "released"
    [third] = await fetched(admin)
    assert third["attempt"] == 2  # What was released does not count.


async def test_a_long_poll_is_answered_when_something_happens(admin: Any) -> None:
    await admin("PUT", BILLING)
    polling = asyncio.create_task(fetched(admin, wait=30))
    done, _ = await asyncio.wait({polling}, timeout=0.3)
    assert not done
    image = await admin.create()
    [delivery] = await asyncio.wait_for(polling, 5)
    assert delivery["event"]["subject"] == image["id"]


async def test_a_client_that_vanished_is_given_nothing(cloud: Any) -> None:
    admin = cloud.admin
    await admin("PUT", BILLING)
    polling = asyncio.create_task(fetched(admin, wait=30))
    await asyncio.wait({polling}, timeout=0.3)
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)
    await admin.create()
    [delivery] = await fetched(admin, wait=10)
    assert delivery["attempt"] == 1


async def test_of_many_who_make_a_consumer_at_once_one_makes_it(admin: Any) -> None:
    answers = await asyncio.gather(*[admin("PUT", BILLING) for _ in range(8)])
    assert sorted(answer.status for answer in answers) == [200] * 7 + [201]


async def test_who_waits_for_a_consumer_that_is_deleted_is_told_so(admin: Any) -> None:
    await admin("PUT", BILLING)
    polling = asyncio.create_task(admin("POST", f"{BILLING}/fetch", json={"wait": 30}))
    await asyncio.wait({polling}, timeout=0.3)
    assert (await admin("DELETE", BILLING)).status == 204
    assert (await asyncio.wait_for(polling, 5)).status == 404


async def test_start_and_seek_go_by_positions(admin: Any) -> None:
    ids = [(await admin.create())["id"] for _ in range(3)]
    events = (await admin("GET", "/log/v1/events")).json
    await admin("PUT", f"{CONSUMERS}/late", json={"start": "end"})
    await admin("PUT", f"{CONSUMERS}/mid", json={"start": events[1]["id"]})
    assert await fetched(admin, f"{CONSUMERS}/late") == []
    [only] = await fetched(admin, f"{CONSUMERS}/mid")
    assert only["event"]["subject"] == ids[2]
    sought = await admin("POST", f"{CONSUMERS}/mid/seek", json={"position": "beginning"})
    assert sought.status == 200
    assert (sought.json["lag"]["events"], sought.json["claimed"]) == (3, 0)
    assert await acked(admin, only, path=f"{CONSUMERS}/mid") == ["settled"]
    assert len(await fetched(admin, f"{CONSUMERS}/mid")) == 3
    await admin("POST", f"{CONSUMERS}/mid/seek", json={"position": "end"})
    assert await fetched(admin, f"{CONSUMERS}/mid") == []


async def test_a_projects_consumer_sees_what_the_project_may_see_and_is_its_own(
    told: Any,
) -> None:
    owner, stranger = told.caller("p1", user="the-owner"), told.caller("p2")
    reader, operator = told.caller("p1", "reader"), told.caller("x", "admin")
    auditor = told.caller("x", "auditor")
    mine = await owner.create(visibility="private", name="secret")
    theirs = await stranger.create(visibility="private")
    for caller in (owner, stranger, operator):
        assert (await caller("PUT", BILLING)).status == 201
    [delivery] = await fetched(owner, wait=10)
    assert (delivery["event"]["subject"], delivery["event"]["view"]) == (mine["id"], "own")
    [other] = await fetched(stranger, wait=10)
    assert other["event"]["subject"] == theirs["id"]
    everything = await fetched(operator)
    assert {one["event"]["subject"] for one in everything} == {mine["id"], theirs["id"]}
    assert {one["event"]["view"] for one in everything} == {"full"}
    # Tokens of one consumer mean nothing to another of the same name.
    assert await acked(stranger, delivery) == ["settled"]
    assert (await reader("GET", BILLING)).json["project"] == "p1"
    for method, path in (("POST", "/fetch"), ("POST", "/ack"), ("PUT", ""), ("DELETE", "")):
        assert (await reader(method, BILLING + path)).status == 403
    assert (await stranger("GET", f"{BILLING}?project=p1")).status == 403
    assert (await owner("GET", f"{BILLING}?project=p1")).status == 200
    for helper in (operator, auditor):
        shown = await helper("GET", f"{BILLING}?project=p1")
        assert (shown.json["project"], shown.json["claimed"]) == ("p1", 1)
    token = {"tokens": [delivery["token"]]}
    assert (await auditor("POST", f"{BILLING}/ack?project=p1", json=token)).status == 403
    assert (await auditor("DELETE", f"{BILLING}?project=p1")).status == 403
    helped = await operator("POST", f"{BILLING}/ack?project=p1", json=token)
    assert helped.json["results"][0]["result"] == "acknowledged"
    assert (await told.caller("p1", "nothing")("GET", CONSUMERS)).status == 403
    assert (await told.caller(None)("GET", CONSUMERS)).status == 403
    assert (await owner("GET", CONSUMERS)).json["consumers"][0]["created_by"] == "the-owner"


async def test_the_lag_of_a_project_counts_its_own_events_only(told: Any) -> None:
    owner, stranger = told.caller("p1"), told.caller("p2")
    for _ in range(3):
        await owner.create()
        await stranger.create()
    await owner("PUT", BILLING, json={"types": ["image.created"]})
    for _ in range(200):
        lag = (await owner("GET", BILLING)).json["lag"]
        if lag["events"] == 3:
            break
        await asyncio.sleep(0.05)
    assert lag == {"events": 3, "more": False}


async def test_downloads_are_handed_out_in_the_order_of_their_image(open_cloud: Any) -> None:
    cloud = await open_cloud(audit={"downloads": True})
    admin = cloud.admin
    image = await admin.create_active()
    assert (await admin("GET", f"/v2/images/{image['id']}/file")).status == 200
    await cloud.api.downloads.settle(10)
    await admin("PUT", BILLING)
    seen = []
    while deliveries := await fetched(admin):
        assert len(deliveries) == 1
        seen.append(deliveries[0]["event"]["type"].removeprefix("org.calotype."))
        await acked(admin, *deliveries)
    assert seen == ["image.created", "image.upload_started", "image.data_stored", "image.data_sent"]


BAD = [
    ("PUT", "", {"types": ["image.exploded"]}, "types"),
    ("PUT", "", {"types": "image.created"}, "types"),
    ("PUT", "", {"types": [7]}, "types"),
    ("PUT", "", {"types": ["\x00"]}, "types"),
    ("PUT", "", {"image": "7"}, "image"),
    ("PUT", "", {"image": 7}, "image"),
    ("PUT", "", {"on_parked": "explode"}, "on_parked"),
    ("PUT", "", {"on_parked": ["hold"]}, "on_parked"),
    ("PUT", "", {"max_attempts": 0}, "max_attempts"),
    ("PUT", "", {"max_attempts": True}, "max_attempts"),
    ("PUT", "", {"max_attempts": 2.5}, "max_attempts"),
    ("PUT", "", {"start": "p000000000000-1"}, "start"),
    ("PUT", "", {"start": "nonsense"}, "start"),
    ("PUT", "", {"start": 7}, "start"),
    ("PUT", "", {"typos": 7}, "typos"),
    ("PUT", "?typos=7", {}, "typos"),
    ("PUT", "?project=a&project=b", {}, "project"),
    ("PUT", "?project=", {}, "project"),
    ("PUT", "?project=%00", {}, "project"),
    ("POST", "/seek", {}, "position"),
    ("POST", "/seek", {"position": "p000000000000-1"}, "position"),
    ("POST", "/seek", {"position": None}, "position"),
    ("POST", "/fetch", {"limit": 0}, "limit"),
    ("POST", "/fetch", {"limit": 10**30}, "limit"),
    ("POST", "/fetch", {"limit": "7"}, "limit"),
    ("POST", "/fetch", {"member": ""}, "member"),
    ("POST", "/fetch", {"member": "a\x00"}, "member"),
    ("POST", "/fetch", {"member": "m" * 101}, "member"),
    ("POST", "/fetch", {"member": None}, "member"),
    ("POST", "/fetch", {"ack_seconds": 0}, "ack_seconds"),
    ("POST", "/fetch", {"ack_seconds": 1e9}, "ack_seconds"),
    ("POST", "/fetch", {"ack_seconds": True}, "ack_seconds"),
    ("POST", "/fetch", {"wait": 61}, "wait"),
    ("POST", "/fetch", {"wait": -1}, "wait"),
    ("POST", "/ack", {}, "tokens"),
    ("POST", "/ack", {"tokens": []}, "tokens"),
    ("POST", "/ack", {"tokens": "t"}, "tokens"),
    ("POST", "/ack", {"tokens": [1]}, "tokens"),
    ("POST", "/ack", {"tokens": ["nonsense"]}, "tokens[0]"),
    ("POST", "/ack", {"tokens": ["p000000000000-1.00"]}, "tokens[0]"),
    ("POST", "/ack", {"tokens": ["x"] * 1001}, "tokens"),
    ("POST", "/ack", {"failed": [{}]}, "failed[0].token"),
    ("POST", "/ack", {"failed": ["t"]}, "failed"),
    ("POST", "/ack", {"failed": [{"token": "t", "error": 7}]}, "failed[0].error"),
    ("POST", "/ack", {"failed": [{"token": "t", "retry_after_seconds": -1}]},
     "failed[0].retry_after_seconds"),
    ("POST", "/ack", {"failed": [{"token": "t", "why": 7}]}, "failed[0].why"),
    ("POST", "/ack", {"released": {}}, "released"),
    ("POST", "/extend", {"tokens": []}, "tokens"),
    ("POST", "/extend", {"tokens": ["x"], "ack_seconds": "long"}, "ack_seconds"),
    ("POST", "/parked/nonsense/redeliver", None, "position"),
    ("POST", "/parked/p000000000000-1/discard", None, "position"),
    ("GET", "/parked?after=nonsense", None, "after"),
    ("GET", "/parked?limit=0", None, "limit"),
    ("GET", "/parked?limit=x", None, "limit"),
    ("GET", "/parked?typos=7", None, "typos"),
]  # fmt: skip


async def test_bad_input_is_a_problem_that_names_the_field(admin: Any) -> None:
    await admin("PUT", BILLING)
    for method, path, body, field in BAD:
        answer = await admin(method, BILLING + path, json=body)
        assert answer.status == 400, (path, body, answer.text)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json["field"] == field, (path, body, answer.text)
    for name in ("webhook:x", "-x", "x" * 101, "%C3%A9", "a%00", "a%0a", "%20"):
        answer = await admin("PUT", f"{CONSUMERS}/{name}")
        assert (answer.status, answer.json["field"]) == (400, "name"), name
    for body in (b"[]", b"7", b"{", b"\xff", b'{"member":"\\ud800"}'):
        answer = await admin("POST", f"{BILLING}/fetch", data=body)
        assert answer.status == 400, body


async def test_one_bad_token_of_several_leaves_the_others_unanswered(admin: Any) -> None:
    await admin("PUT", BILLING)
    await admin.create()
    [delivery] = await fetched(admin)
    token = delivery["token"]
    for body, field in (
        ({"tokens": [token, "nonsense"]}, "tokens[1]"),
        ({"tokens": [token, token]}, "tokens[1]"),
        ({"tokens": [token], "failed": [{"token": token}]}, "failed[0].token"),
    ):
        answer = await admin("POST", f"{BILLING}/ack", json=body)
        assert (answer.status, answer.json["field"]) == (400, field)
    assert (await admin("GET", BILLING)).json["claimed"] == 1
    forged = token.partition(".")[0] + ".0000000000000000"
    answer = await admin("POST", f"{BILLING}/ack", json={"tokens": [forged]})
    assert answer.json["results"][0]["status"] == 410
    assert await acked(admin, delivery) == ["acknowledged"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/fetch"),
        ("POST", "/ack"),
        ("POST", "/extend"),
        ("POST", "/seek"),
        ("GET", "/parked"),
        ("POST", "/parked/{}/redeliver"),
    ],
)
async def test_an_unknown_consumer_is_named(admin: Any, method: str, path: str) -> None:
    await admin("PUT", BILLING)
    await admin.create()
    [delivery] = await fetched(admin)
    bodies = {
        "/ack": {"tokens": [delivery["token"]]},
        "/extend": {"tokens": [delivery["token"]]},
        "/seek": {"position": "end"},
    }
    path = path.format(delivery["event"]["id"])
    answer = await admin(method, f"{CONSUMERS}/{uuid.UUID(int=7)}{path}", json=bodies.get(path))
    assert (answer.status, answer.json["field"]) == (404, "name")
    assert str(uuid.UUID(int=7)) in answer.json["detail"]
