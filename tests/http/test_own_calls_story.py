"""All our own calls read query strings and bodies by the same rules, and refuse in one wording."""

import asyncio
import uuid
from typing import Any

import pytest

from calotype.http.v2.long_queries import LONG, LongQueries

IMAGE = f"/log/v1/images/{uuid.UUID(int=7)}"
QUERIES = [
    ("GET", "/log/v1/events"),
    ("GET", f"{IMAGE}/history"),
    ("GET", f"{IMAGE}/diff"),
    ("GET", IMAGE),
    ("GET", "/log/v1/restorable"),
    ("GET", "/log/v1/consumers"),
    ("PUT", "/log/v1/consumers/billing"),
    ("GET", "/log/v1/consumers/billing/parked"),
    ("GET", "/log/v1/webhooks"),
    ("GET", "/log/v1/webhooks/ci"),
    ("GET", "/log/v1/webhooks/ci/parked"),
    ("GET", "/log/v1/proof/inclusion"),
    ("GET", "/log/v1/proof/consistency"),
    ("GET", "/log/v1/schemas/image.created"),
]
PAGES = [
    "/log/v1/events",
    f"{IMAGE}/history",
    "/log/v1/restorable",
    "/log/v1/consumers/billing/parked",
    "/log/v1/webhooks/ci/parked",
]


@pytest.mark.parametrize(("method", "path"), QUERIES)
async def test_an_unknown_parameter_is_refused_in_the_same_words(
    admin: Any, method: str, path: str
) -> None:
    answer = await admin(method, f"{path}?colour=red")
    assert (answer.status, answer.json["field"]) == (400, "colour")
    assert answer.json["detail"].startswith("There is no parameter 'colour' here; use ")


@pytest.mark.parametrize("path", PAGES)
async def test_a_limit_is_a_whole_number_that_is_given_once(admin: Any, path: str) -> None:
    await admin("PUT", "/log/v1/consumers/billing")
    for query in ("limit=0", "limit=-1", "limit=x", "limit=", "limit=1.5", "limit=9999999999"):
        answer = await admin("GET", f"{path}?{query}")
        assert (answer.status, answer.json["field"]) == (400, "limit"), query
        assert answer.json["detail"] == "Parameter 'limit' must be a whole number from 1."
    answer = await admin("GET", f"{path}?limit=1&limit=1")
    assert answer.json["detail"] == "Parameter 'limit' is given twice."
    answer = await admin("GET", f"{path}?limit=%00")
    assert answer.json["detail"] == "Parameter 'limit' holds characters that no such value has."


async def test_a_limit_beyond_what_a_page_holds_gives_as_much_as_it_holds(admin: Any) -> None:
    await admin("PUT", "/log/v1/consumers/billing")
    for path in ("/log/v1/events", "/log/v1/restorable", "/log/v1/consumers/billing/parked"):
        assert (await admin("GET", f"{path}?limit=1001")).status == 200, path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/log/v1/consumers/billing"),
        ("POST", "/log/v1/consumers/billing/fetch"),
        ("PUT", "/log/v1/webhooks/ci"),
        ("POST", "/log/v1/webhooks/ci/rotate"),
        ("POST", f"{IMAGE}/purge"),
    ],
)
async def test_an_unknown_field_is_refused_in_the_same_words(
    admin: Any, method: str, path: str
) -> None:
    answer = await admin(method, path, json={"colour": "red"})
    assert (answer.status, answer.json["field"]) == (400, "colour")
    assert answer.json["detail"].startswith("There is no field 'colour' here; use ")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/images/{}"),
        ("DELETE", "/v2/images/{}"),
        ("PUT", "/v2/images/{}/tags/a"),
        ("GET", "/log/v1/events"),
        ("GET", "/log/v1/checkpoint"),
        ("DELETE", "/log/v1/consumers/billing"),
        ("POST", "/log/v1/stream-tickets"),
    ],
)
async def test_a_body_that_nobody_would_read_is_refused(admin: Any, method: str, path: str) -> None:
    image = await admin.create()
    answer = await admin(method, path.format(image["id"]), data=b"{}")
    assert answer.status == 400
    assert "This request does not accept a body." in answer.text
    assert (await admin.show(image["id"]))["tags"] == []


async def test_long_queries_take_turns_and_others_go_first() -> None:
    queue, order = LongQueries(), []

    async def ask(name: str, query: str) -> None:
        await queue.wait(query)
        order.append(name)

    long = "x" * (LONG + 1)
    await asyncio.gather(ask("long", long), ask("longer", long), ask("short", "x"))
    assert order == ["short", "long", "longer"]
