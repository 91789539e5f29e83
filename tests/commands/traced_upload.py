"""One upload, told as JSON: which of our files it runs through, how deep and how often.

A program of its own, because a thread can only be watched from its beginning: those of pools that
other tests have started would not be seen.
"""

import asyncio
import inspect
import json
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from calotype.http.routes import application
from calotype.ops.settings.settings import load_settings
from calotype.ops.wiring import composition

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
        self.calls: Counter[str] = Counter()
        self.threads: set[str] = set()
        self.deepest: list[str] = []
        self._lock = threading.Lock()
        self._own: dict[str, str | None] = {}

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
        """Where a function of ours stands; None for others, and for context of a function."""
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


async def _upload(folder: str, watch: Watch) -> None:
    settings = load_settings(None, data=folder)
    recorder = composition.recorder_of(settings)
    composition.migrate(recorder)
    context = composition.parts_of(settings, recorder)
    app = application(composition.api_of(settings, context))
    async with TestClient(TestServer(app)) as client:
        body = {"disk_format": "raw", "container_format": "bare"}
        image = await (await client.post("/v2/images", json=body)).json()
        path = f"/v2/images/{image['id']}"
        await client.get(path)
        watch.on = True
        answer = await client.put(
            f"{path}/file", data=DATA, headers={"Content-Type": "application/octet-stream"}
        )
        watch.on = False
        assert answer.status == 204
        assert (await (await client.get(path)).json())["size"] == len(DATA)
    await recorder.close()


def main() -> None:
    watch = Watch()
    threading.setprofile(watch)
    sys.setprofile(watch)
    asyncio.run(_upload(sys.argv[1], watch))
    print(
        json.dumps(
            {
                "calls": watch.calls,
                "deepest": watch.deepest,
                "threads": sorted(watch.threads),
            }
        )
    )


if __name__ == "__main__":
    main()
