"""The feed as Server-Sent Events, as the HTML standard frames them.

A consumer is a loop that reads a page from the log, writes it, and waits. It holds one page at
most: while a slow consumer does not take what was written, nothing more is read for it.
"""

import asyncio
from dataclasses import replace

import structlog
from aiohttp import web

from calotype.commands.errors import CalotypeError, Unavailable
from calotype.commands.policy.protections import readable_by
from calotype.http.middleware import Api, Call, has_ended, seconds_left
from calotype.projections.feed.cloudevents import readable_event
from calotype.projections.feed.feed import BEFORE_ALL, Question, reader_of
from calotype.stores.log.errors import LogUnavailable

MEDIA = "text/event-stream"
KEEP_ALIVE_SECONDS = 15.0
"""An idle stream says this often that it lives, which also finds out who has gone."""
LONGEST_WRITE_SECONDS = 60.0
"""A consumer that takes nothing for so long is let go; it can come back to the same place."""
JUDGED_AGAIN_SECONDS = 15.0
"""How often the consumer is identified and judged again; also when its token ends."""
PAGE_EVENTS = 50
RETRY_MILLISECONDS = 1000

log = structlog.get_logger("calotype.http")


async def stream(call: Call, question: Question, *, snapshot: bool) -> web.StreamResponse:
    """Sends events after the question's position until the client goes or the service stops.

    With `snapshot`, the images at a position come first, and then everything after that. The stream
    ends with what the consumer identified with, and when it may no longer be told.
    """
    api = call.api
    question = replace(question, limit=PAGE_EVENTS)
    response = web.StreamResponse(
        headers={
            "Content-Type": MEDIA,
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            "x-openstack-request-id": call.request_id,
        }
    )
    response.force_close()  # Said in its head: nothing else can come over this connection.
    # Before the first byte is out, an error is still an ordinary answer.
    await api.feed.positions()
    await response.prepare(call.request)
    allowed = asyncio.timeout(None)
    judging = asyncio.create_task(_judge(call, question.project, allowed))
    try:
        async with allowed:
            await _send(response, f"retry: {RETRY_MILLISECONDS}\n\n".encode())
            if snapshot:
                question = replace(question, after=await _send_snapshot(call, response, question))
            await _follow(call, response, question)
    except (ConnectionError, TimeoutError):
        pass  # The consumer is gone, or has to be, and knows where it was.
    except (LogUnavailable, CalotypeError) as error:
        log.warning("stream ended", request_id=call.request_id, error=str(error))
    finally:
        judging.cancel()
    return response


async def _judge(call: Call, project: str | None, allowed: asyncio.Timeout) -> None:
    """Ends the stream when the consumer may no longer read what it reads."""
    actor = call.actor
    while True:
        await asyncio.sleep(min(JUDGED_AGAIN_SECONDS, seconds_left(actor)))
        try:
            await call.identify()
            actor = call.actor
            if reader_of(actor) == project:
                continue
            reason = "reads something else now"
        except Unavailable:
            if not has_ended(actor):
                continue  # Nobody can tell, so what was told last holds.
            reason = "cannot be asked about after its end"
        except CalotypeError as error:
            reason = type(error).__name__
        log.info("stream not allowed any more", request_id=call.request_id, reason=reason)
        allowed.reschedule(asyncio.get_running_loop().time())
        return


async def _follow(call: Call, response: web.StreamResponse, question: Question) -> None:
    api = call.api
    positions = await api.feed.positions()
    told = question.after
    while True:
        page = await api.feed.page(question)
        if page.events:
            # Asked each time, because a stream may outlive the protections that it began under.
            readable = readable_by(call.actor)
            frames = [
                b"id: %b\ndata: %b\n\n"
                % (positions.encode(position).encode(), readable_event(event, readable))
                for position, event in page.events
            ]
            await _send(response, b"".join(frames))
            told = page.events[-1][0]
        question = replace(question, after=page.next)
        if page.full and not api.feed.watcher.ended:
            continue
        if api.feed.watcher.ended:
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
    await api.feed.watcher.wait(question.project, question.after, KEEP_ALIVE_SECONDS)
    return loop.time() < deadline


async def _send_snapshot(call: Call, response: web.StreamResponse, question: Question) -> int:
    """Sends the images; returns their position.

    They carry no id, so who loses the connection in the middle begins the snapshot again.
    """
    api, position, marker = call.api, None, BEFORE_ALL
    while True:
        page = await api.feed.snapshot(question.project, position, marker, PAGE_EVENTS)
        position = page.position
        if page.images:
            readable = readable_by(call.actor)
            frames = [b"data: %b\n\n" % readable_event(image, readable) for image in page.images]
            await _send(response, b"".join(frames))
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
