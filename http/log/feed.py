"""The feed of events, in batches: GET /log/v1/events, and what its query string may say."""

from dataclasses import dataclass, replace
from hashlib import blake2b
from uuid import UUID

from aiohttp import web

from calotype.commands.errors import Invalid
from calotype.commands.policy.protections import readable_by
from calotype.http.log.event_stream import MEDIA as STREAM
from calotype.http.log.event_stream import stream
from calotype.http.log.history import POSITION_HEADER
from calotype.http.middleware import STREAM as PATH
from calotype.http.middleware import Call, seconds_left
from calotype.http.parameters import (
    image_of,
    page_limit,
    parameters,
    position_of,
    whole_number,
)
from calotype.http.paths import link
from calotype.projections.feed.cloudevents import readable_event
from calotype.projections.feed.feed import (
    BEFORE_ALL,
    Question,
    Snapshot,
    known_types,
    reader_of,
)

BATCH = "application/cloudevents-batch+json"
LONGEST_WAIT_SECONDS = 60
"""How long a request may wait for the first event; consumers ask again."""

IMMUTABLE = "private, max-age=31536000, immutable"

_KNOWN = ("after", "types", "image", "limit", "wait", "snapshot", "marker", "ticket")
_VARY = "Accept, Authorization, X-Auth-Token, X-Project-Id, X-Roles"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for the feed, understood."""

    question: Question
    wait_seconds: float = 0.0
    snapshot: bool = False
    snapshot_position: int | None = None
    """None: the latest; only the first page of a snapshot does not know it."""
    marker: UUID = BEFORE_ALL


async def events(call: Call) -> web.StreamResponse:
    """GET /log/v1/events: what happened after a position, in the order of the log.

    Answers a CloudEvents batch, or Server-Sent Events to `Accept: text/event-stream`.
    """
    api, headers = call.api, call.request.headers
    project = reader_of(call.actor)
    given = parameters(call, *_KNOWN)
    streams = STREAM in headers.get("Accept", "").lower()
    if streams:
        _refuse_what_a_stream_has_not(given)
    elif "ticket" in given:
        raise Invalid("A ticket is for a stream: send Accept: text/event-stream.", "ticket")
    asked = await _understood(call, project, given)
    if streams:
        last = headers.get("Last-Event-ID")
        if last:
            # Who comes back has seen the snapshot, if there was one, and all up to here.
            after = await api.feed.decode(last, "Last-Event-ID")
            asked = replace(asked, question=replace(asked.question, after=after), snapshot=False)
        return await stream(call, asked.question, snapshot=asked.snapshot)
    if asked.snapshot:
        return await _snapshot_answer(call, asked)
    wait_seconds = min(asked.wait_seconds, seconds_left(call.actor))
    page = await api.feed.page_or_wait(asked.question, wait_seconds)
    position = (await api.feed.positions()).encode(page.next)
    link = _link(asked.question, after=position)
    return _answer(call, [event for _, event in page.events], position, link, page.full)


async def _snapshot_answer(call: Call, asked: Asked) -> web.Response:
    question, feed = asked.question, call.api.feed
    page: Snapshot = await feed.snapshot(
        question.project, asked.snapshot_position, asked.marker, question.limit
    )
    position = (await feed.positions()).encode(page.position)
    if page.next_marker is None:
        link = _link(question, after=position)
    else:
        link = _link(question, snapshot=position, marker=str(page.next_marker))
    # The first page is that of another position the next time that it is asked for.
    return _answer(call, page.images, position, link, asked.snapshot_position is not None)


def _answer(
    call: Call, events: list[bytes], position: str, link: str, immutable: bool
) -> web.Response:
    readable = readable_by(call.actor)
    body = b"[" + b",".join([readable_event(event, readable) for event in events]) + b"]"
    # Protections can change, and with them what is shown.
    immutable = immutable and call.actor.policy.protections is None
    digest = blake2b(body + position.encode() + link.encode(), digest_size=16).hexdigest()
    etag = f'"{digest}"'
    headers = {
        POSITION_HEADER: position,
        "Link": f'<{link}>; rel="next"',
        "ETag": etag,
        "Cache-Control": IMMUTABLE if immutable else "private, no-cache",
        "Vary": _VARY,
    }
    if _knows(call.request.headers.get("If-None-Match", ""), etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers={**headers, "Content-Type": BATCH})


def _knows(condition: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in condition.split(",")]
    return etag in tags or tags == ["*"]


def _link(question: Question, **place: str) -> str:
    parameters = {**place, "limit": str(question.limit)}
    if question.types:
        parameters["types"] = ",".join(question.types)
    if question.image is not None:
        parameters["image"] = str(question.image)
    return link(PATH, parameters.items(), safe=",")


async def _understood(call: Call, project: str | None, given: dict[str, str]) -> Asked:
    """What is asked for. Raises Invalid naming the parameter that cannot be understood."""
    limit = page_limit(given)
    wait = whole_number(given, "wait", 0, 0, LONGEST_WAIT_SECONDS)
    after = await position_of(call, given)
    types = known_types(given["types"].split(",")) if "types" in given else ()
    question = Question(project, after, limit, types, image_of(given, "image"))
    if "snapshot" not in given:
        if "marker" in given:
            raise Invalid("Parameter 'marker' belongs to a snapshot.", "marker")
        return Asked(question, wait)
    for name in ("after", "image", "wait"):
        if name in given:
            raise Invalid(f"Parameter '{name}' cannot be combined with a snapshot.", name)
    if given["snapshot"] == "true":
        if "marker" in given:
            raise Invalid("Parameter 'marker' needs the snapshot's position.", "marker")
        return Asked(question, snapshot=True)
    position = await position_of(call, given, "snapshot")
    marker = image_of(given, "marker") or BEFORE_ALL
    return Asked(question, snapshot=True, snapshot_position=position, marker=marker)


def _refuse_what_a_stream_has_not(given: dict[str, str]) -> None:
    for name in ("limit", "wait", "marker"):
        if name in given:
            raise Invalid(f"Parameter '{name}' has no meaning for a stream of events.", name)
    if given.get("snapshot", "true") != "true":
        raise Invalid("A stream begins with the latest snapshot: use snapshot=true.", "snapshot")
