"""The clients of one round: they create, change, upload, download and delete until told to stop."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import orjson

from tests.faults.ledger.accounts import Account, Books, sha512
from tests.faults.ledger.wire import Answer, ask

METADATA_CLIENTS = 2
UPLOAD_CLIENTS = 5
PAUSE_SECONDS = (0.02, 0.15)
AWAY_SECONDS = (0.2, 1.0)
"""How long a client waits before it tries to create another image where one could not be."""
PATCH = "application/openstack-images-v2.1-json-patch"
OCTETS = "application/octet-stream"
NOISE = random.Random(0).randbytes(5 << 20)
"""What all data is cut from."""


class Load:
    """Clients of the services on `ports`; what they do is in `books`."""

    def __init__(self, ports: list[int], rng: random.Random, upload_seconds: float) -> None:
        self.books = Books()
        self.frozen_ports: set[int] = set()
        """Clients' ports of connections to a process that stands still longer than a lease."""
        self._ports = ports
        self._rng = rng
        self._upload_seconds = upload_seconds
        self._stopping = asyncio.Event()
        self._clients: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Starts the clients."""
        for _ in range(METADATA_CLIENTS):
            self.add(self._again_and_again(self._metadata))
        for _ in range(UPLOAD_CLIENTS):
            self.add(self._again_and_again(self._upload))

    def add(self, client: Coroutine[Any, Any, None]) -> None:
        """Starts one more client."""
        task = asyncio.create_task(client)
        self._clients.add(task)

    async def end(self, patience_seconds: float) -> None:
        """Begins nothing new, and breaks off what does not end in time."""
        self._stopping.set()
        _, left = await asyncio.wait(self._clients, timeout=patience_seconds)
        for task in left:
            task.cancel()
        results = await asyncio.gather(*self._clients, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result  # The harness is wrong, not the service.

    async def _again_and_again(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while not self._stopping.is_set():
            await work()
            await self.pause()

    def port(self) -> int:
        """Of one of the services."""
        return self._rng.choice(self._ports)

    async def pause(self) -> None:
        await asyncio.sleep(self._rng.uniform(*PAUSE_SECONDS))

    async def command(
        self, account: Account, what: str, method: str, path: str, changes: dict[str, Any],
        body: Any = None, *, port: int | None = None, **options: Any,
    ) -> bool:  # fmt: skip
        """One command on an image; whether it was done for sure. Its account says what may be."""
        before = account.possible
        account.note(_NOTHING_KNOWN, **changes)  # For the case that this client is broken off.
        self.books.unknown += 1
        sent = body if body is None or hasattr(body, "__aiter__") else orjson.dumps(body)
        url = f"/v2/images{path}"
        answer = await ask(port or self.port(), method, url, sent, **options)
        account.possible = before
        self.books.unknown -= 1
        self.books.count(what, account, answer)
        if answer.status == 410 and "data" in changes:
            healthy = answer.local_port not in self.frozen_ports
            into = self.books.refused_healthy if healthy else self.books.given_up
            into.append(f"{account.image_id}: {answer.body[:200]!r}")
        return account.note(answer, **changes)

    async def create(self, **options: Any) -> Account | None:
        """A new image, or None where it is not known to be there."""
        account = Account(str(uuid.UUID(bytes=self._rng.randbytes(16), version=4)))
        self.books.accounts.append(account)
        name = f"image {self._rng.getrandbits(32):08x}"
        body = {
            "id": account.image_id,
            "name": name,
            "disk_format": "raw",
            "container_format": "bare",
            "tags": ["first"],
            "colour": "blue",
        }
        changes = {"exists": True, "name": name, "tags": frozenset(["first"])}
        done = await self.command(account, "create", "POST", "", changes, body, **options)
        if not done:
            await asyncio.sleep(self._rng.uniform(*AWAY_SECONDS))
        return account if done else None

    async def _metadata(self) -> None:
        account = await self.create()
        changes = (self._patch, self._tag, self._untag, self._share, self._delete)
        while account is not None and account.state.exists and not self._stopping.is_set():
            await self.pause()
            change = self._rng.choices(changes, (4, 3, 1, 2, 1))[0]
            if not await change(account):
                break

    async def _patch(self, account: Account) -> bool:
        name = f"image {self._rng.getrandbits(32):08x}"
        body = [
            {"op": "replace", "path": "/name", "value": name},
            {"op": "add", "path": "/size_of_shoes", "value": name},
        ]
        path = f"/{account.image_id}"
        return await self.command(
            account, "patch", "PATCH", path, {"name": name}, body, content_type=PATCH
        )

    async def _tag(self, account: Account) -> bool:
        tag = f"tag{self._rng.getrandbits(32):08x}"
        changes = {"tags": account.state.tags | {tag}}
        return await self.command(account, "tag", "PUT", f"/{account.image_id}/tags/{tag}", changes)

    async def _untag(self, account: Account) -> bool:
        if not account.state.tags:
            return True
        tag = min(account.state.tags)
        changes = {"tags": account.state.tags - {tag}}
        return await self.command(
            account, "untag", "DELETE", f"/{account.image_id}/tags/{tag}", changes
        )

    async def _share(self, account: Account) -> bool:
        member = f"project{self._rng.getrandbits(32):08x}"
        changes = {"members": account.state.members | {member}}
        path, body = f"/{account.image_id}/members", {"member": member}
        return await self.command(account, "member", "POST", path, changes, body)

    async def _delete(self, account: Account) -> bool:
        path = f"/{account.image_id}"
        return await self.command(account, "delete", "DELETE", path, {"exists": False})

    async def _upload(self) -> None:
        account = await self.create()
        if account is None:
            return
        small = self._rng.random() < 0.3
        size = self._rng.randrange(1, 1 << 16) if small else self._rng.randrange(1 << 20, 4 << 20)
        seconds = 0.0 if small else self._rng.uniform(0.1, self._upload_seconds)
        content = account.content = self.content(size)
        done = await self.command(
            account,
            "upload",
            "PUT",
            f"/{account.image_id}/file",
            {"data": sha512(content)},
            slowly(content, seconds),
            size_bytes=self._rng.choice((None, size)),
            content_type=OCTETS,
            seconds=seconds + 2 * self._upload_seconds + 10,
        )
        if done:
            await self._download(account)
            if self._rng.random() < 0.3:
                await self._delete(account)

    async def _download(self, account: Account) -> None:
        answer = await ask(self.port(), "GET", f"/v2/images/{account.image_id}/file")
        if answer.status == 200 and answer.body != account.content:
            self.books.wrong_bytes.append(f"{account.image_id}: downloaded under load")

    def content(self, size: int) -> bytes:
        """Data of so many bytes that no other image is likely to have."""
        start = self._rng.randrange(len(NOISE) - size)
        return NOISE[start : start + size]


_NOTHING_KNOWN = Answer(0, b"", "")


async def slowly(content: bytes, seconds: float) -> AsyncIterator[bytes]:
    """The content in pieces, spread over the time."""
    pieces = max(1, min(32, round(seconds / 0.1)))
    step = -(-len(content) // pieces)
    for start in range(0, len(content), step):
        yield content[start : start + step]
        await asyncio.sleep(seconds / pieces)
