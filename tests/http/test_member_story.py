"""A shared image is offered to projects, which accept or refuse it."""

import re

import pytest

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture
def owner(projects):
    return projects.caller("mine")


@pytest.fixture
def other(projects):
    return projects.caller("yours")


@pytest.fixture
def operator(projects):
    return projects.caller("ops", "admin")


@pytest.fixture
async def members(owner):
    """The path of the members of a shared image named "offered"."""
    image = await owner.create(name="offered")
    return f"/v2/images/{image['id']}/members"


async def test_an_offer_is_answered_with_the_member_and_200(owner, members):
    answer = await owner("POST", members, json={"member": "yours"})
    assert answer.status == 200
    member = answer.json
    assert set(member) == {
        "member_id", "image_id", "status", "created_at", "updated_at", "schema",
    }  # fmt: skip
    assert member["member_id"] == "yours"
    assert member["image_id"] in members
    assert member["status"] == "pending"
    assert member["schema"] == "/v2/schemas/member"
    assert TIME.fullmatch(member["created_at"])
    listed = (await owner("GET", members)).json
    assert listed == {"members": [member], "schema": "/v2/schemas/members"}
    assert (await owner("GET", f"{members}/yours")).json == member


@pytest.mark.parametrize("status", ["accepted", "rejected"])
async def test_the_invited_project_answers_in_any_direction(owner, other, members, status):
    await owner("POST", members, json={"member": "yours"})
    for wish in (status, "pending", status, "accepted", "rejected"):
        answer = await other("PUT", f"{members}/yours", json={"status": wish})
        assert (answer.status, answer.json["status"]) == (200, wish)
    assert (await owner("GET", f"{members}/yours")).json["status"] == "rejected"


async def test_an_offer_is_listed_by_the_status_that_the_invited_project_gave(
    owner, other, members
):
    await owner("POST", members, json={"member": "yours"})
    image_id = members.split("/")[3]
    listing = [("", "accepted"), ("?member_status=pending", "pending"),
               ("?member_status=rejected", "rejected")]  # fmt: skip
    for given in ("pending", "accepted", "rejected"):
        await other("PUT", f"{members}/yours", json={"status": given})
        for query, shows in listing:
            assert await other.names(query) == (["offered"] if shows == given else [])
        assert await other.names("?member_status=all") == ["offered"]
        assert (await other.show(image_id))["name"] == "offered"
        assert await owner.names() == ["offered"]


async def test_every_project_sees_its_own_row_only_and_owner_and_administrator_all(
    projects, owner, other, operator, members
):
    for project in ("yours", "theirs"):
        await owner("POST", members, json={"member": project})

    async def seen(caller):
        return [row["member_id"] for row in (await caller("GET", members)).json["members"]]

    assert await seen(owner) == ["yours", "theirs"]
    assert await seen(operator) == ["yours", "theirs"]
    assert await seen(other) == ["yours"]
    assert (await other("GET", f"{members}/yours")).status == 200
    assert (await other("GET", f"{members}/theirs")).status == 404
    assert (await projects.caller("nobodys")("GET", members)).status == 404
    assert (await projects.caller("nobodys")("GET", f"{members}/yours")).status == 404


async def test_only_the_invited_project_or_an_administrator_answers(
    projects, owner, other, operator, members
):
    for project in ("yours", "theirs"):
        await owner("POST", members, json={"member": project})
    accepted = {"status": "accepted"}
    assert (await owner("PUT", f"{members}/yours", json=accepted)).status == 403
    assert (await other("PUT", f"{members}/theirs", json=accepted)).status == 404
    reader = projects.caller("yours", "reader")
    assert (await reader("PUT", f"{members}/yours", json=accepted)).status == 403
    assert (
        await projects.caller("nobodys")("PUT", f"{members}/yours", json=accepted)
    ).status == 404
    assert [row["status"] for row in (await owner("GET", members)).json["members"]] == [
        "pending",
        "pending",
    ]
    assert (await operator("PUT", f"{members}/yours", json=accepted)).json["status"] == "accepted"
    assert (await operator("PUT", f"{members}/nobodys", json=accepted)).status == 404


@pytest.mark.parametrize(
    "body", [{}, {"member": ""}, {"member": 5}, {"member": None}, {"members": "x"},
             {"member": "x" * 256}, {"member": "💩"}, []],
)  # fmt: skip
async def test_an_offer_to_nobody_is_refused_with_400(owner, members, body):
    assert (await owner("POST", members, json=body)).status == 400
    assert (await owner("GET", members)).json["members"] == []


@pytest.mark.parametrize("body", [{}, {"status": "perhaps"}, {"status": None}, {"status": []}, []])
async def test_an_answer_that_is_none_is_refused_with_400(owner, other, members, body):
    await owner("POST", members, json={"member": "yours"})
    assert (await other("PUT", f"{members}/yours", json=body)).status == 400


async def test_a_second_offer_is_a_conflict(owner, members):
    assert (await owner("POST", members, json={"member": "yours"})).status == 200
    assert (await owner("POST", members, json={"member": "yours"})).status == 409


async def test_a_withdrawn_offer_hides_the_image_and_made_again_is_pending(owner, other, members):
    await owner("POST", members, json={"member": "yours"})
    await other("PUT", f"{members}/yours", json={"status": "accepted"})
    assert (await other("DELETE", f"{members}/yours")).status == 403
    answer = await owner("DELETE", f"{members}/yours")
    assert (answer.status, answer.body) == (204, b"")
    assert (await owner("DELETE", f"{members}/yours")).status == 404
    assert await other.names("?member_status=all") == []
    assert (await other("GET", members)).status == 404
    again = (await owner("POST", members, json={"member": "yours"})).json
    assert again["status"] == "pending"


async def test_a_member_may_look_and_neither_change_nor_offer(owner, other, members):
    await owner("POST", members, json={"member": "yours"})
    image = members.removesuffix("/members")
    image_id = image.rpartition("/")[2]
    rename = {"op": "replace", "path": "/name", "value": "x"}
    assert (await other.patch(image_id, rename)).status == 403
    assert (await other("PUT", f"{image}/tags/x")).status == 403
    assert (await other("DELETE", image)).status == 403
    assert (await other("POST", members, json={"member": "theirs"})).status == 403


@pytest.mark.parametrize("visibility", ["private", "community", "public"])
async def test_an_image_that_is_not_shared_keeps_its_members_dormant(
    owner, other, operator, members, visibility
):
    await owner("POST", members, json={"member": "yours"})
    await other("PUT", f"{members}/yours", json={"status": "accepted"})
    image_id = members.split("/")[3]
    change = {"op": "replace", "path": "/visibility", "value": visibility}
    assert (await operator.patch(image_id, change)).status == 200
    assert (await owner("GET", members)).status == 403
    assert (await owner("POST", members, json={"member": "theirs"})).status == 403
    assert (await owner("GET", f"{members}/yours")).status == 404
    assert (await owner("DELETE", f"{members}/yours")).status == 403
    expected = 404 if visibility == "private" else 200
    assert (await other("GET", f"/v2/images/{image_id}")).status == expected
    assert await other.names() == (["offered"] if visibility == "public" else [])
    back = {"op": "replace", "path": "/visibility", "value": "shared"}
    assert (await owner.patch(image_id, back)).status == 200
    assert (await owner("GET", f"{members}/yours")).json["status"] == "accepted"
    assert await other.names() == ["offered"]


async def test_more_members_than_the_limit_are_refused_with_413(open_cloud):
    admin = (await open_cloud(limits={"members": 2})).admin
    image = await admin.create()
    path = f"/v2/images/{image['id']}/members"
    statuses = [
        (await admin("POST", path, json={"member": name})).status for name in ("a", "b", "c")
    ]
    assert statuses == [200, 200, 413]


async def test_a_member_of_any_spelling_is_found_again(owner, members):
    await owner("POST", members, json={"member": "Büro 7%"})
    assert (await owner("GET", f"{members}/B%C3%BCro%207%25")).json["member_id"] == "Büro 7%"
    assert (await owner("DELETE", f"{members}/B%C3%BCro%207%25")).status == 204
