"""Limits of projects that a real Keystone knows: registered for all, or set for one."""

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

import pytest

from tests.backends.keystone import Keystone

pytestmark = pytest.mark.slow

MB = 1 << 20
LIMITS = "GET /v3/limits"


@pytest.fixture
def log_url(tmp_path: Any) -> str:
    """These stories are about where limits come from: one kind of log is enough."""
    return f"sqlite:///{tmp_path / 'log.sqlite'}"


@dataclass
class Office:
    """Who registers limits for an image service of its own in the shared Keystone."""

    keystone: Any
    kind: str
    service: str

    def register(self, resource: str, limit: int, **more: str) -> str:
        """A limit for all projects; its id."""
        fields = {"service_id": self.service, "resource_name": resource, "default_limit": limit}
        answer = self.keystone.accounts.call(
            "POST", "/registered_limits", {"registered_limits": [{**fields, **more}]}
        )
        return str(answer["registered_limits"][0]["id"])

    def change(self, registered: str, limit: int) -> None:
        body = {"registered_limit": {"default_limit": limit}}
        self.keystone.accounts.call("PATCH", f"/registered_limits/{registered}", body)

    def allow(self, project: str, resource: str, limit: int, **more: str) -> None:
        """A limit for one project."""
        fields = {"service_id": self.service, "resource_name": resource, "resource_limit": limit}
        self.keystone.accounts.call(
            "POST", "/limits", {"limits": [{**fields, "project_id": project, **more}]}
        )

    def endpoint_id(self) -> str:
        path = f"/endpoints?service_id={self.service}&interface=public"
        return str(self.keystone.accounts.call("GET", path)["endpoints"][0]["id"])

    def register_all(self, **limits: int) -> None:
        """Enough of everything, but for what is said."""
        everything = {
            "image_size_total": 100,
            "image_stage_total": 100,
            "image_count_total": 100,
            "image_count_uploading": 100,
        }
        for resource, limit in {**everything, **limits}.items():
            self.register(resource, limit)


@pytest.fixture
def office(keystone: Any) -> Office:
    kind = f"image-{uuid.uuid4().hex[:8]}"
    service = keystone.accounts.endpoint("http://127.0.0.1:9", kind, kind)
    return Office(keystone, kind, service)


@pytest.fixture
def start(open_cloud: Any, keystone: Any, office: Office) -> Any:
    """Starts an application whose limits are those of the office; projects come in headers."""

    async def start(url: str | None = None, **limits: Any) -> Any:
        limits = {"keystone": True, "service": office.kind, "cache_seconds": 0.0, **limits}
        asking = {**keystone.settings, "timeout_seconds": 10.0}
        if url is not None:
            asking |= {"url": url, "timeout_seconds": 3.0, "retries": 0}
        return await open_cloud(identity={"kind": "headers"}, limits=limits, keystone=asking)

    return start


async def test_what_is_registered_holds_for_all_and_what_is_set_for_one_goes_before(start, office):
    office.register_all(image_count_total=1, image_size_total=1)
    red, blue = (office.keystone.projects[name] for name in ("red", "blue"))
    office.allow(blue, "image_count_total", 2)
    cloud = await start()
    mine, theirs = cloud.caller(red), cloud.caller(blue)
    image = await mine.create_bare()
    assert (await mine("POST", "/v2/images", json={})).status == 413
    for _ in range(2):
        await theirs.create_bare()
    refused = await theirs("POST", "/v2/images", json={})
    assert refused.status == 413
    assert "may have 2 images" in refused.text
    assert (await mine.upload(image["id"], b"x" * (MB + 1))).status == 413
    assert (await mine.upload(image["id"], b"x" * MB)).status == 204  # Limits are in MiB.


async def test_what_is_not_registered_is_refused(start, office):
    cloud = await start()
    red = cloud.caller(office.keystone.projects["red"])
    assert (await red("POST", "/v2/images", json={})).status == 413
    office.register("image_count_total", 10)
    image = await red.create_bare()
    assert (await red.upload(image["id"], b"x")).status == 413  # No image may be uploaded to.
    office.register("image_count_uploading", 10)
    assert (await red.upload(image["id"], b"x")).status == 413  # There may be no data.
    office.register("image_size_total", 10)
    assert (await red.upload(image["id"], b"x")).status == 204


async def test_minus_one_is_no_limit_and_a_change_counts_when_the_cache_is_over(start, office):
    office.register_all()
    cloud = await start()
    red = cloud.caller(office.keystone.projects["red"])
    office.allow(office.keystone.projects["red"], "image_count_total", -1)
    assert (await red("GET", "/v2/info/usage")).json["usage"]["image_count_total"] == {
        "usage": 0,
        "limit": -1,
    }
    await red.create()


async def test_the_usage_call_tells_what_the_project_has_and_may_have(start, office):
    office.register_all(image_size_total=5, image_count_uploading=3)
    cloud = await start()
    red = cloud.caller(office.keystone.projects["red"], "reader")
    await cloud.caller(office.keystone.projects["red"]).create_active(b"x" * (2 * MB + 1))
    answer = await red("GET", "/v2/info/usage")
    assert (answer.status, answer.json) == (
        200,
        {
            "usage": {
                "image_size_total": {"usage": 2, "limit": 5},
                "image_stage_total": {"usage": 0, "limit": 100},
                "image_count_total": {"usage": 1, "limit": 100},
                "image_count_uploading": {"usage": 0, "limit": 3},
            }
        },
    )
    nobody = await cloud.caller(None, "admin")("GET", "/v2/info/usage")
    assert (nobody.status, nobody.json) == (200, {"usage": {}})


async def test_the_owner_of_the_image_is_who_must_have_room(start, office):
    office.register_all(image_size_total=1)
    cloud = await start()
    red, blue = (office.keystone.projects[name] for name in ("red", "blue"))
    image = await cloud.caller(red).create_bare()
    admin = cloud.caller(blue, "admin")
    assert (await admin.upload(image["id"], b"x" * (MB + 1))).status == 413
    assert (await admin.upload(image["id"], b"x" * MB)).status == 204
    usage = (await cloud.caller(red)("GET", "/v2/info/usage")).json["usage"]
    assert usage["image_size_total"] == {"usage": 1, "limit": 1}


@pytest.mark.parametrize("known", ["endpoint_id", "region", "system_scope"])
async def test_the_service_is_found_by_endpoint_or_by_type_and_region(start, office, known):
    office.register("image_count_total", 1, region_id="RegionOne")
    more: dict[str, Any] = {"region": "RegionOne"}
    if known == "endpoint_id":
        more = {"endpoint_id": office.endpoint_id(), "service": "elsewhere"}
    if known == "system_scope":
        office.keystone.accounts.grant("/system", office.keystone.users["calotype"], "reader")
        more["system_scope"] = True
    own = {"region_id": "RegionOne"}
    office.allow(office.keystone.projects["red"], "image_count_total", 2, **own)
    cloud = await start(**more)
    red, blue = (cloud.caller(office.keystone.projects[name]) for name in ("red", "blue"))
    await red.create()
    await red.create()
    assert (await red("POST", "/v2/images", json={})).status == 413
    await blue.create()
    assert (await blue("POST", "/v2/images", json={})).status == 413


async def test_many_who_ask_at_once_share_one_question_and_its_answer(start, office):
    office.register_all(image_count_total=30)
    cloud = await start(cache_seconds=60.0)
    red = cloud.caller(office.keystone.projects["red"])
    asked = office.keystone.server.requests(LIMITS)
    answers = await asyncio.gather(*(red("POST", "/v2/images", json={}) for _ in range(60)))
    assert sorted(answer.status for answer in answers) == [201] * 30 + [413] * 30
    assert office.keystone.server.requests(LIMITS) == asked + 1


async def test_without_keystone_what_takes_more_waits_and_all_else_goes_on(
    start, office, keystone, tmp_path
):
    office.register_all()
    project = keystone.projects["red"]
    with Keystone(tmp_path / "second", data=keystone.server.data) as second:
        cloud = await start(second.url)
        red = cloud.caller(project)
        image = await red.create_active(b"x" * 10)
    refused = await red("POST", "/v2/images", json={})
    assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
    queued = {"op": "replace", "path": "/name", "value": "still possible"}
    assert (await red.patch(image["id"], queued)).status == 200
    assert (await red("GET", f"/v2/images/{image['id']}/file")).body == b"x" * 10
    assert (await red("GET", "/v2/info/usage")).status == 503
    assert (await red("DELETE", f"/v2/images/{image['id']}")).status == 204


async def test_a_service_that_keystone_does_not_know_has_no_limits_to_ask_for(
    start, office, monkeypatch
):
    office.register_all()
    monkeypatch.setattr("calotype.http.identity.keystone_limits.LOOK_AGAIN_SECONDS", 0.0)
    kind = f"late-{uuid.uuid4().hex[:8]}"
    cloud = await start(service=kind)
    red = cloud.caller(office.keystone.projects["red"])
    assert (await red("POST", "/v2/images", json={})).status == 503
    # An endpoint that is registered later is found without a restart.
    late = office.keystone.accounts.endpoint("http://127.0.0.1:9", kind, kind)
    Office(office.keystone, kind, late).register("image_count_total", 1)
    await red.create()
