"""One request as JSON: which of our files it runs through, how deep and how often.

A program of its own, because a thread can only be watched from its beginning: those of pools that
other tests have started would not be seen.
"""

import asyncio
import inspect
import json
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from calotype.http.routes import application
from calotype.ops.settings.settings import Settings, load_settings
from calotype.ops.wiring import composition
from calotype.ops.wiring.webhooks import deliverer_of

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("commands", "projections", "stores", "http", "ops")
PARTS = ("<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>")
GENERATORS = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
FIRST_INSTRUCTIONS = 8
"""Bytes of code before the first line of a coroutine."""
DATA = b"x" * 3_000_000


class Watch:
    """Notes every call of ours in every thread while it is on."""

    def __init__(self) -> None:
        self.on = False
        self._lock = threading.Lock()
        self._own: dict[str, str | None] = {}
        self.forget()

    def forget(self) -> None:
        """Begins from nothing."""
        self.calls: Counter[str] = Counter()
        self.threads: set[str] = set()
        self.deepest: list[str] = []

    def __enter__(self) -> None:
        self.on = True

    def __exit__(self, *error: object) -> None:
        self.on = False

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if not self.on or event != "call":
            return
        file = self._file(frame)
        if file is None or _goes_on(frame):
            return
        stack = []
        outer = frame
        while outer is not None:
            if own := self._file(outer):
                stack.append(f"{own}:{outer.f_code.co_name}")
            outer = outer.f_back
        with self._lock:
            self.calls[f"{file}:{frame.f_code.co_name}"] += 1
            self.threads.add(threading.current_thread().name)
            if len(stack) > len(self.deepest):
                self.deepest = stack[::-1]

    def _file(self, frame: Any) -> str | None:
        """Where a function of ours stands; None for others, and for parts of a function."""
        if frame.f_code.co_name in PARTS:
            return None
        name = frame.f_code.co_filename
        if name not in self._own:
            path = Path(name)
            ours = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS
            self._own[name] = str(path.relative_to(ROOT)) if ours else None
        return self._own[name]


def _goes_on(frame: Any) -> bool:
    """Whether it is a coroutine or generator after a pause, which is not one more call."""
    return bool(frame.f_code.co_flags & GENERATORS) and frame.f_lasti > FIRST_INSTRUCTIONS


Way = Callable[[TestClient, Watch], Awaitable[None]]


async def _image(client: TestClient) -> str:
    """The path of a new image."""
    body = {"name": "a", "disk_format": "raw", "container_format": "bare"}
    image = await (await client.post("/v2/images", json=body)).json()
    await client.get(f"/v2/images/{image['id']}")
    await asyncio.sleep(0.1)  # The writer's thread has a little to do after it has answered.
    return f"/v2/images/{image['id']}"


async def upload(client: TestClient, watch: Watch) -> None:
    path = await _image(client)
    with watch:
        answer = await client.put(
            f"{path}/file", data=DATA, headers={"Content-Type": "application/octet-stream"}
        )
    assert answer.status == 204
    assert (await (await client.get(path)).json())["size"] == len(DATA)


async def list_images(client: TestClient, watch: Watch) -> None:
    for _ in range(3):
        await _image(client)
    with watch:
        answer = await client.get("/v2/images?limit=2&name=a&sort=created_at:desc")
        images = (await answer.json())["images"]
    assert len(images) == 2


async def patch(client: TestClient, watch: Watch) -> None:
    path = await _image(client)
    steps = [
        {"op": "replace", "path": "/name", "value": "b"},
        {"op": "add", "path": "/colour", "value": "red"},
    ]
    media = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    with watch:
        answer = await client.patch(path, data=json.dumps(steps), headers=media)
    assert answer.status == 200, await answer.text()


async def webhook(client: TestClient, watch: Watch) -> None:
    """From the request that changes an image until its event is at an endpoint, and settled."""
    arrived: asyncio.Queue[Any] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        await arrived.put(await request.json())
        return web.Response(status=204)

    receiver = web.Application()
    receiver.router.add_post("/", receive)
    async with TestServer(receiver) as server:
        answer = await client.put("/log/v1/webhooks/ci", json={"url": str(server.make_url("/"))})
        assert answer.status in (200, 201), await answer.text()
        path = await _image(client)
        await arrived.get()
        await asyncio.sleep(0.3)
        with watch:
            assert (await client.put(f"{path}/tags/t")).status == 204
            event = await arrived.get()
            await asyncio.sleep(0.3)  # The answer is settled in a transaction of its own.
        assert event["type"] == "org.calotype.image.tag_added"
        await client.delete("/log/v1/webhooks/ci")


WAYS: dict[str, Way] = {
    "upload": upload,
    "list": list_images,
    "patch": patch,
    "webhook": webhook,
}


async def _run(way: Way, folder: str, watch: Watch) -> None:
    """Runs it twice, and watches the second time: what is made once in a process is there then."""
    hooks = {"plain_http": True, "allow": ["127.0.0.0/8"]}
    settings = load_settings(None, data=folder).model_copy(
        update={"webhooks": Settings(webhooks=hooks).webhooks}
    )
    recorder = composition.recorder_of(settings)
    composition.migrate(recorder)
    context = composition.parts_of(settings, recorder)
    api = composition.api_of(settings, context)
    followers: list[asyncio.Task[None]] = []
    if way is webhook:
        deliverer = deliverer_of(settings, context, api.webhooks, lambda: api.policy)
        followers = [
            asyncio.create_task(deliverer.run()),
            asyncio.create_task(composition.audience_follower(context, api.feed.watcher).run()),
        ]
    async with TestClient(TestServer(application(api))) as client:
        await way(client, watch)
        watch.forget()
        await way(client, watch)
    for task in followers:
        task.cancel()
    await asyncio.gather(*followers, return_exceptions=True)
    await recorder.close()


def main() -> None:
    watch = Watch()
    threading.setprofile(watch)
    sys.setprofile(watch)
    asyncio.run(_run(WAYS[sys.argv[1]], sys.argv[2], watch))
    seen = {"calls": watch.calls, "deepest": watch.deepest, "threads": sorted(watch.threads)}
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
