"""What a tenant can store has bounds: a value, a document, a body. What is there stays readable."""

import asyncio
import json
from typing import Any
from uuid import UUID

from aiohttp.test_utils import TestServer

from calotype.commands.context import SYSTEM, cause_of
from calotype.commands.images.members import add_member, remove_member
from calotype.projections.past import history

KIB = 1 << 10


def add(name: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": f"/{name}", "value": value}


async def test_a_value_holds_64_kib_and_no_more(admin):
    longest = "é" * (32 * KIB)
    image = await admin.create(note=longest)
    assert (await admin.show(image["id"]))["note"] == longest
    for answer in (
        await admin("POST", "/v2/images", json={"note": longest + "x"}),
        await admin.patch(image["id"], add("other", longest + "x")),
        await admin.patch(image["id"], {"op": "replace", "path": "/note", "value": longest + "x"}),
    ):
        assert answer.status == 413
        assert "has a value of 65537 bytes; at most 65536 fit" in answer.text
        assert "limits.property_value_bytes" in answer.text
    assert (await admin.show(image["id"]))["note"] == longest


async def test_an_image_holds_a_mebibyte_in_all(admin):
    block = "x" * (63 * KIB)
    full = {f"p{number}": block for number in range(16)}
    image = await admin.create(**full)
    for answer in (
        await admin("POST", "/v2/images", json={**full, "more": block}),
        await admin.patch(image["id"], add("more", block)),
    ):
        assert answer.status == 413
        assert "limits.image_document_bytes" in answer.text
    answer = await admin.patch(image["id"], add("p0", "short"), add("more", block))
    assert answer.status == 200


async def test_what_is_beyond_the_bounds_already_is_read_and_may_only_shrink(open_cloud):
    unbounded = {"property_value_bytes": -1, "image_document_bytes": -1}
    before = await open_cloud(limits=unbounded)
    old = "x" * (2 << 20)
    image = await before.admin.create(old=old, tags=["a"], small="1")
    now = (await open_cloud()).admin
    shown = await now.show(image["id"])
    assert shown["old"] == old
    assert (await now.patch(image["id"], add("small", "22"))).status == 413
    assert (await now("PUT", f"/v2/images/{image['id']}/tags/b")).status == 413
    assert (await now("DELETE", f"/v2/images/{image['id']}/tags/a")).status == 204
    assert (await now.patch(image["id"], {"op": "remove", "path": "/small"})).status == 200
    assert (await now.patch(image["id"], {"op": "remove", "path": "/old"})).status == 200
    assert (await now.patch(image["id"], add("small", "22"))).status == 200
    changes = (await now("GET", f"/log/v1/images/{image['id']}/history")).json
    assert changes["changes"][0]["patch"][0]["value"]["old"] == old


async def test_former_members_are_remembered_within_bounds(open_cloud):
    cloud = await open_cloud(limits={"image_document_bytes": 2 * KIB})
    image = await cloud.admin.create()
    refused = 0
    for number in range(40):
        name = f"{number:0100}"
        answer = await cloud.admin(
            "POST", f"/v2/images/{image['id']}/members", json={"member": name}
        )
        if answer.status == 413:
            assert "limits.image_document_bytes" in answer.text
            refused += 1
            continue
        await remove_member(
            cloud.context, SYSTEM, cause_of(SYSTEM, "req-1"), UUID(image["id"]), name
        )
    assert refused == 40 - 19
    # Whoever was a member comes back, however many there are.
    cause = cause_of(SYSTEM, "req-1")
    await add_member(cloud.context, SYSTEM, cause, UUID(image["id"]), {"member": f"{0:0100}"})


async def test_locations_are_bounded_too(open_cloud):
    cloud = await open_cloud(
        http={"show_multiple_locations": True}, limits={"image_document_bytes": 2 * KIB}
    )
    image = await cloud.admin.create_active()
    url = (await cloud.admin.show(image["id"]))["locations"][0]["url"]
    for size, status in ((1 * KIB, 200), (2 * KIB, 413)):
        value = [{"url": url, "metadata": {"note": "x" * size}}]
        change = {"op": "replace", "path": "/locations", "value": value}
        answer = await cloud.admin.patch(image["id"], change)
        assert answer.status == status, answer.text


async def test_a_body_that_says_that_it_is_too_long_is_not_even_waited_for(open_cloud):
    cloud = await open_cloud(http={"json_body_bytes": 64 * KIB})
    server = cloud.client.server
    assert isinstance(server, TestServer)
    for method, path in (
        ("POST", "/v2/images"),
        ("PATCH", "/v2/images/8f0c1bb2-3b6f-4c60-9a0f-5a7a5ab9e1c4"),
        ("PUT", "/log/v1/webhooks/ci"),
    ):
        reader, writer = await asyncio.open_connection(server.host, server.port)
        media = "application/openstack-images-v2.1-json-patch"
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {media}\r\n"
        writer.write(f"{head}Content-Length: {15 << 20}\r\n\r\n[".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert answer.startswith(b"HTTP/1.1 413"), answer
        writer.close()

    async def chunks():
        yield b"["
        for _ in range(100):
            yield b" " * KIB

    answer = await cloud.admin("POST", "/v2/images", data=chunks())
    assert answer.status == 413
    assert "http.json_body_bytes" in answer.text
    body = json.dumps([" " * (63 * KIB)]).encode()
    assert (await cloud.admin("POST", "/v2/images", data=body)).status == 400


async def test_pages_of_a_history_end_by_bytes(admin, monkeypatch):
    monkeypatch.setattr(history, "DOCUMENTS_BYTES", 10 * KIB)
    image = await admin.create(note="x" * 4 * KIB)
    for number in range(9):
        assert (await admin.patch(image["id"], add("number", str(number)))).status == 200
    path, versions = f"/log/v1/images/{image['id']}/history", []
    pages = 0
    while path:
        page = (await admin("GET", path)).json
        pages += 1
        versions += [change["version"] for change in page["changes"]]
        path = page.get("next")
    assert versions == list(range(1, 11))
    assert pages == 4
    monkeypatch.setattr(history, "PAGE_BYTES", 4 * KIB)
    page = (await admin("GET", f"/log/v1/images/{image['id']}/history")).json
    assert len(page["changes"]) == 1
