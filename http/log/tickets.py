"""Tickets with which a browser's EventSource may read the stream of events."""

from aiohttp import web

from calotype.commands.errors import Invalid
from calotype.http.middleware import Call, json_answer
from calotype.projections.feed.feed import reader_of
from calotype.projections.feed.stream_tickets import LIFETIME_SECONDS

CREDENTIALS = (
    "X-Auth-Token", "X-Storage-Token", "X-Service-Token", "Authorization",
    "X-User-Id", "X-Project-Id", "X-Roles",
)  # fmt: skip
"""The headers that name the caller, whatever the kind of identity."""


async def issue(call: Call) -> web.Response:
    """POST /log/v1/stream-tickets: a ticket for `GET /log/v1/events?ticket=...` (201)."""
    actor, given = call.actor, call.request.headers
    reader_of(actor)  # Who may not read the feed needs no ticket.
    headers = {name: text for name in CREDENTIALS if (text := given.get(name))}
    if not all(text.isprintable() for text in headers.values()):
        raise Invalid("Headers that say who asks must be printable UTF-8.")
    ticket = await call.api.tickets.issue(f"{actor.user}\n{actor.project}", headers)
    answer = {"ticket": ticket, "expires_in": LIFETIME_SECONDS}
    return json_answer(answer, 201, caching="no-store")
