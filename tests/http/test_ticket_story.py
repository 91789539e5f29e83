"""Tickets: an EventSource reads what its holder may read, once, and on every host of the log."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import bcrypt
import pytest

from calotype.commands.policy.policy import Policy
from calotype.ops.wiring.composition import audience_follower
from calotype.projections.feed import stream_tickets
from calotype.projections.feed.stream_tickets import STREAM_TICKETS, StreamTickets

TICKETS, EVENTS = "/log/v1/stream-tickets", "/log/v1/events"


@pytest.fixture
async def told(projects: Any) -> AsyncIterator[Any]:
    """A cloud of several projects whose feeds are kept."""
    following = asyncio.create_task(
        audience_follower(projects.context, projects.api.feed.watcher).run()
    )
    yield projects
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def ticket_of(caller: Any) -> str:
    answer = await caller("POST", TICKETS)
    assert answer.status == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json["expires_in"] == stream_tickets.LIFETIME_SECONDS
    return str(answer.json["ticket"])


async def first_frame(cloud: Any, ticket: str) -> bytes:
    """What a browser's EventSource reads first: it sends nothing but the URL and Accept."""
    url, headers = f"{EVENTS}?ticket={ticket}", {"Accept": "text/event-stream"}
    async with cloud.client.get(url, headers=headers) as response:
        assert response.status == 200
        async with asyncio.timeout(10):
            return await response.content.readuntil(b"}\n\n")


async def stream_status(cloud: Any, ticket: str) -> int:
    answer = await cloud.admin("GET", f"{EVENTS}?ticket={ticket}", Accept="text/event-stream")
    return answer.status


async def test_a_ticket_reads_what_its_holder_may_read_and_only_once(told: Any) -> None:
    red = told.caller("red")
    await told.caller("blue").create(name="theirs")
    mine = await red.create(name="mine")
    ticket = await ticket_of(red)
    frame = await first_frame(told, ticket)
    assert mine["id"].encode() in frame
    assert b"theirs" not in frame
    assert await stream_status(told, ticket) == 401


async def test_a_ticket_is_good_in_any_process_of_the_log(told: Any, open_cloud: Any) -> None:
    here = told
    there = await open_cloud(identity={"kind": "headers"})
    mine = await here.caller("red").create(name="mine")
    ticket = await ticket_of(here.caller("red"))
    assert mine["id"].encode() in await first_frame(there, ticket)
    assert await stream_status(here, ticket) == 401


async def test_a_ticket_opens_nothing_but_the_stream(projects: Any) -> None:
    red = projects.caller("red")
    for path in ("/v2/images", "/log/v1/restorable", EVENTS + "/"):
        ticket = await ticket_of(red)
        answer = await projects.admin("GET", f"{path}?ticket={ticket}")
        assert answer.status == 401, path
    answer = await projects.admin("GET", f"{EVENTS}?ticket={ticket}")
    assert (answer.status, answer.json["field"]) == (400, "ticket")


@pytest.mark.parametrize(
    "ticket", ["", "st_", "st_" + "x" * 43, "st_%C3%BC", "x" * 5000, "a&ticket=b"]
)
async def test_what_is_no_ticket_is_401(projects: Any, ticket: str) -> None:
    assert await stream_status(projects, ticket) == 401


async def test_a_ticket_ends_after_a_minute(projects: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = await ticket_of(projects.caller("red"))
    later = stream_tickets.time.time() + stream_tickets.LIFETIME_SECONDS + 1
    monkeypatch.setattr(stream_tickets.time, "time", lambda: later)
    assert await stream_status(projects, ticket) == 401


async def test_the_database_tells_neither_ticket_nor_credentials(projects: Any) -> None:
    ticket = await ticket_of(projects.caller("red", user="somebody"))
    rows = await projects.context.log.recorder.fetch(f"SELECT * FROM {STREAM_TICKETS.name}")
    assert len(rows) == 1
    kept = repr(rows)
    assert ticket not in kept
    assert "somebody" not in kept


async def test_unused_tickets_are_bounded_and_old_ones_forgotten(
    projects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_tickets, "MOST_OPEN", 3)
    tickets = StreamTickets(projects.context.log.recorder)
    for _ in range(3):
        await tickets.issue("one", {})
    answer = await projects.caller("red")("POST", TICKETS)
    assert answer.status == 201  # The bound is one caller's.
    with pytest.raises(stream_tickets.LimitExceeded):
        await tickets.issue("one", {})
    later = stream_tickets.time.time() + stream_tickets.LIFETIME_SECONDS + 1
    monkeypatch.setattr(stream_tickets.time, "time", lambda: later)
    await tickets.issue("one", {})
    rows = await projects.context.log.recorder.fetch(f"SELECT count(*) FROM {STREAM_TICKETS.name}")
    assert rows[0][0] == 1


async def test_credentials_that_are_no_text_get_no_ticket(projects: Any) -> None:
    """Also where another header says who asks."""
    reader, writer = await asyncio.open_connection("127.0.0.1", projects.client.port)
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: x\r\nX-User-Id: me\r\nX-Project-Id: red\r\nX-Roles: member\r\n"
        b"Authorization: \xc3(\r\n\r\n" % TICKETS.encode()
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_a_stream_by_ticket_is_judged_again_while_it_lasts(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calotype.http.log.event_stream.JUDGED_AGAIN_SECONDS", 0.1)
    url = f"{EVENTS}?ticket={await ticket_of(told.caller('red'))}"
    async with told.client.get(url, headers={"Accept": "text/event-stream"}) as response:
        assert response.status == 200
        told.api.use_policy(Policy({"get_events": "!", "get_all_events": "!"}))
        async with asyncio.timeout(10):
            while not response.content.at_eof():
                await response.content.readany()


async def test_a_ticket_stands_for_a_password_too(open_cloud: Any, tmp_path: Any) -> None:
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"alice:{hashed}\n")
    users = {"file": str(tmp_path / "htpasswd"), "project": "red"}
    cloud = await open_cloud(identity={"kind": "http_basic"}, http_basic=users)
    basic = b64encode(b"alice:secret").decode()
    answer = await cloud.admin("POST", TICKETS, Authorization=f"Basic {basic}")
    assert answer.status == 201
    headers = {"Accept": "text/event-stream"}
    url = f"{EVENTS}?ticket={answer.json['ticket']}"
    async with cloud.client.get(url, headers=headers) as response:
        assert response.status == 200
    assert (await cloud.admin("POST", TICKETS)).status == 401
