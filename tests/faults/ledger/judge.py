"""Looks at a service after a fault as its users would, and into its log and its store.

Nothing is repaired or reconciled before it looks. What it finds is a column of the ledger and a
sentence.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import calotype.commands.images.image  # noqa: F401 - so that the mapper knows its events
from calotype.stores.images.keys import MARKER
from calotype.stores.log.errors import LogUnavailable
from calotype.stores.log.log import event_mapper
from calotype.stores.log.opening import open_log
from tests.faults.ledger.accounts import Account, Books, State, sha512
from tests.faults.ledger.stand import Stand
from tests.faults.ledger.wire import Answer, ask

TRIES = 12
AWAY_ENOUGH = 4
"""After so many calls without an answer the judge asks no more."""
TRY_AGAIN_SECONDS = 0.25
AT_ONCE = 4
PAGE = 1000

Finding = tuple[str, str]


class Judge:
    """Judges one round of a stand; `findings` holds what is wrong."""

    def __init__(self, stand: Stand, books: Books) -> None:
        self.findings: list[Finding] = []
        self._stand = stand
        self._books = books
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._asked = 0

    async def judge(self) -> list[Finding]:
        """Compares what was acknowledged with what is there now."""
        await asyncio.gather(*(self._account(account) for account in self._books.accounts))
        try:
            self.findings += await asyncio.to_thread(self._log)
        except LogUnavailable as error:
            self.findings.append(("away", f"the log cannot be read: {error}"))
        await self._store()
        self.findings += [("refused_healthy", text) for text in self._books.refused_healthy]
        self.findings += [("wrong_bytes", text) for text in self._books.wrong_bytes]
        return self.findings

    async def look_again(self) -> list[Finding]:
        """Whether all images of earlier rounds are as they were, and no other file has come."""
        await asyncio.gather(
            *(self._image_again(image_id, state) for image_id, state in self._stand.images.items())
        )
        self._stand.files.clear()
        await self._store()
        return self.findings

    # ---- images ----

    async def _account(self, account: Account) -> None:
        async with self._turns:
            shown = await self._show(account.image_id)
            if shown is None:
                return
            seen, status = shown
            self._stand.images[account.image_id] = seen
            if status == "saving":
                self.findings.append(("stuck", f"{account.image_id} is saving"))
            elif seen not in account.possible:
                wanted = " or ".join(map(str, account.possible))
                text = f"{account.image_id} is {status}, {seen}; acknowledged: {wanted}"
                self.findings.append(("lost", text))
            if seen.data is not None:
                await self._data(account.image_id, seen.data, account.content)

    async def _image_again(self, image_id: str, state: State) -> None:
        async with self._turns:
            shown = await self._show(image_id)
            if shown is not None and shown[0] != state:
                self.findings.append(("lost", f"{image_id} was {state}, is {shown[0]}"))

    async def _show(self, image_id: str) -> tuple[State, str] | None:
        answer = await self._get(f"/v2/images/{image_id}")
        if answer is None:
            return None
        if answer.status != 200:
            return State(), "gone"
        image: dict[str, Any] = answer.json
        members = await self._get(f"/v2/images/{image_id}/members")
        if members is None:
            return None
        if members.status != 200:
            text = f"{image_id} is shown, but its members are {members.status}"
            self.findings.append(("lost", text))
            return None
        state = State(
            exists=True,
            name=image["name"],
            tags=frozenset(image["tags"]),
            members=frozenset(row["member_id"] for row in members.json["members"]),
            data=image["os_hash_value"] if image["status"] == "active" else None,
        )
        return state, image["status"]

    async def _data(self, image_id: str, shown: str, content: bytes | None) -> None:
        answer = await self._get(f"/v2/images/{image_id}/file")
        if answer is None:
            return
        if answer.status != 200:
            self.findings.append(("wrong_bytes", f"{image_id}: download is {answer.status}"))
        elif answer.body != content or sha512(answer.body) != shown:
            self.findings.append(("wrong_bytes", f"{image_id}: {len(answer.body)} other bytes"))

    async def _get(self, path: str) -> Answer | None:
        ports = self._stand.ports
        for _ in range(TRIES):
            if len(self.findings) >= AWAY_ENOUGH and self.findings[-1][0] == "away":
                return None
            self._asked += 1
            answer = await ask(ports[self._asked % len(ports)], "GET", path)
            if not answer.is_unknown:
                return answer
            await asyncio.sleep(TRY_AGAIN_SECONDS)
        self.findings.append(("away", f"GET {path} is {answer.status}: {answer.body[:200]!r}"))
        return None

    # ---- the log ----

    def _log(self) -> list[Finding]:
        """Positions without gap, each command in it once, each acknowledged one at all."""
        found: list[Finding] = []
        seen: Counter[tuple[str, str]] = Counter()
        mapper = event_mapper()
        recorder = open_log(self._stand.log_url)
        try:
            at = self._stand.position
            while page := recorder.select_notifications(at + 1, PAGE):
                for notification in page:
                    at += 1
                    if notification.id != at:
                        found.append(("gaps", f"position {at} is missing"))
                        at = notification.id
                    event: Any = mapper.to_domain_event(notification)
                    seen[getattr(event, "request_id", ""), notification.topic] += 1
        finally:
            recorder.close_now()
        self._stand.position = at
        found += [("doubled", f"{n} × {key}") for key, n in seen.items() if n > 1 and key[0]]
        written = {request_id for request_id, _ in seen}
        for request_id, what in self._books.requests.items():
            if request_id not in written:
                found.append(("lost", f"no event of {request_id}, {what}"))
        return found

    # ---- the store ----

    async def _store(self) -> None:
        """Each file is the data of an active image; nothing else lies there."""
        folder = self._stand.data / "images"
        files = set(_names(folder)) - self._stand.files - {MARKER}
        self._stand.files |= files
        owners = Counter(name[:36] for name in files)
        for name in sorted(files - self._stand.strays):
            image = self._stand.images.get(name[:36], State())
            if image.data is None:
                self._left_behind(name, "no active image")
            elif owners[name[:36]] > 1:
                owners[name[:36]] -= 1
                self._left_behind(name, "one of several files")

    def _left_behind(self, name: str, why: str) -> None:
        self._stand.strays.add(name)
        self.findings.append(("left_behind", f"{name}: {why}"))


def _names(folder: Any) -> Iterable[str]:
    for path, _, files in os.walk(folder):
        yield from (os.path.relpath(os.path.join(path, name), folder) for name in files)
