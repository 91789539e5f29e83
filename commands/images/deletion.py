"""Commands on the end of an image: delete, restore, purge.

With a retention, deleting keeps the bytes until the window that the deletion promised is over.
What ends the window, time or an operator, is an event before any byte is touched; restoring is
another. Both carry the image's version, so of the two the log takes one, and bytes are removed only
of images that can never come back.
"""

from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from calotype.commands.context import SYSTEM, CommandContext, cause_of, new_id
from calotype.commands.errors import Conflict, Forbidden, Gone, Invalid, NotFound
from calotype.commands.images.data import expect_image, hand_over_garbage, refusal_of
from calotype.commands.images.events import Purged, Restored, clock_text
from calotype.commands.images.fields import check_text
from calotype.commands.images.image import Image
from calotype.commands.images.image_state import RETAINED, Deletion
from calotype.commands.images.places import url_now
from calotype.commands.policy.actor import Actor, Cause, refused
from calotype.commands.policy.policy import allows, require
from calotype.stores.images.driver import StoreError
from calotype.stores.images.threads import threads_of


async def delete_image(
    context: CommandContext, actor: Actor, cause: Cause, image_id: UUID
) -> Image:
    """Deletes the image; it can be restored while the retention lasts, if there is one.

    Bytes that are not retained become garbage.
    """
    image = await context.log.change(
        image_id,
        partial(require, actor, "delete_image"),
        Image.delete,
        cause,
        retention_seconds=context.retention_seconds,
    )
    hand_over_garbage(context, image)
    return image


async def restore_image(
    context: CommandContext, actor: Actor, cause: Cause, image_id: UUID
) -> Image:
    """Takes the deletion back: the image is as it was, under its id, with its bytes.

    An upload that was under way has ended; such an image is queued. Raises NotFound, Forbidden,
    Conflict for an image that is not deleted, Gone when its data is no longer kept,
    LimitExceeded when its owner has no room for it, and Unavailable while its store is silent.
    """
    allowed = partial(require_deleted, actor, "restore_image", image_id)
    image = await context.log.load(image_id)
    allowed(image)
    assert image is not None
    _require_open(image, datetime.now(UTC))
    await _require_bytes(context, image)
    return await context.log.change(image_id, allowed, restore, cause)


async def purge_image(
    context: CommandContext, actor: Actor, cause: Cause, image_id: UUID, reason: object
) -> Image:
    """Gives up what a deleted image has kept, now and for good; its bytes become garbage.

    Raises NotFound, Forbidden, Conflict for an image that is not deleted, Gone when nothing was
    kept, and Invalid for a reason that is not text of 1 to 255 characters.
    """
    given = check_text("reason", reason).strip()
    if not given:
        raise Invalid("Property 'reason' must not be empty: say why, for the record.", "reason")
    image = await context.log.change(
        image_id,
        partial(require_deleted, actor, "purge_image", image_id),
        purge,
        cause,
        reason=f"purged: {given}",
    )
    hand_over_garbage(context, image)
    return image


async def end_retention(context: CommandContext, image_id: UUID) -> Image:
    """Gives up what an image has kept if its window is over; no change if it is not."""
    cause = cause_of(SYSTEM, "req-" + new_id())
    return await context.log.change(image_id, expect_image, _purge_when_over, cause)


# ---- decisions ----


def restore(image: Image, cause: Cause) -> None:
    """Raises Conflict unless the image is deleted, Gone when it is too late."""
    deletion = _require_open(image, datetime.now(UTC))
    image.trigger_event(
        Restored,
        deletion=deletion.version,
        restored_to=deletion.restores_to,
        **cause.facts(),
    )


def purge(image: Image, cause: Cause, *, reason: str) -> None:
    """Raises Conflict unless the image is deleted, Gone when it has kept nothing."""
    deletion = _require_kept(image)
    image.trigger_event(
        Purged,
        deletion=deletion.version,
        retained_until=deletion.retained_until,
        reason=reason,
        **cause.facts(),
    )


def _purge_when_over(image: Image, cause: Cause) -> None:
    deletion = image.deletion
    if deletion is None or deletion.retained_until is None or deletion.purged_at is not None:
        return  # Somebody restored or purged it meanwhile.
    if deletion.retained_until <= clock_text(datetime.now(UTC)):
        purge(image, cause, reason=f"retention was over at {deletion.retained_until}")


# ---- what must hold ----


def _require_kept(image: Image) -> Deletion:
    deletion = image.deletion
    if deletion is None:
        raise Conflict(f"Image {image.image_id} is not deleted; it is {image.status}.")
    if deletion.retained_until is None:
        raise Gone(
            f"Image {image.image_id} was deleted at {deletion.deleted_at} without retention: "
            "its data went then."
        )
    if deletion.purged_at is not None:
        raise Gone(
            f"The data of image {image.image_id} was given up at {deletion.purged_at}: "
            f"{deletion.purge_reason}."
        )
    return deletion


def _require_open(image: Image, now: datetime) -> Deletion:
    deletion = _require_kept(image)
    assert deletion.retained_until is not None
    # Decided by the clock alone, so that the answer does not depend on when the sweeper comes.
    if deletion.retained_until <= clock_text(now):
        raise Gone(
            f"Image {image.image_id} could be restored until {deletion.retained_until}; "
            "its data is gone or about to go."
        )
    return deletion


async def _require_bytes(context: CommandContext, image: Image) -> None:
    """Raises Gone when bytes that Calotype wrote have left their store by another way."""
    for blob in image.blobs.values():
        driver = context.stores.get(blob.store)
        # Places that were named by hand were never ours to vouch for: they simply come back.
        if blob.state != RETAINED or blob.upload_id is None or driver is None:
            continue
        try:
            url = url_now(driver, image.id, blob.url)
            there = await threads_of(driver).call(driver.exists, url)
        except StoreError as error:
            raise refusal_of(error, blob.store) from error
        if not there:
            raise Gone(
                f"The data of image {image.image_id} is missing in store '{blob.store}', though "
                f"it was to be kept until {image.deletion and image.deletion.retained_until}."
            )


def require_deleted(actor: Actor, rule: str, image_id: UUID, image: Image | None) -> None:
    """The policy's answer where the image may be a deleted one, which `require` never finds.

    Raises Forbidden or NotFound.
    """
    if image is not None:
        if allows(actor, rule, image):
            return
        # Who may read the history of a deleted image knows that there was one.
        knows = (
            actor.policy.holds("get_image_history", actor, image)
            if image.status == "deleted"
            else allows(actor, "get_image", image)
        )
        if knows:
            refusal = Forbidden(f"You are not authorized to complete {rule} action.")
            raise refused(refusal, actor, rule)
        raise refused(NotFound(f"No image found with ID {image_id}"), actor, rule)
    raise NotFound(f"No image found with ID {image_id}")
