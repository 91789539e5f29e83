"""Commands on whom a shared image is offered to."""

from functools import partial
from typing import Any
from uuid import UUID

from calotype.commands.context import CommandContext
from calotype.commands.errors import Forbidden, Invalid, LimitExceeded, NotFound
from calotype.commands.images import fields as rules
from calotype.commands.images.image import Image
from calotype.commands.policy.actor import Actor, Cause, Target, refused
from calotype.commands.policy.policy import allows, require


async def add_member(
    context: CommandContext, actor: Actor, cause: Cause, image_id: UUID, body: dict[str, Any]
) -> tuple[Image, str]:
    """Offers the image to the project named in the body; returns it and that name."""
    if "member" not in body:
        raise Invalid("The body must be an object with a 'member': the id of a project.")
    name = rules.check_text("member", body["member"])
    if not name:
        raise Invalid("Property 'member' must not be empty: give the id of a project.")

    def add(image: Image) -> None:
        limit = context.limits.members
        if name not in image.members and 0 <= limit < len(image.members) + 1:
            raise LimitExceeded(
                "The limit has been exceeded on the number of allowed image members for this "
                f"image. Attempted: {len(image.members) + 1}, Maximum: {limit}"
            )
        # Those that were members are remembered, so that they come back with their first date.
        names = [*image.members, *image.former_members]
        if name not in names:
            most = context.limits.image_document_bytes
            rules.check_document("list of members", names, [*names, name], most)
        image.add_member(cause, name)

    allowed = partial(require_member_rule, actor, "add_member")
    return await context.log.change(image_id, allowed, add), name


async def set_member_status(
    context: CommandContext,
    actor: Actor,
    cause: Cause,
    image_id: UUID,
    member: str,
    body: dict[str, Any],
) -> Image:
    """Sets the invited project's answer; only that project or an administrator may."""
    if "status" not in body:
        raise Invalid("The body must be an object with a 'status'.")

    def answer(image: Image) -> None:
        status = body["status"]
        # Who may not know of the image is not told what is wrong with the answer.
        if member in image.members and status not in rules.MEMBER_STATUSES:
            raise Invalid(f"Property 'status' must be one of {', '.join(rules.MEMBER_STATUSES)}.")
        image.set_member_status(cause, member, status)

    allowed = partial(require_answer, actor, member)
    return await context.log.change(image_id, allowed, answer)


def require_answer(actor: Actor, member: str, image: Target | None) -> None:
    """Raises Forbidden or NotFound unless the actor may answer for the member."""
    target = _with_member(actor, member, image)
    if not allows(actor, "modify_member", target):
        text = "Only the invited project may set its status."
        raise refused(Forbidden(text), actor, "modify_member")


async def remove_member(
    context: CommandContext, actor: Actor, cause: Cause, image_id: UUID, member: str
) -> None:
    """Withdraws the offer; only the owner or an administrator may."""
    allowed = partial(require_removal, actor, member)
    await context.log.change(image_id, allowed, Image.remove_member, cause, member)


def require_removal(actor: Actor, member: str, image: Target | None) -> None:
    """Raises Forbidden or NotFound unless the actor may withdraw the offer to the member."""
    require(actor, "delete_member", _with_member(actor, member, image))


def require_member_rule(actor: Actor, rule: str, image: Target | None) -> None:
    """Raises Forbidden or NotFound unless the rule, one of those on members, holds.

    Whoever may not see the image does not know of its members, whatever the rule itself says.
    """
    require(actor, "get_image", image)
    if image is not None and image.visibility != "shared":
        raise Forbidden("Only shared images have members.")
    require(actor, rule, image)


def _with_member(actor: Actor, member: str, image: Target | None) -> Target:
    """The image, if it was offered to the member and the actor may know of that."""
    require_member_rule(actor, "get_member", image)
    assert image is not None
    # A project knows of its own invitation only; owner and administrators of all.
    knows = actor.is_admin or actor.project in (member, image.owner)
    if not knows or not image.has_member(member):
        raise NotFound(f"No member {member} of that image")
    return image
