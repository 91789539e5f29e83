"""The feed as Server-Sent Events, as the HTML standard frames them.

A consumer is a loop that reads a page from the log, writes it, and waits. It holds one page at
most: while a slow consumer does not take what was written, nothing more is read for it.
"""

import asyncio
from dataclasses import replace

import structlog
from aiohttp import web

from calotype.commands.errors import CalotypeError
from calotype.commands.protections import readable_by
from calotype.http.conversation import API, REQUEST_ID, Api, actor_of
from calotype.projections.feed import BEFORE_ALL, Question
from calotype.stores.log.log import LogUnavailable

MEDIA = "text/event-stream"
KEEP_ALIVE_SECONDS = 15.0
"""An idle stream says this often that it lives, which also finds out who has gone."""
LONGEST_WRITE_SECONDS = 60.0
"""A consumer that takes nothing for so long is let go; it can come back to the same place."""
PAGE_EVENTS = 50
RETRY_MILLISECONDS = 1000

log = structlog.get_logger("calotype.http")


async def stream(request: web.Request, question: Question, *, snapshot: bool) -> web.StreamResponse:
    """Sends events after the question's position until the client goes or the service stops.

    With `snapshot`, the images at a position come first, and then everything after that.
    """
    api = request.app[API]
    question = replace(question, limit=PAGE_EVENTS)
    response = web.StreamResponse(
        headers={
            "Content-Type": MEDIA,
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            "x-openstack-request-id": request[REQUEST_ID],
        }
    )
    # Before the first byte is out, an error is still an ordinary answer.
    await api.feed.positions()
    await response.prepare(request)
    try:
        await _send(response, f"retry: {RETRY_MILLISECONDS}\n\n".encode())
        if snapshot:
            question = replace(question, after=await _send_snapshot(api, response, question))
        await _follow(request, response, question)
    except (ConnectionError, TimeoutError):
        pass  # The consumer is gone, and knows where it was.
    except (LogUnavailable, CalotypeError) as error:
        log.warning("stream ended", request_id=request[REQUEST_ID], error=str(error))
    response.force_close()
    return response


async def _follow(request: web.Request, response: web.StreamResponse, question: Question) -> None:
    api = request.app[API]
    positions = await api.feed.positions()
    told = question.after
    while True:
        # A stream may outlive the protections that it began under.
        question = replace(question, readable=readable_by(actor_of(request)))
        page = await api.feed.page(question)
        if page.events:
            await _send(
                response,
                b"".join(
                    b"id: %b\ndata: %b\n\n" % (positions.encode(position).encode(), event)
                    for position, event in page.events
                ),
            )
            told = page.events[-1][0]
        question = replace(question, after=page.next)
        if page.full and not api.feed.waking.ended:
            continue
        if api.feed.waking.ended:
            return
        if await _idle(api, question):
            continue
        if told != question.after:
            # An id without data moves Last-Event-ID on: what did not concern this consumer
            # need not be looked through again when it comes back.
            await _send(response, f"id: {positions.encode(question.after)}\n\n".encode())
            told = question.after
        else:
            await _send(response, b": still here\n\n")


async def _idle(api: Api, question: Question) -> bool:
    """Waits; whether there may be something before a keep-alive is due."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + KEEP_ALIVE_SECONDS
    await api.feed.waking.wait(question.project, question.after, KEEP_ALIVE_SECONDS)
    return loop.time() < deadline


async def _send_snapshot(api: Api, response: web.StreamResponse, question: Question) -> int:
    """Sends the images; returns their position.

    They carry no id, so who loses the connection in the middle begins the snapshot again.
    """
    position, marker = None, BEFORE_ALL
    while True:
        page = await api.feed.snapshot(
            question.project, position, marker, PAGE_EVENTS, question.readable
        )
        position = page.position
        if page.images:
            await _send(response, b"".join(b"data: %b\n\n" % image for image in page.images))
        if page.next_marker is None:
            break
        marker = page.next_marker
    text = (await api.feed.positions()).encode(position)
    end = f'id: {text}\nevent: snapshot-end\ndata: {{"position":"{text}"}}\n\n'
    await _send(response, end.encode())
    return position


async def _send(response: web.StreamResponse, data: bytes) -> None:
    """Raises TimeoutError when the consumer does not take it."""
    async with asyncio.timeout(LONGEST_WRITE_SECONDS):
        await response.write(data)
