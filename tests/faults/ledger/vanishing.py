"""Clients that vanish in the middle of what they do."""

import asyncio
import random
import socket
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any

from tests.faults.ledger.accounts import Account
from tests.faults.ledger.load import OCTETS, Load

UPLOADER = """
import socket, sys, time
port, image, announced, sent = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
connection = socket.create_connection(("127.0.0.1", port), timeout=30)
connection.sendall((f"PUT /v2/images/{image}/file HTTP/1.1\\r\\nHost: calotype\\r\\n"
    "Content-Type: application/octet-stream\\r\\n"
    f"Content-Length: {announced}\\r\\n\\r\\n").encode())
connection.sendall(b"x" * sent)
print("sent", flush=True)
time.sleep(600)
"""
SIZE_BYTES = 2 << 20


async def vanish(load: Load, rng: random.Random) -> None:
    """One client that creates an image, begins to send its data, and is gone."""
    account = await load.create()
    if account is None:
        return
    end = rng.choice((_reset, _reset, _closed, _killed))
    await end(load, account, rng)


async def _reset(load: Load, account: Account, rng: random.Random) -> None:
    """The connection is cut with RST."""
    await _broken_off(load, account, rng, reset=True)


async def _closed(load: Load, account: Account, rng: random.Random) -> None:
    """The connection is closed in mid-body, with FIN."""
    await _broken_off(load, account, rng, reset=False)


async def _broken_off(load: Load, account: Account, rng: random.Random, *, reset: bool) -> None:
    connections: list[asyncio.StreamWriter] = []
    content = load.content(rng.randrange(1, SIZE_BYTES))

    async def body() -> AsyncIterator[bytes]:
        yield content
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        if reset:
            raw: socket.socket = connections[0].get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connections[0].transport.abort()

    # Whatever comes back: less was sent than announced, so there never is data.
    options: dict[str, Any] = {"size_bytes": SIZE_BYTES, "content_type": OCTETS}
    await load.command(
        account, "broken upload", "PUT", f"/{account.image_id}/file", {}, body(),
        connected=connections.append, **options,
    )  # fmt: skip
    account.possible = account.possible[:1]


async def _killed(load: Load, account: Account, rng: random.Random) -> None:
    """The client's process is killed."""
    sent = rng.randrange(1, SIZE_BYTES)
    arguments = [str(load.port()), account.image_id, str(SIZE_BYTES), str(sent)]
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", UPLOADER, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert client.stdout is not None
        await client.stdout.readline()
        await asyncio.sleep(rng.uniform(0.0, 0.5))
    finally:
        if client.returncode is None:
            client.kill()
        await client.wait()
