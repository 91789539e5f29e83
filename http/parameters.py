"""What our own calls say in query strings and bodies: one grammar, and one set of error texts.

The query string of `GET /v2/images` has a grammar of its own, in `v2/filters.py`.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import orjson
from aiohttp import web

from calotype.commands.errors import Invalid, LimitExceeded
from calotype.http.errors import BodyStalled
from calotype.http.middleware import Call

MAX_LIMIT = 1000
"""Elements of a page, at most."""


def parameters(call: Call, *known: str) -> dict[str, str]:
    """The query string's parameters.

    Raises Invalid for those that are not `known`, for repeated ones, and for values that nobody
    can have meant.
    """
    given: dict[str, str] = {}
    for name, value in call.request.query.items():
        check_known("parameter", [name], known)
        if name in given:
            raise Invalid(f"Parameter '{name}' is given twice.", name)
        if not value.isprintable():
            raise Invalid(f"Parameter '{name}' holds characters that no such value has.", name)
        given[name] = value
    return given


def check_known(kind: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raises Invalid naming the parameter or field that means nothing here."""
    for name in given:
        if name not in known:
            shown = name.encode("utf-8", "replace").decode()[:40]
            raise Invalid(f"There is no {kind} '{shown}' here; use {', '.join(known)}.", shown)


def whole_number(
    given: Mapping[str, str], name: str, default: int, least: int = 1, most: int | None = None
) -> int:
    """A whole number among the parameters. Raises Invalid."""
    text = given.get(name, str(default))
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if number < least or (most is not None and number > most):
        bounds = f"from {least}" + (f" to {most}" if most is not None else "")
        raise Invalid(f"Parameter '{name}' must be a whole number {bounds}.", name)
    return number


def page_limit(given: Mapping[str, str], default: int = 100, most: int = MAX_LIMIT) -> int:
    """How many elements a page has: never more than `most`, whatever is asked for."""
    return min(whole_number(given, "limit", default), most)


def image_of(given: Mapping[str, str], name: str) -> UUID | None:
    """The id of an image among the parameters, if it is given. Raises Invalid."""
    text = given.get(name)
    if text is None:
        return None
    try:
        if len(text) == 36:
            return UUID(text)
    except ValueError:
        pass
    raise Invalid(f"Parameter '{name}' must be the id of an image.", name)


async def position_of(call: Call, given: Mapping[str, str], name: str = "after") -> int:
    """A position among the parameters, 0 where there is none. Raises Invalid."""
    return await call.api.feed.decode(given[name], name) if name in given else 0


async def fields(call: Call, *known: str) -> dict[str, object]:
    """The fields of a JSON object, none where there is no body. Raises Invalid for others."""
    given = await json_object(call) if call.request.body_exists else {}
    check_known("field", given, known)
    return given


async def json_object(call: Call) -> dict[str, object]:
    """The request's body if it is a JSON object. Raises Invalid otherwise."""
    body = await json_body(call)
    if not isinstance(body, dict):
        raise Invalid("The body must be a JSON object.")
    return body


async def json_body(call: Call) -> object:
    """The request's JSON body. Raises Invalid for none, malformed JSON, or a bare scalar, and
    LimitExceeded for one that is too long, of which nothing is read where its length is said."""
    seconds, limit = call.api.body_stall_seconds, call.api.json_body_bytes
    too_long = LimitExceeded(
        f"The body has over {limit} bytes; no more fit (http.json_body_bytes)."
    )
    if (call.request.content_length or 0) > limit:
        raise too_long
    try:
        async with asyncio.timeout(seconds):
            raw = await call.request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_long from None
    except TimeoutError:
        raise body_ended(call) from None
    if not raw:
        raise Invalid("The request needs a JSON body.")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"The body is not valid JSON: {error}") from None
    if not isinstance(body, (dict, list)):
        raise Invalid("The body must be a JSON object or array.")
    return body


def body_ended(call: Call) -> Exception:
    """Why a body ended early: its client stalled, or the kernel gave up the connection."""
    if call.is_gone:
        return ConnectionResetError("The client went away.")
    return BodyStalled(call.api.body_stall_seconds)
