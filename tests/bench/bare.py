"""The unit "bare": an aiohttp application with one handler that answers recorded bytes.

Run as a module it listens on a free port, and reads the answer to give from standard input, one
JSON object a line with `status`, `headers` and `body` (base64). Its CPU for each request is what
aiohttp alone costs on this machine at this moment.
"""

import asyncio
import base64
import json
import sys
from typing import Any

import uvloop
from aiohttp import web


class _Answer:
    def __init__(self) -> None:
        self.status = 503
        self.headers: dict[str, str] = {}
        self.body = b""

    def set(self, message: dict[str, Any]) -> None:
        self.status = message["status"]
        self.headers = message["headers"]
        self.body = base64.b64decode(message["body"])


async def _serve() -> None:
    answer = _Answer()

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=75)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    port = runner.addresses[0][1]
    lines = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin.buffer
    )
    while line := await lines.readline():
        answer.set(json.loads(line))
        sys.stdout.write(json.dumps({"port": port}) + "\n")
        sys.stdout.flush()
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(_serve())
