"""The whole application on a free port, and callers who talk to it."""

import asyncio
import json as json_of
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from calotype.commands.context import CommandContext
from calotype.http.connections import Runner
from calotype.http.middleware import Api
from calotype.http.routes import application
from calotype.ops.jobs.sweeper import Swept, give_up_forgotten, sweep
from calotype.ops.settings.settings import Settings
from calotype.ops.wiring.composition import (
    api_of,
    audience_follower,
    migrate,
    parts_of,
    recorder_of,
)
from calotype.ops.wiring.webhooks import deliverer_of
from calotype.projections.webhooks import delivery

PATCH_MEDIA = "application/openstack-images-v2.1-json-patch"
OLD_PATCH_MEDIA = "application/openstack-images-v2.0-json-patch"


@dataclass(frozen=True)
class Answer:
    """One answer, read to its end."""

    status: int
    headers: Any
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json_of.loads(self.body)


@dataclass
class Caller:
    """Somebody who talks to the cloud, always with the same headers."""

    client: TestClient
    headers: dict[str, str] = field(default_factory=dict)

    async def __call__(
        self, method: str, path: str, json: Any = None, data: Any = None, **headers: str
    ) -> Answer:
        """Asks; `Content_Type="..."` among the keywords is the header Content-Type."""
        sent = {**self.headers}
        if json is not None:
            data = json_of.dumps(json).encode()
            sent["Content-Type"] = "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        # What is sent is exactly what the test wrote, also when it is badly quoted.
        url = URL(path, encoded=True)
        async with self.client.request(
            method,
            url,
            data=data,
            headers=sent,
            skip_auto_headers=("Accept", "User-Agent"),
            allow_redirects=False,
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def create(self, **fields: Any) -> dict[str, Any]:
        """A new queued image."""
        answer = await self("POST", "/v2/images", json=fields)
        assert answer.status == 201, answer.text
        return answer.json

    async def create_bare(self, **fields: Any) -> dict[str, Any]:
        """A new queued image that data can be sent to."""
        return await self.create(disk_format="raw", container_format="bare", **fields)

    async def upload(self, image_id: str, data: Any, **headers: str) -> Answer:
        headers.setdefault("Content_Type", "application/octet-stream")
        return await self("PUT", f"/v2/images/{image_id}/file", data=data, **headers)

    async def create_active(self, data: bytes = b"0123456789", **fields: Any) -> dict[str, Any]:
        """An active image with these bytes."""
        image = await self.create_bare(**fields)
        answer = await self.upload(image["id"], data)
        assert answer.status == 204, answer.text
        return await self.show(image["id"])

    async def show(self, image_id: str) -> dict[str, Any]:
        answer = await self("GET", f"/v2/images/{image_id}")
        assert answer.status == 200, answer.text
        return answer.json

    async def patch(self, image_id: str, *operations: Any) -> Answer:
        return await self(
            "PATCH", f"/v2/images/{image_id}", json=list(operations), Content_Type=PATCH_MEDIA
        )

    async def old_patch(self, image_id: str, *operations: Any) -> Answer:
        """A PATCH in the media type of version 2.0."""
        return await self(
            "PATCH", f"/v2/images/{image_id}", json=list(operations), Content_Type=OLD_PATCH_MEDIA
        )

    async def names(self, query: str = "") -> list[str]:
        """The names on one page of the list, in its order."""
        answer = await self("GET", f"/v2/images{query}")
        assert answer.status == 200, answer.text
        return [image["name"] for image in answer.json["images"]]

    async def found(self, **filters: str) -> set[str]:
        """The names of the images that pass the filters."""
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in filters.items())
        return set(await self.names(f"?limit=1000&{query}"))

    async def share(self, image_id: str, member: str, status: str = "pending") -> None:
        """Offers the image to a project and gives that project's answer (admins may)."""
        path = f"/v2/images/{image_id}/members"
        assert (await self("POST", path, json={"member": member})).status == 200
        if status != "pending":
            answer = await self("PUT", f"{path}/{member}", json={"status": status})
            assert answer.status == 200, answer.text

    async def hook(self, url: str, name: str = "ci", **more: Any) -> str:
        """Makes a webhook; its secret."""
        answer = await self("PUT", f"/log/v1/webhooks/{name}", json={"url": url, **more})
        assert answer.status == 201, answer.text
        return str(answer.json["secret"])

    async def hook_state(self, name: str = "ci") -> dict[str, Any]:
        """A webhook as its owner sees it."""
        answer = await self("GET", f"/log/v1/webhooks/{name}")
        assert answer.status == 200, answer.text
        return answer.json

    async def parked(self, name: str = "ci") -> list[dict[str, Any]]:
        """The parked messages of a webhook."""
        answer = await self("GET", f"/log/v1/webhooks/{name}/parked")
        assert answer.status == 200, answer.text
        return answer.json["parked"]


@dataclass
class Cloud:
    """A running application, and the directory that its store writes to."""

    client: TestClient
    api: Api
    context: CommandContext
    directory: Path

    @property
    def admin(self) -> Caller:
        """Everybody, where nobody is asked who they are."""
        return Caller(self.client)

    def caller(self, project: str | None, roles: str = "member", user: str = "someone") -> Caller:
        """A user of a project, where identity comes from headers."""
        headers = {"X-User-Id": user, "X-Roles": roles}
        if project is not None:
            headers["X-Project-Id"] = project
        return Caller(self.client, headers)

    async def sweep(self) -> Swept:
        """What the process and the leader do every few seconds, without the waiting."""
        given_up = await give_up_forgotten(self.context, self.api.queries)
        living = await self.context.log.recorder.live_leases("process:")
        here = living | {self.context.process_id}
        swept = await sweep(self.context, self.api.queries, lambda holder: holder not in here)
        swept.uploads_given_up += given_up
        return swept

    def stored(self) -> list[Path]:
        """The files with bytes in the store."""
        return sorted(path for path in self.directory.rglob("*") if path.is_file())


class Served(TestServer):
    """The application on connections of ours, as `calotype serve` runs it."""

    async def _make_runner(self, **options: Any) -> Runner:
        return Runner(self.app, most_connections=1000, **options)


OpenCloud = Callable[..., Awaitable[Cloud]]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the event log is: every story is told on both databases."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.sqlite'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
async def open_cloud(log_url: str, tmp_path: Path) -> AsyncIterator[OpenCloud]:
    """Starts applications with the settings that a story needs."""
    async with AsyncExitStack() as stack:

        async def start(**tables: Any) -> Cloud:
            tables.setdefault("identity", {"kind": "none"})
            tables["log"] = {"url": log_url, **tables.get("log", {})}
            settings = Settings(data=str(tmp_path), **tables)
            recorder = recorder_of(settings)
            await asyncio.to_thread(migrate, recorder)
            stack.push_async_callback(recorder.close)
            context = parts_of(settings, recorder)
            for driver in context.stores.values():
                stack.callback(driver.close)
            api = api_of(settings, context)
            client = TestClient(Served(application(api), host="127.0.0.1"))
            await stack.enter_async_context(client)
            directory = Path(settings.store_options()["directory"])
            return Cloud(client, api, context, directory)

        yield start


@pytest.fixture
async def cloud(open_cloud: OpenCloud) -> Cloud:
    """An application where everybody is an administrator of the project "default"."""
    return await open_cloud()


@pytest.fixture
async def projects(open_cloud: OpenCloud) -> Cloud:
    """An application that believes X-User-Id, X-Project-Id and X-Roles."""
    return await open_cloud(identity={"kind": "headers"})


@pytest.fixture
def admin(cloud: Cloud) -> Caller:
    return cloud.admin


HOOKS_ON_LOOPBACK = {
    "plain_http": True,
    "allow": ["127.0.0.0/8"],
    "first_retry_seconds": 0.1,
    "longest_retry_seconds": 0.4,
    "timeout_seconds": 5.0,
    "attempts": 3,
}


@pytest.fixture
async def open_hooks(open_cloud: OpenCloud, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Starts clouds whose webhooks are delivered, and may lead to loopback."""
    monkeypatch.setattr(delivery, "CHANGES_SECONDS", 0.1)  # Only so that tests are quick.
    tasks: list[asyncio.Task[None]] = []

    async def start(
        identity: str = "none", more: dict[str, Any] | None = None, **webhooks: Any
    ) -> Cloud:
        table = {**HOOKS_ON_LOOPBACK, **webhooks}
        cloud = await open_cloud(identity={"kind": identity}, webhooks=table, **(more or {}))
        api, settings = cloud.api, Settings(webhooks=table)
        deliverer = deliverer_of(settings, cloud.context, api.webhooks, lambda: api.policy)
        tasks.append(asyncio.create_task(deliverer.run()))
        tasks.append(asyncio.create_task(audience_follower(cloud.context, api.feed.watcher).run()))
        return cloud

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _becomes(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.02)


@pytest.fixture
def becomes() -> Any:
    """Waits until a condition, or what it gives when awaited, is true; what that was."""
    return _becomes
