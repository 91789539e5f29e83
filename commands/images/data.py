"""Commands on an image's bytes: upload, and what follows when an upload or an image is over.

The intent event goes first, then the bytes, then the outcome event. Whatever dies in between, the
log knows where bytes may lie and which process was writing them.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from calotype.commands.context import SYSTEM, CommandContext, cause_of, new_id
from calotype.commands.errors import (
    CalotypeError,
    Conflict,
    Gone,
    Invalid,
    LimitExceeded,
    Unavailable,
    UnsupportedMedia,
)
from calotype.commands.images.image import Image
from calotype.commands.images.image_state import DOOMED, Blob
from calotype.commands.images.places import url_now
from calotype.commands.policy.actor import Actor, Cause
from calotype.commands.policy.policy import require
from calotype.stores.images import driver as stores
from calotype.stores.images import pipe
from calotype.stores.images.inspecting import Claim, ContentRefused
from calotype.stores.images.threads import threads_of

_REFUSALS: dict[type[stores.StoreError], tuple[type[CalotypeError], str]] = {
    stores.StoreFull: (LimitExceeded, "Store '{}' has no space left for this."),
    stores.StoreForbidden: (Unavailable, "Store '{}' refuses this service."),
    stores.DataExists: (Conflict, "Store '{}' has other data in this place already."),
    stores.DataMissing: (Gone, "Store '{}' no longer has this data."),
    stores.StoreUnavailable: (Unavailable, "Store '{}' cannot be reached; try again later."),
    # These explain themselves: they are about what the caller has sent.
    pipe.TooLarge: (LimitExceeded, ""),
    pipe.SizeMismatch: (Invalid, ""),
    pipe.DigestMismatch: (Invalid, ""),
    ContentRefused: (UnsupportedMedia, ""),
}
"""The domain's error for each error of a store, and its text with the store's name."""
_LEASE_PATIENCE_SECONDS = 5.0
"""How long an upload that has come waits for the log to say that this process lives."""
LARGEST_BYTES = 1 << 50
"""No image is larger, whatever the limits, so that sums of announced sizes stay countable."""

log = structlog.get_logger("calotype.data")


def refusal_of(error: stores.StoreError, store: str) -> CalotypeError:
    """The domain's error for what the store of this name refused with.

    Clients learn the store's name; its directory or address is for the service's own log.
    """
    refusal, sentence = next(
        (found for kind, found in _REFUSALS.items() if isinstance(error, kind)), (Unavailable, "")
    )
    if sentence:
        log.warning("store refused", store=store, error=str(error))
    return refusal(sentence.format(store) or str(error))


async def upload_data(
    context: CommandContext,
    actor: Actor,
    cause: Cause,
    image_id: UUID,
    chunks: AsyncIterator[bytes],
    *,
    size_bytes: int | None,
    md5: str | None = None,
) -> Image:
    """Stores the bytes of a queued image and makes it active.

    `size_bytes` is what the caller announced (None: unknown); `md5` its hexadecimal Content-MD5.
    Raises Conflict when the image is not queued, Invalid when size or hash differ from what was
    announced, LimitExceeded for the size cap, a quota or a full store, Gone when the image was
    deleted or the upload given up meanwhile, Unavailable when the store or the log does not answer.
    After any failure the image is queued again and nothing is left in the store, at once or as soon
    as log and store can be reached.
    """
    cap = _size_cap(context, size_bytes)
    upload_id = secrets.token_hex(6)
    driver = context.stores[context.default_store]
    _expect_answers(context, driver)
    key = f"{image_id}-{upload_id}"
    # Known as running before the intent is on record, so that no sweep takes it for a dead one.
    context.uploads.add(upload_id)
    try:
        image = await context.log.change(
            image_id,
            partial(require, actor, "upload_image"),
            Image.start_upload,
            cause,
            upload_id=upload_id,
            store=context.default_store,
            url=driver.base_url + key,
            holder=context.process_id,
            announced_size=size_bytes,
        )
        async with _given_up_on_failure(context, cause, image_id, upload_id):
            written = await pipe.write(
                driver,
                key,
                chunks,
                size_bytes=size_bytes,
                limit_bytes=cap,
                algorithms=("md5", context.hash_algorithm),
                expected={"md5": md5} if md5 else {},
                claim=_claim(context, image),
                room=_room(context, image, size_bytes),
                leave=_Leave(context, image_id, upload_id),
            )
            outcome = _outcome(upload_id, written, context.hash_algorithm)
            change = Image.store_data
            return await context.log.change(image_id, expect_image, change, cause, **outcome)
    finally:
        context.uploads.discard(upload_id)


@asynccontextmanager
async def _given_up_on_failure(
    context: CommandContext, cause: Cause, aggregate_id: UUID, upload_id: str
) -> AsyncIterator[None]:
    """Around what follows an intent on record: whatever fails, the upload is given up.

    Raises the failure, one of the store as the domain's error for it.
    """
    try:
        yield
    except BaseException as error:
        refusal: BaseException = error
        if isinstance(error, stores.StoreError):
            refusal = refusal_of(error, context.default_store)
        # Shielded, because most clients of a broken upload went away. What fails now (the log is
        # down, say) is done later: the intent is on record, but no longer in `uploads`.
        with suppress(Exception):
            await asyncio.shield(_end(context, cause, aggregate_id, upload_id, refusal))
        if refusal is not error:
            raise refusal from error
        raise


class _Leave:
    """The leave to let an upload's bytes appear: no other process may have given the upload up.

    While this process's lease cannot have run out, no other gives its uploads up. After a lapse
    one may have, so the log is asked once more, under the lease that was taken again. What is left
    is the moment between the last check of the lease and the store's own commit: a process that is
    held up just there finds the outcome refused, and removes what it has written.
    """

    def __init__(self, context: CommandContext, aggregate_id: UUID, upload_id: str) -> None:
        self._context = context
        self._aggregate_id = aggregate_id
        self._upload_id = upload_id
        self._lapses = context.lease.lapses if context.lease is not None else 0

    async def ask(self) -> None:
        """Raises Unavailable while the lease cannot be had, Gone for an upload given up."""
        lease = self._context.lease
        if lease is None or (lease.sure and lease.lapses == self._lapses):
            return
        try:
            async with asyncio.timeout(_LEASE_PATIENCE_SECONDS):
                await lease.held()
                lapses = lease.lapses
                image = await self._context.log.load(self._aggregate_id)
        except Exception as error:
            raise Unavailable("The log cannot be reached to finish the upload.") from error
        if image is None or image.status != "saving" or image.upload_id != self._upload_id:
            raise Gone(f"The upload to image {self._aggregate_id} was given up meanwhile.")
        self._lapses = lapses

    def check(self) -> None:
        """Raises Unavailable unless the lease is still the one that `ask` has seen."""
        lease = self._context.lease
        if lease is not None and not (lease.sure and lease.lapses == self._lapses):
            raise Unavailable("This process was held up too long to finish the upload.")


async def _end(
    context: CommandContext,
    cause: Cause,
    aggregate_id: UUID,
    upload_id: str,
    refusal: BaseException,
) -> None:
    """Gives the upload up, and removes whatever it may have written."""
    stray = (context.default_store, aggregate_id, upload_id)
    context.strays.add(stray)
    image = await give_up_upload(context, cause, aggregate_id, upload_id, _reason(refusal))
    if not _knows(image, upload_id):
        await remove_strays(context)
        return
    context.strays.discard(stray)
    if not isinstance(refusal, Unavailable):
        await remove_garbage(context, image)
    else:
        hand_over_garbage(context, image)  # No caller waits for a store that has just failed.


def _knows(image: Image, upload_id: str) -> bool:
    return any(blob.upload_id == upload_id for blob in image.blobs.values())


async def give_up_upload(
    context: CommandContext, cause: Cause, aggregate_id: UUID, upload_id: str, reason: str
) -> Image:
    """Ends an upload without data: the image is queued again, its bytes are garbage.

    No change where that upload is not under way any more.
    """
    return await context.log.change(
        aggregate_id, expect_image, Image.fail_upload, cause, upload_id=upload_id, reason=reason
    )


def garbage_of(image: Image) -> list[Blob]:
    """What may be removed: bytes that no image uses, and no process writes any more."""
    return [blob for blob in image.blobs.values() if blob.state == DOOMED and not blob.holder]


def hand_over_garbage(context: CommandContext, image: Image) -> None:
    """Lets the sweeper begin at once; what does not fit its queue it finds by itself."""
    if any(blob.state == DOOMED for blob in image.blobs.values()) and not context.garbage.full():
        context.garbage.put_nowait(image)


async def remove_garbage(context: CommandContext, image: Image) -> int:
    """Removes the doomed bytes of an image from their stores and records it; returns how many.

    Bytes whose store is not reachable now stay doomed, for the next sweep.
    """
    removed = 0
    for blob in garbage_of(image):
        with suppress(stores.StoreError):
            removed += await remove_blob(context, image, blob)
    return removed


async def remove_blob(context: CommandContext, image: Image, blob: Blob) -> int:
    """Removes one of an image's doomed blobs, finished or not, and records it; how many that were.

    Raises StoreError while the store cannot do it.
    """
    driver = context.stores.get(blob.store)
    if driver is None:
        return 0
    url = url_now(driver, image.id, blob.url)
    was_there = await threads_of(driver).call(_clear, driver, url)
    await context.log.change(
        image.id,
        expect_image,
        Image.note_data_removed,
        cause_of(SYSTEM, "req-" + new_id()),
        url=blob.url,
        reason=_why_garbage(image) + ("" if was_there else "; nothing was there"),
    )
    return 1


async def remove_strays(context: CommandContext) -> None:
    """Removes what this process has written for uploads that were given up, and forgotten, before.

    What log or store refuse is tried again the next time.
    """
    for stray in list(context.strays):
        store, aggregate_id, upload_id = stray
        image = await context.log.load(aggregate_id)
        if image is not None and _knows(image, upload_id):
            context.strays.discard(stray)  # It is on record, so it is not forgotten.
            continue
        driver = context.stores[store]
        with suppress(stores.StoreError):
            url = driver.url_of(f"{aggregate_id}-{upload_id}")
            await threads_of(driver).call(_clear, driver, url)
            context.strays.discard(stray)


def _clear(driver: stores.Driver, url: str) -> bool:
    """Leaves nothing under the URL; whether there were finished bytes.

    Unfinished things go first: a write that is under way then cannot be finished any more.
    """
    driver.break_off(url)
    try:
        driver.delete(url)
    except stores.DataMissing:
        return False
    return True


def _expect_answers(context: CommandContext, driver: stores.Driver) -> None:
    """Raises Unavailable before anything is begun with a store that is down."""
    try:
        threads_of(driver).expect_answers()
    except stores.StoreUnavailable as error:
        raise refusal_of(error, context.default_store) from error


def _why_garbage(image: Image) -> str:
    deletion = image.deletion
    if deletion is None:
        return f"image is {image.status}"
    reason = f"image was deleted by its event {deletion.version}"
    return f"{reason}; {deletion.purge_reason}" if deletion.purge_reason else reason


def _size_cap(context: CommandContext, size_bytes: int | None) -> int:
    """How many bytes an image may have. Raises LimitExceeded when more are announced."""
    cap = context.limits.image_size_bytes
    cap = LARGEST_BYTES if cap < 0 else min(cap, LARGEST_BYTES)
    if size_bytes is not None and size_bytes > cap:
        raise LimitExceeded(f"The image has {size_bytes} bytes; at most {cap} are allowed.")
    return cap


def _claim(context: CommandContext, image: Image) -> Claim | None:
    """What the data is said to be; other containers than `bare` are not looked into."""
    if image.fields["container_format"] != "bare":
        return None
    return Claim(image.fields["disk_format"], context.format_must_match, context.tolerated_checks)


def _room(context: CommandContext, image: Image, size_bytes: int | None) -> pipe.Room | None:
    """What is left to the image's owner, for data whose size nobody has announced.

    An announced size is taken already. The rest is decided when all has come; this only sees to
    it that nobody sends for hours what cannot fit.
    """
    if size_bytes is not None or not context.quotas.limited:
        return None
    return partial(context.quotas.room_bytes, image.owner)


def _outcome(upload_id: str, written: pipe.Written, hash_algorithm: str) -> dict[str, Any]:
    return {
        "upload_id": upload_id,
        "url": written.url,
        "size": written.size_bytes,
        "virtual_size": written.virtual_size,
        "checksum": written.digests["md5"],
        "os_hash_algo": hash_algorithm,
        "os_hash_value": written.digests[hash_algorithm],
    }


def expect_image(image: Image | None) -> None:
    """Raises Gone where there is no image; the check of changes that nobody has to be allowed."""
    if image is None:
        raise Gone("The image has no events.")


def _reason(error: BaseException) -> str:
    if isinstance(error, CalotypeError):
        return str(error)
    return f"the client or the connection went away ({type(error).__name__})"
