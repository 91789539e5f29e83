"""Who may do what: every question of personas.txt is asked, and every route stands there."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from calotype.http.routes import ROUTES
from calotype.ops.wiring.composition import versions_follower
from calotype.projections.seal import signed_note
from calotype.projections.seal.seal import sealer

TABLE = Path(__file__).with_name("personas.txt")

PROJECTS = {
    "anonymous": "red",
    "nobody": "red",
    "reader": "red",
    "member": "red",
    "manager": "red",
    "project-admin": "red",
    "admin": "cloud",
    "service": "services",
    "auditor": "audit",
}
"""The project of each persona; images of nobody who says who it is are those of red."""
ROLES = {"nobody": "", "project-admin": "admin"}
"""Where the role is not called as the persona."""

OTHERS, ANOTHER = "blue", "green"
"""The project of others' images, and one more, which all shared images are offered to."""


@dataclass(frozen=True)
class Kind:
    """What an image of a column is like."""

    owner: str | None
    fields: dict[str, Any]
    offered: str = ""
    """The persona's project's answer to the offer; empty: it was not offered."""
    deactivated: bool = False


OWN = "own"
KINDS = (
    Kind(OWN, {"visibility": "private"}),
    Kind(OWN, {"visibility": "shared"}),
    Kind(OWN, {"visibility": "public"}),
    Kind(OWN, {"visibility": "community"}),
    Kind(OWN, {"visibility": "private", "protected": True}),
    Kind(OWN, {"visibility": "private"}, deactivated=True),
    Kind(OTHERS, {"visibility": "private"}),
    Kind(OTHERS, {"visibility": "shared"}),
    Kind(OTHERS, {"visibility": "shared"}, offered="pending"),
    Kind(OTHERS, {"visibility": "shared"}, offered="accepted"),
    Kind(OTHERS, {"visibility": "shared"}, offered="rejected"),
    Kind(OTHERS, {"visibility": "public"}),
    Kind(OTHERS, {"visibility": "community"}),
    Kind(OTHERS, {"visibility": "public"}, deactivated=True),
    Kind(None, {"visibility": "shared"}),
)
"""The columns of the table."""

PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
DATA = {"headers": {"Content-Type": "application/octet-stream"}, "data": b"0123456789"}


def _patch(path: str, value: Any, op: str = "replace") -> dict[str, Any]:
    return {"headers": PATCH, "json": [{"op": op, "path": path, "value": value}]}


SENT: dict[str, dict[str, Any]] = {
    "PATCH /v2/images/{image_id} : name": _patch("/name", "other"),
    "PATCH /v2/images/{image_id} : visibility community": _patch("/visibility", "community"),
    "PATCH /v2/images/{image_id} : visibility public": _patch("/visibility", "public"),
    "PATCH /v2/images/{image_id} : replace the owner": _patch("/owner", "yellow"),
    "PATCH /v2/images/{image_id} : add the owner": _patch("/owner", "yellow", "add"),
    "PATCH /v2/images/{image_id} : a place of its data": _patch(
        "/locations/-", {"url": "https://example.org/x", "metadata": {}}, "add"
    ),
    "PUT /v2/images/{image_id}/file : of a queued image": DATA,
    "PUT /v2/images/{image_id}/file : of one that has data": DATA,
    "POST /v2/images/{image_id}/members": {"json": {"member": "yellow"}},
    "PUT /v2/images/{image_id}/members/{member} : the caller's project": {
        "json": {"status": "accepted"}
    },
    "PUT /v2/images/{image_id}/members/{member} : another project": {
        "json": {"status": "rejected"}
    },
    "POST /log/v1/images/{image_id}/purge": {"json": {"reason": "asked for"}},
    "POST /log/v1/consumers/{name}/seek": {"json": {"position": "beginning"}},
    "PUT /log/v1/webhooks/{name}": {"json": {"url": "https://example.org/hook"}},
    "POST /v2/images": {"json": {}},
    "POST /v2/images : community": {"json": {"visibility": "community"}},
    "POST /v2/images : public": {"json": {"visibility": "public"}},
    "POST /v2/images : of another project": {"json": {"owner": "yellow"}},
}
"""What the requests of a block carry, where they carry anything."""

QUERIES = {
    "/log/v1/images/{image_id}": "as_of={now}",
    "/log/v1/images/{image_id}/diff": "from={now}&to={now}",
    "/log/v1/images": "as_of={now}",
    "/log/v1/proof/inclusion": "position={now}",
    "/log/v1/proof/consistency": "from=1&to=2",
}
"""Parameters without which a route answers nobody."""

NAMES = {"name": "image", "type": "image.created", "level": "0", "index": "000.p/1", "rest": "any"}
"""What stands for context of paths."""


@dataclass
class Block:
    """One call of the table, and its answers by persona: one for each column, or one for all."""

    title: str
    answers: dict[str, list[str]] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return self.title.split()[0]

    @property
    def path(self) -> str:
        return self.title.split()[1].partition("?")[0]

    @property
    def query(self) -> str:
        return self.title.split()[1].partition("?")[2] or QUERIES.get(self.path, "")

    @property
    def lists(self) -> bool:
        return self.title.endswith(" : lists")

    @property
    def state(self) -> str:
        """What has happened to the images before."""
        if self.path.endswith(("/restore", "/purge", "/restorable")):
            return "deleted"
        return "queued" if self.title.endswith(": of a queued image") else "active"


def read_table() -> list[Block]:
    blocks: list[Block] = []
    for line in TABLE.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if not line.startswith(" "):
            blocks.append(Block(line))
            continue
        words = line.replace("|", " ").split()
        personas = [word for word in words if word in PROJECTS]
        cells = words[len(personas) :]
        assert len(cells) in (1, len(KINDS)), line
        for persona in personas:
            assert persona not in blocks[-1].answers, line
            blocks[-1].answers[persona] = cells
    return blocks


BLOCKS = read_table()


def test_every_route_stands_in_the_table_for_every_persona() -> None:
    routes = {
        ("GET" if method == "*" else method, re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path))
        for method, path, _ in ROUTES
    }
    assert {(block.method, block.path) for block in BLOCKS} == routes
    assert [title for title, count in Counter(b.title for b in BLOCKS).items() if count > 1] == []
    assert SENT.keys() <= {block.title for block in BLOCKS}
    for block in BLOCKS:
        assert block.answers.keys() == PROJECTS.keys(), block.title


@dataclass
class Questions:
    """Asks what the table asks, and remembers where the answer is another."""

    cloud: Any
    now: str = ""
    wrong: list[str] = field(default_factory=list)
    asked: int = 0
    _kept: dict[tuple[str, int, str], asyncio.Task[str]] = field(default_factory=dict)

    def caller(self, persona: str) -> Any:
        if persona == "anonymous":
            return self.cloud.admin
        return self.cloud.caller(PROJECTS[persona], ROLES.get(persona, persona), persona)

    async def image(self, project: str, kind: Kind, state: str) -> str:
        """A new image of a column, for personas of a project; its id."""
        owner = project if kind.owner == OWN else kind.owner
        operator = self.cloud.caller(owner, "admin", "operator")
        made = await operator.create_bare(tags=["kept"], **kind.fields)
        path = f"/v2/images/{made['id']}"
        if state != "queued":
            assert (await operator.upload(made["id"], b"0123456789")).status == 204
        if kind.fields["visibility"] == "shared":
            await operator.share(made["id"], ANOTHER)
            if kind.offered:
                await operator.share(made["id"], project, kind.offered)
        if kind.deactivated:
            assert (await operator("POST", f"{path}/actions/deactivate")).status == 204
        if state == "deleted":
            assert (await operator("DELETE", path)).status == 204
        return str(made["id"])

    def kept(self, project: str, column: int, state: str) -> asyncio.Task[str]:
        """The image of a column that all share who do not change it."""
        key = (project, column, state)
        if key not in self._kept:
            making = self.image(project, KINDS[column], state)
            self._kept[key] = asyncio.create_task(making)
        return self._kept[key]

    async def ask(self, block: Block) -> None:
        """All questions of a block, at once."""
        # One image after the other would take a commit for each of their steps.
        questions = [
            self._lists(block, persona, cells)
            if block.lists
            else self._answers(block, persona, column, cell)
            for persona, cells in block.answers.items()
            for column, cell in enumerate(cells if not block.lists else [""])
            if cell != "-"
        ]
        await asyncio.gather(*questions)

    async def _answers(self, block: Block, persona: str, column: int, expected: str) -> None:
        """One cell, or the one that stands for all of them."""
        alone = len(block.answers[persona]) == 1
        for number in range(len(KINDS)) if alone and "{image_id}" in block.path else [column]:
            if not (alone and self._impossible(block, number)):
                status = await self._status(block, persona, number, expected)
                if status != expected:
                    self._note(block, persona, number, status, expected)

    def _impossible(self, block: Block, column: int) -> bool:
        """Whether there is no image of that kind in the state that the block needs."""
        return any(len(cells) > 1 and cells[column] == "-" for cells in block.answers.values())

    async def _status(self, block: Block, persona: str, column: int, expected: str) -> str:
        path, project = block.path, PROJECTS[persona]
        if "{image_id}" in path:
            if block.method == "GET" or expected >= "400":
                image = await self.kept(project, column, block.state)
            else:
                image = await self.image(project, KINDS[column], block.state)
            path = path.replace("{image_id}", image)
        member = ANOTHER if block.title.endswith(": another project") else project
        names = {**NAMES, "member": member, "tag": "kept", "now": self.now, "position": self.now}
        if block.method == "PUT" and block.path.startswith("/log/"):
            names["name"] = persona  # Each makes one of its own.
        path = f"{path}?{block.query}" if block.query else path
        sent = dict(SENT.get(block.title, {}))
        headers = {name.replace("-", "_"): text for name, text in sent.pop("headers", {}).items()}
        caller = self.caller(persona)
        answer = await caller(block.method, path.format(**names), **sent, **headers)
        self.asked += 1
        return str(answer.status)

    async def _lists(self, block: Block, persona: str, cells: list[str]) -> None:
        """Which of the images a list shows, following its links to the end."""
        images = {
            await self.kept(PROJECTS[persona], column, block.state): column
            for column in range(len(KINDS))
            if not self._impossible(block, column)
        }
        caller, shown = self.caller(persona), set()
        path = f"{block.path}?{block.query or 'limit=100'}".format(now=self.now)
        while path:
            answer = await caller("GET", path)
            self.asked += 1
            if answer.status != 200 or len(cells) == 1:
                if cells != [str(answer.status)]:
                    self._note(block, persona, 0, str(answer.status), cells[0])
                return
            shown |= {image["id"] for image in answer.json["images"]}
            path = answer.json.get("next")
        for image, column in images.items():
            found = "yes" if image in shown else "no"
            if found != cells[column]:
                self._note(block, persona, column, found, cells[column])

    def _note(self, block: Block, persona: str, column: int, found: str, expected: str) -> None:
        about_images = block.lists or "{image_id}" in block.path
        image = f", column {column + 1} ({KINDS[column]})" if about_images else ""
        self.wrong.append(f"{block.title}: {persona}{image}: {found} and not {expected}")

    async def keep_all(self) -> None:
        """Makes all images that are shared, so that the past has them too."""
        for project in set(PROJECTS.values()):
            await asyncio.gather(
                *(self.kept(project, column, "active") for column in range(len(KINDS)))
            )


@pytest.fixture
def log_url(tmp_path: Path) -> str:
    """Rules are asked in memory, so one kind of log is enough."""
    return f"sqlite:///{tmp_path / 'log.sqlite'}"


@pytest.fixture
async def questions(open_cloud: Any) -> AsyncIterator[Questions]:
    """An application whose images are there, whose past is kept and whose log is sealed."""
    cloud = await open_cloud(identity={"kind": "headers"}, deletion={"retention_seconds": 3600})
    questions = Questions(cloud)
    await questions.keep_all()
    following = asyncio.create_task(versions_follower(cloud.context).run())
    recorder = cloud.context.log.recorder
    await sealer(recorder, signed_note.new_signer("cloud.example/images"), "test").catch_up()
    auditor = questions.caller("auditor")
    head = recorder.max_notification_id()
    questions.now = (await cloud.api.feed.positions()).encode(head)
    past = f"/log/v1/images?as_of={questions.now}&limit=1"
    async with asyncio.timeout(60):
        while (await auditor("GET", past)).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    yield questions
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_every_answer_is_the_one_in_the_table(questions: Questions) -> None:
    with capture_logs():  # Thousands of refusals, each a line.
        for block in BLOCKS:
            await questions.ask(block)
    assert not questions.wrong, "\n".join(questions.wrong)
    assert questions.asked > 3900
