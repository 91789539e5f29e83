"""The bytes of an image: upload and download."""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator

import orjson
from aiohttp import web

from calotype.commands.errors import (
    CalotypeError,
    Invalid,
    RangeUnsatisfiable,
    UnsupportedMedia,
)
from calotype.commands.images.data import refusal_of, upload_data
from calotype.commands.images.download import require_download
from calotype.commands.images.places import url_now
from calotype.http.middleware import (
    Call,
)
from calotype.http.parameters import body_ended
from calotype.http.v2.sending import Sent, open_source, send
from calotype.projections.images.queries import ImageRow
from calotype.stores.images.driver import DataMissing, StoreError

# No size has more than 19 digits, and Python refuses to read a number of thousands of them.
_RANGE = re.compile(r"bytes\s*=\s*([0-9]{0,19})-([0-9]{0,19})\s*")
_CONTENT_RANGE = re.compile(r"bytes\s+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)\s*")
_SIZE = re.compile("[0-9]{1,19}")


async def upload(call: Call) -> web.Response:
    """PUT /v2/images/{image_id}/file (204)."""
    # Not `request.content_type`, which takes an absent or broken header for octet-stream.
    media = call.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media != "application/octet-stream":
        raise UnsupportedMedia("Image data must be sent as application/octet-stream.")
    await upload_data(
        call.api.context,
        call.actor,
        call.cause,
        call.image_id,
        _chunks(call),
        size_bytes=_announced_size(call.request),
        md5=_announced_md5(call.request),
    )
    return web.Response(status=204, headers={"Content-Type": "text/html; charset=UTF-8"})


async def _chunks(call: Call) -> AsyncIterator[bytes]:
    """The body as it comes. Raises BodyStalled when it does not."""
    content, seconds = call.request.content, call.api.body_stall_seconds
    while True:
        chunk = content.read_nowait(-1)
        if not chunk:
            try:
                async with asyncio.timeout(seconds):
                    chunk = await content.readany()
            except TimeoutError:
                raise body_ended(call) from None
        if not chunk:
            return
        yield chunk


def _announced_size(request: web.Request) -> int | None:
    text = request.headers.get("x-openstack-image-size")
    if text is None:
        return request.content_length or None
    if not _SIZE.fullmatch(text.strip()):
        raise Invalid("x-openstack-image-size must be a whole number of bytes.")
    return int(text) or None


def _announced_md5(request: web.Request) -> str | None:
    """Content-MD5 as hexadecimal: RFC 1864 writes base64, the Image API itself hexadecimal."""
    text = request.headers.get("Content-MD5", "").strip()
    if not text:
        return None
    if re.fullmatch("[0-9a-fA-F]{32}", text):
        return text.lower()
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 16:
        raise Invalid("Content-MD5 must be an MD5 in base64 or hexadecimal.")
    return digest.hex()


async def download(call: Call) -> web.StreamResponse:
    """GET /v2/images/{image_id}/file, whole or one range."""
    if "prefer" in call.request.query:
        raise Invalid("Parameter 'prefer' needs several stores; there is only one here.")
    row = await call.api.queries.image_data(call.image_id, call.actor.project)
    require_download(call.actor, row, call.image_id)
    assert row is not None
    places = orjson.loads(row.locations)
    if not places:
        return web.Response(status=204)
    return await _send_from(call, row, places, _span(call.request, row.size or 0))


async def _send_from(
    call: Call,
    row: ImageRow,
    places: list[dict[str, dict[str, str] | str]],
    span: tuple[int, int] | None,
) -> web.StreamResponse:
    """Tries each place in turn; 204 when the bytes are missing in all of them."""
    api, image_id = call.api, call.image_id
    start, stop = span or (0, row.size or 0)
    failure: CalotypeError | None = None
    for place in places:
        store = place["metadata"]["store"]  # type: ignore[index]
        driver = api.context.stores.get(store)
        if driver is None:
            continue
        try:
            url = url_now(driver, image_id, str(place["url"]))
            source = await open_source(driver, url, start, stop - start)
        except DataMissing:
            continue
        except StoreError as error:
            failure = refusal_of(error, store)
            continue
        headers, status, sent = _headers(call, row, span), 206 if span else 200, Sent()
        try:
            return await send(
                call.request, source, driver, headers, status, sent, api.body_stall_seconds
            )
        finally:
            if api.downloads is not None:
                api.downloads.note(
                    call.cause,
                    image_id=str(image_id),
                    owner=row.owner,
                    bytes_sent=sent.count_bytes,
                    bytes_asked=stop - start,
                )
    if failure is not None:
        raise failure
    return web.Response(status=204)


def _headers(call: Call, row: ImageRow, span: tuple[int, int] | None) -> dict[str, str]:
    headers = {
        "Content-Type": "application/octet-stream",
        "x-openstack-request-id": call.request_id,
    }
    if row.checksum:
        headers["Content-MD5"] = row.checksum
    if span is not None:
        headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{row.size}"
    return headers


def _span(request: web.Request, size: int) -> tuple[int, int] | None:
    """The bytes asked for as (start, stop), or None for all of them."""
    text = request.headers.get("Range")
    if text is not None:
        return _range_span(text, size)
    text = request.headers.get("Content-Range")
    if text is not None:
        return _content_range_span(text, size)
    return None


def _range_span(text: str, size: int) -> tuple[int, int]:
    if "," in text:
        raise Invalid("Only one byte range can be requested at a time.")
    match = _RANGE.fullmatch(text.strip())
    if match is None or match.groups() == ("", ""):
        raise RangeUnsatisfiable(f"Range '{text[:80]}' is not of the form bytes=first-last.")
    first, last = match.groups()
    if first == "":
        start, stop = max(0, size - int(last)), size
    else:
        start = int(first)
        stop = min(size, int(last) + 1) if last else size
    if start >= stop:
        raise RangeUnsatisfiable(f"Range '{text[:80]}' lies outside the image's {size} bytes.")
    return start, stop


def _content_range_span(text: str, size: int) -> tuple[int, int]:
    """The old form: a Content-Range header on the request."""
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise RangeUnsatisfiable(f"Content-Range '{text[:80]}' is not bytes first-last/length.")
    start, last = int(match[1]), int(match[2])
    length = size if match[3] == "*" else int(match[3])
    if start > last or last >= size or last >= length:
        raise RangeUnsatisfiable(f"Content-Range '{text[:80]}' lies outside the {size} bytes.")
    return start, last + 1
