"""Tags are put on and taken off one by one."""

import asyncio

import pytest


async def test_a_tag_is_put_on_once_and_taken_off_once(admin):
    image = await admin.create()
    path = f"/v2/images/{image['id']}/tags/blue"
    for _ in range(2):
        answer = await admin("PUT", path)
        assert (answer.status, answer.body) == (204, b"")
        assert (await admin.show(image["id"]))["tags"] == ["blue"]
    assert (await admin("DELETE", path)).status == 204
    assert (await admin("DELETE", path)).status == 404
    assert (await admin.show(image["id"]))["tags"] == []


@pytest.mark.parametrize(
    ("written", "tag"),
    [
        ("a%20b", "a b"),
        ("%C3%BC", "ü"),
        ("50%25", "50%"),
        ("a,b", "a,b"),
        ("x" * 255, "x" * 255),
    ],
)
async def test_a_tag_is_what_its_path_means(admin, written, tag):
    image = await admin.create()
    assert (await admin("PUT", f"/v2/images/{image['id']}/tags/{written}")).status == 204
    assert (await admin.show(image["id"]))["tags"] == [tag]
    assert (await admin("DELETE", f"/v2/images/{image['id']}/tags/{written}")).status == 204


@pytest.mark.parametrize(
    ("written", "status"),
    [("x" * 256, 400), ("%F0%9F%92%A9", 400), ("%00", 400), ("%FF", 400), ("a/b", 404), ("", 404)],
)
async def test_what_is_no_tag_is_refused(admin, written, status):
    image = await admin.create()
    assert (await admin("PUT", f"/v2/images/{image['id']}/tags/{written}")).status == status
    assert (await admin.show(image["id"]))["tags"] == []


async def test_tags_put_on_at_once_are_all_kept(admin):
    image = await admin.create()
    paths = [f"/v2/images/{image['id']}/tags/{n}" for n in range(12)]
    answers = await asyncio.gather(*(admin("PUT", path) for path in paths))
    assert {answer.status for answer in answers} == {204}
    assert sorted((await admin.show(image["id"]))["tags"], key=int) == [str(n) for n in range(12)]


async def test_a_tag_cannot_be_asked_for(admin):
    image = await admin.create(tags=["x"])
    answer = await admin("GET", f"/v2/images/{image['id']}/tags/x")
    assert answer.status == 405
    assert set(answer.headers["Allow"].replace(" ", "").split(",")) == {"PUT", "DELETE"}
