"""Who may come in: names and passwords of an htpasswd file."""

import asyncio
import base64
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from calotype.http.identity import basic
from calotype.ops.settings import file_watching as files
from calotype.ops.settings.htpasswd import watch_logins
from calotype.ops.settings.identity import HttpBasic

ALICE = "alice:$2y$04$R/0ZCotj577tdBiudM5kbuD3Pc39GKIYxuDEjMFKa.V9RKL55eigC"
"""As `htpasswd -nbB -C 4 alice 'correct horse'` has written it."""


@pytest.fixture
def log_url(tmp_path: Path) -> str:
    """These stories are about callers and not about the log: one kind is enough."""
    return f"sqlite:///{tmp_path / 'log.sqlite'}"


def line(name: str, password: str, cost: int = 4) -> str:
    """A line of the file, as Python programs write it."""
    return f"{name}:{bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost)).decode()}"


@pytest.fixture
def start(open_cloud: Any, tmp_path: Path) -> Any:
    """Starts an application whose users are these lines, with further settings."""

    async def start(*lines: str, **settings: Any) -> Any:
        file = tmp_path / "htpasswd"
        file.write_text("\n".join(lines))
        table = {"file": str(file), **settings}
        return await open_cloud(identity={"kind": "http_basic"}, http_basic=table)

    return start


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The hashes that passwords are checked against, one for each check that is made."""
    made: list[bytes] = []
    check = bcrypt.checkpw

    def counting(password: bytes, hashed: bytes) -> bool:
        made.append(hashed)
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", counting)
    return made


def login(name: str, password: str) -> dict[str, str]:
    pair = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


async def status(cloud: Any, headers: dict[str, str], path: str = "/v2/images") -> int:
    return (await cloud.admin("GET", path, **headers)).status


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - it is for others to say so
            await asyncio.sleep(0.01)


async def test_a_password_says_who_acts_in_which_project_with_which_roles(start):
    users = {
        "rita": {"roles": ["Reader"]},
        "root": {"project": "operators", "roles": ["admin"]},
        "bob": {"project": "blue"},
    }
    names = ("rita", "root", "bob")
    cloud = await start(
        "# our users", ALICE, "", *(line(name, name) for name in names), project="red", users=users
    )
    alice, root = login("alice", "correct horse"), login("root", "root")
    made = await cloud.admin("POST", "/v2/images", json={"name": "mine"}, **alice)
    assert (made.status, made.json["owner"]) == (201, "red")
    path = f"/v2/images/{made.json['id']}"
    assert await status(cloud, login("rita", "rita"), path) == 200
    assert (await cloud.admin("DELETE", path, **login("rita", "rita"))).status == 403
    assert await status(cloud, login("bob", "bob"), path) == 404
    history = await cloud.admin("GET", f"/log/v1/images/{made.json['id']}/history", **root)
    actor = history.json["changes"][0]["actor"]
    assert actor == {"user": "alice", "project": "red", "roles": ["member", "reader"]}


async def test_without_the_right_password_only_versions_and_health_are_told(start):
    cloud = await start(ALICE)
    believed = {"X_User_Id": "somebody", "X_Project_Id": "default", "X_Roles": "admin"}
    for headers in (
        {},
        believed,
        login("alice", "wrong"),
        login("alice", ""),
        login("", "correct horse"),
        login("nobody", "correct horse"),
        login("Alice", "correct horse"),
        {"Authorization": "Basic"},
        {"Authorization": "Basic nonsense"},
        {"Authorization": "Basic \u00f6\u00f6"},
        {"Authorization": "Basic " + base64.b64encode(b"no colon").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
        {"Authorization": login("alice", "correct horse")["Authorization"].replace("B", "X", 1)},
    ):
        for path in ("/v2/images", "/v2.9/images", "/v2/nothing", "/v2", "/v2/schemas/image"):
            answer = await cloud.admin("GET", path, **headers)
            assert answer.status == 401, (path, headers)
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="calotype", charset="UTF-8"'
    problem = await cloud.admin("GET", "/log/v1/events")
    assert problem.status == 401
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert await status(cloud, {}, "/") == 300
    assert await status(cloud, {}, "/versions") == 200
    assert await status(cloud, {}, "/healthcheck") == 200


async def test_a_hundred_requests_with_a_new_password_are_one_check(start, counted):
    cloud = await start(ALICE)
    right, wrong = login("alice", "correct horse"), login("alice", "incorrect")
    assert await asyncio.gather(*(status(cloud, right) for _ in range(100))) == [200] * 100
    assert await status(cloud, right) == 200
    assert len(counted) == 1
    assert await asyncio.gather(*(status(cloud, wrong) for _ in range(50))) == [401] * 50
    assert len(counted) == 2


async def test_a_stranger_takes_as_much_work_as_a_wrong_password(start, counted):
    cloud = await start(line("alice", "one", cost=4), line("bob", "two", cost=6))
    for number in range(20):
        assert await status(cloud, login(f"stranger{number}", "guess")) == 401
    # Both hashes serve as the measure, and one name always has the same.
    assert len(counted) == 20
    assert len(set(counted)) == 2
    assert await status(cloud, login("stranger0", "another guess")) == 401
    assert counted[20] == counted[0]


async def test_a_flood_of_guesses_is_turned_away_and_who_is_known_goes_on(start, monkeypatch):
    cloud = await start(ALICE, line("bob", "bob"))
    assert await status(cloud, login("alice", "correct horse")) == 200
    go_on = threading.Event()
    check = bcrypt.checkpw

    def slow(password: bytes, hashed: bytes) -> bool:
        assert go_on.wait(60)
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", slow)
    room = basic.CHECKS_AT_ONCE + basic.CHECKS_WAITING
    guesses = [
        asyncio.create_task(status(cloud, login("alice", f"guess {number}")))
        for number in range(room)
    ]
    await eventually(lambda: cloud.api.identity._under_way == room)
    turned_away = await cloud.admin("GET", "/v2/images", **login("bob", "bob"))
    assert (turned_away.status, turned_away.headers["Retry-After"]) == (503, "2")
    assert await status(cloud, login("alice", "correct horse")) == 200
    go_on.set()
    assert await asyncio.gather(*guesses) == [401] * room
    assert await status(cloud, login("bob", "bob")) == 200


async def test_passwords_are_checked_beside_the_event_loop(start):
    cloud = await start(line("alice", "slow", cost=12))
    checking = asyncio.create_task(status(cloud, login("alice", "slow")))
    answers = 0
    while not checking.done():
        assert await status(cloud, {}, "/versions") == 200
        answers += 1
    assert await checking == 200
    # One check takes as long as many answers; had it blocked the loop there would be one or two.
    assert answers > 5


async def test_of_a_long_password_counts_what_bcrypt_looks_at(start):
    long = "x" * 72
    cloud = await start(line("alice", long + "cut off by htpasswd"))
    assert await status(cloud, login("alice", long + "cut off by htpasswd")) == 200
    assert await status(cloud, login("alice", "x" * 71)) == 401


async def test_a_changed_file_is_used_and_a_broken_one_is_not(start, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.02)
    cloud = await start(ALICE, line("bob", "old"))
    file = tmp_path / "htpasswd"
    old, new = login("bob", "old"), login("bob", "new")
    used: list[Any] = []

    def use(logins: Any) -> None:
        cloud.api.identity.use(logins)
        used.append(logins)

    watching = asyncio.create_task(watch_logins(HttpBasic(file=str(file)), use))
    await eventually(lambda: len(used) == 1)
    assert (await status(cloud, old), await status(cloud, new)) == (200, 401)
    file.write_text(f"{ALICE}\n{line('bob', 'new')}\n")
    await eventually(lambda: len(used) == 2)
    # At once: neither the right password nor the wrong one is remembered.
    assert (await status(cloud, old), await status(cloud, new)) == (401, 200)
    file.write_text("bob:secret\n")
    problem = "line 1: the hash of 'bob' is not bcrypt"
    await eventually(lambda: problem in capfd.readouterr().out)
    assert await status(cloud, new) == 200
    file.write_text(f"{ALICE}\n")
    await eventually(lambda: len(used) == 3)
    assert await status(cloud, new) == 401
    watching.cancel()
