"""Commands on an image's bytes: upload, and what follows when an upload or an image is over.

The intent event goes first, then the bytes, then the outcome event. Whatever dies in between, the
log knows where bytes may lie and which process was writing them.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from calotype.commands.errors import (
    CalotypeError,
    Conflict,
    Gone,
    Invalid,
    LimitExceeded,
    Unavailable,
    UnsupportedMedia,
)
from calotype.commands.image import Image, image_uuid
from calotype.commands.parts import SYSTEM, Parts, cause_of, new_id
from calotype.commands.places import url_now
from calotype.commands.policy import Actor, Cause, require
from calotype.commands.states import DOOMED
from calotype.stores.images import driver as stores
from calotype.stores.images import pipe
from calotype.stores.images.inspecting import Claim, ContentRefused

STORE_REFUSALS: dict[type[stores.StoreError], type[CalotypeError]] = {
    stores.StoreFull: LimitExceeded,
    stores.StoreForbidden: Unavailable,
    stores.DataExists: Conflict,
    stores.StoreUnavailable: Unavailable,
    pipe.TooLarge: LimitExceeded,
    pipe.SizeMismatch: Invalid,
    pipe.DigestMismatch: Invalid,
    ContentRefused: UnsupportedMedia,
}


LARGEST_BYTES = 1 << 50
"""No image is larger, whatever the limits, so that sums of announced sizes stay countable."""


_STORE_TROUBLE: dict[type[stores.StoreError], str] = {
    stores.StoreFull: "Store '{}' has no space left for this.",
    stores.StoreForbidden: "Store '{}' refuses this service.",
    stores.DataExists: "Store '{}' has other data in this place already.",
    stores.DataMissing: "Store '{}' no longer has this data.",
    stores.StoreUnavailable: "Store '{}' cannot be reached; try again later.",
}

log = structlog.get_logger("calotype.data")


def refusal_of(error: stores.StoreError, store: str) -> CalotypeError:
    """The domain's error for what the store of this name refused with.

    Clients learn the store's name; its directory or address is for the service's own log.
    """
    refusal = next(
        (r for kind, r in STORE_REFUSALS.items() if isinstance(error, kind)), Unavailable
    )
    for kind, sentence in _STORE_TROUBLE.items():
        if isinstance(error, kind):
            log.warning("store refused", store=store, error=str(error))
            return refusal(sentence.format(store))
    return refusal(str(error))


async def upload_data(
    parts: Parts,
    actor: Actor,
    cause: Cause,
    image_id: str,
    chunks: AsyncIterator[bytes],
    *,
    size_bytes: int | None,
    md5: str | None = None,
) -> Image:
    """Stores the bytes of a queued image and makes it active.

    `size_bytes` is what the caller announced (None: unknown); `md5` its hexadecimal Content-MD5.
    Raises Conflict when the image is not queued, Invalid when size or hash differ from what was
    announced, LimitExceeded for the size cap, a quota or a full store, Gone when the image was
    deleted meanwhile. After any failure the image is queued again and nothing is left in the store.
    """
    cap = _size_cap(parts, size_bytes)
    aggregate_id, upload_id = image_uuid(image_id), secrets.token_hex(6)
    driver = parts.stores[parts.default_store]
    key = f"{aggregate_id}-{upload_id}"
    # Known as running before the intent is on record, so that no sweep takes it for a dead one.
    parts.uploads.add(upload_id)
    try:
        image: Image = await parts.log.change(
            aggregate_id,
            partial(require, actor, "upload_image"),
            Image.start_upload,
            cause,
            upload_id=upload_id,
            store=parts.default_store,
            url=driver.base_url + key,
            holder=parts.process_id,
            announced_size=size_bytes,
        )
    except BaseException:
        parts.uploads.discard(upload_id)
        raise
    try:
        written = await pipe.write(
            driver,
            key,
            chunks,
            size_bytes=size_bytes,
            limit_bytes=cap,
            algorithms=("md5", parts.hash_algorithm),
            expected={"md5": md5} if md5 else {},
            claim=_claim(parts, image),
            room=_room(parts, image, size_bytes),
        )
        image = await parts.log.change(
            aggregate_id,
            _expect_image,
            Image.store_data,
            cause,
            upload_id=upload_id,
            **_outcome(written, parts.hash_algorithm),
        )
        return image
    except BaseException as error:
        refusal = error
        if isinstance(error, stores.StoreError):
            refusal = refusal_of(error, parts.default_store)
        # Shielded, because the commonest reason to be here is that the client went away. What
        # fails here (the log is down, say) is left to the sweeper: the intent is on record.
        with suppress(Exception):
            ending = give_up_upload(parts, cause, aggregate_id, upload_id, _reason(refusal))
            await asyncio.shield(ending)
        if refusal is not error:
            raise refusal from error
        raise
    finally:
        parts.uploads.discard(upload_id)


async def give_up_upload(
    parts: Parts, cause: Cause, aggregate_id: UUID, upload_id: str, reason: str
) -> None:
    """Ends an upload without data: the image is queued again, its bytes are garbage.

    No change where that upload is not under way any more.
    """
    image = await parts.log.change(
        aggregate_id, _expect_image, Image.fail_upload, cause, upload_id=upload_id, reason=reason
    )
    await remove_garbage(parts, image)


async def remove_garbage(parts: Parts, image: Image) -> int:
    """Removes the doomed bytes of an image from their stores and records it; returns how many.

    Bytes whose store is not reachable now stay doomed, for the next sweep.
    """
    removed = 0
    # What is still being written is left to its writer, or to the sweeper when that is gone.
    doomed = [blob for blob in image.blobs.values() if blob.state == DOOMED and not blob.holder]
    for blob in doomed:
        driver = parts.stores.get(blob.store)
        if driver is None:
            continue
        reason = _why_garbage(image)
        try:
            await asyncio.to_thread(driver.delete, url_now(driver, image.id, blob.url))
        except stores.DataMissing:
            reason += "; nothing was there"
        except stores.StoreError:
            continue
        await parts.log.change(
            image.id,
            _expect_image,
            Image.note_data_removed,
            cause_of(SYSTEM, "req-" + new_id()),
            url=blob.url,
            reason=reason,
        )
        removed += 1
    return removed


def _why_garbage(image: Image) -> str:
    deletion = image.deletion
    if deletion is None:
        return f"image is {image.status}"
    reason = f"image was deleted by its event {deletion.version}"
    return f"{reason}; {deletion.purge_reason}" if deletion.purge_reason else reason


def _size_cap(parts: Parts, size_bytes: int | None) -> int:
    """How many bytes an image may have. Raises LimitExceeded when more are announced."""
    cap = parts.limits.image_size_bytes
    cap = LARGEST_BYTES if cap < 0 else min(cap, LARGEST_BYTES)
    if size_bytes is not None and size_bytes > cap:
        raise LimitExceeded(f"The image has {size_bytes} bytes; at most {cap} are allowed.")
    return cap


def _claim(parts: Parts, image: Image) -> Claim | None:
    """What the data is said to be; other containers than `bare` are not looked into."""
    if image.fields["container_format"] != "bare":
        return None
    return Claim(image.fields["disk_format"], parts.format_must_match, parts.tolerated_checks)


def _room(parts: Parts, image: Image, size_bytes: int | None) -> pipe.Room | None:
    """What is left to the image's owner, for data whose size nobody has announced.

    An announced size is taken already. The rest is decided when all has come; this only sees to
    it that nobody sends for hours what cannot fit.
    """
    if size_bytes is not None or not parts.quotas.limited:
        return None
    return partial(parts.quotas.room_bytes, image.owner)


def _outcome(written: pipe.Written, hash_algorithm: str) -> dict[str, Any]:
    return {
        "url": written.url,
        "size": written.size_bytes,
        "virtual_size": written.virtual_size,
        "checksum": written.digests["md5"],
        "os_hash_algo": hash_algorithm,
        "os_hash_value": written.digests[hash_algorithm],
    }


def _expect_image(image: Image | None) -> None:
    if image is None:
        raise Gone("The image has no events.")


def _reason(error: BaseException) -> str:
    if isinstance(error, CalotypeError):
        return str(error)
    return f"the client or the connection went away ({type(error).__name__})"
