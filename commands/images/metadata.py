"""Commands on an image's metadata: create, update, tags, activation."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from calotype.commands.context import CommandContext, new_id
from calotype.commands.errors import Conflict, Forbidden
from calotype.commands.images import fields as rules
from calotype.commands.images.image import Image, create
from calotype.commands.images.locations import Place, change_locations, measure_places
from calotype.commands.images.operations import Operation
from calotype.commands.policy.actor import Actor, Cause, NewImage, Target, refused
from calotype.commands.policy.policy import require, require_new
from calotype.commands.policy.protections import require_change, require_property
from calotype.stores.log.errors import AlreadyExists


async def create_image(
    context: CommandContext, actor: Actor, cause: Cause, body: dict[str, Any]
) -> Image:
    """Registers a queued image from the body of `POST /v2/images`.

    Raises Invalid, Forbidden (foreign owner, read-only field, policy, protected property),
    LimitExceeded, and Conflict for an id that is taken, be it by a deleted image.
    """
    image_id = rules.check_id(body["id"]) if "id" in body else new_id()
    fields, tags, properties = rules.split_body(body, context.formats)
    if fields["owner"] is None and "owner" not in body:
        fields["owner"] = actor.project
    require_creation(actor, fields, properties)
    rules.check_count("properties", len(properties), context.limits.properties)
    rules.check_count("tags", len(tags), context.limits.tags)
    rules.check_values(properties, context.limits.property_value_bytes)
    document = [fields, tags, properties]
    rules.check_document("properties", None, document, context.limits.image_document_bytes)
    image = create(cause, image_id=image_id, fields=fields, tags=tags, properties=properties)
    try:
        await context.log.create(image)
    except AlreadyExists:
        raise Conflict(f"Image ID {image_id} already exists!") from None
    return image


def require_creation(actor: Actor, fields: Mapping[str, Any], properties: Iterable[str]) -> None:
    """Raises Forbidden unless the actor may make an image with these fields and properties."""
    target = NewImage(fields["owner"], fields["visibility"])
    require_new(actor, "add_image", target)
    require_visibility(actor, target, fields["visibility"])
    for name in properties:
        require_property(actor, "create", name)


async def update_image(
    context: CommandContext,
    actor: Actor,
    cause: Cause,
    image_id: UUID,
    operations: Sequence[Operation],
) -> Image:
    """Applies all operations of a PATCH as one change, or none of them.

    Raises Invalid, Forbidden, NotFound, Conflict or LimitExceeded naming the first that fails.
    """
    allowed = partial(require, actor, "modify_image")
    places: dict[str, Place] = {}
    if any(operation.path[0] == "locations" for operation in operations):
        # First of all, because who may not change the image must not have us look at any place.
        allowed(await context.log.load(image_id))
        places = await measure_places(context, operations)
    return await context.log.change(
        image_id, allowed, _patch, actor, cause, operations, places, context
    )


def _patch(
    image: Image,
    actor: Actor,
    cause: Cause,
    operations: Sequence[Operation],
    places: dict[str, Place],
    context: CommandContext,
) -> None:
    on_locations = [operation for operation in operations if operation.path[0] == "locations"]
    if on_locations:
        change_locations(image, actor, cause, on_locations, places, context)
    if len(on_locations) < len(operations):
        others = [operation for operation in operations if operation.path[0] != "locations"]
        _patch_metadata(image, actor, cause, others, context)


def _patch_metadata(
    image: Image,
    actor: Actor,
    cause: Cause,
    operations: Sequence[Operation],
    context: CommandContext,
) -> None:
    fields: dict[str, Any] = {}
    properties = dict(image.properties)
    tags: list[str] | None = None
    for operation in operations:
        name = operation.path[0]
        if name in rules.WRITABLE or name == "tags":
            _check_base_operation(actor, image, operation, name)
            if name == "tags":
                tags = rules.check_tags(operation.value)
                rules.check_count("tags", len(tags), context.limits.tags)
            else:
                fields[name] = rules.check_field(name, operation.value, context.formats)
                if name == "visibility":
                    require_visibility(actor, image, fields[name])
        else:
            _apply_to_property(actor, operation, name, properties)
    added = properties.keys() - image.properties.keys()
    if added:
        rules.check_count("properties", len(properties), context.limits.properties)
    changed = {
        name: value
        for name, value in properties.items()
        if name in added or image.properties[name] != value
    }
    rules.check_values(changed, context.limits.property_value_bytes)
    after = [{**image.fields, **fields}, image.tags if tags is None else tags, properties]
    _check_document(image, after, context)
    image.update(
        cause,
        fields=fields,
        properties=changed,
        removed_properties=sorted(image.properties.keys() - properties.keys()),
        tags=tags,
    )


def _check_document(image: Image, after: list[Any], context: CommandContext) -> None:
    before = [image.fields, image.tags, image.properties]
    rules.check_document("properties", before, after, context.limits.image_document_bytes)


def _check_base_operation(actor: Actor, image: Image, operation: Operation, name: str) -> None:
    if operation.op == "remove":
        raise Forbidden(f"Property '{name}' may not be removed.")
    if operation.op == "add" and operation.strict:
        raise Conflict(f"Property '{name}' already exists; use replace.")
    if name == "owner":
        require_owner_change(actor)


def _apply_to_property(
    actor: Actor, operation: Operation, name: str, properties: dict[str, str | None]
) -> None:
    if name in rules.HASHES or name == "id":
        raise Forbidden(f"Attribute '{name}' is read-only.")
    rules.refuse_unwritable(name)
    require_change(actor, operation.op, name, exists=name in properties, strict=operation.strict)
    if operation.op == "remove":
        del properties[name]
    else:
        properties[name] = rules.check_property(name, operation.value)


def require_owner_change(actor: Actor) -> None:
    """Raises Forbidden unless the actor may give an image away."""
    if not actor.is_admin:
        error = Forbidden("Only an administrator may change the owner of an image.")
        raise refused(error, actor, "context_is_admin")


def require_visibility(actor: Actor, image: Target, visibility: str) -> None:
    """Raises Forbidden unless the actor may make the image visible so."""
    rule = {"public": "publicize_image", "community": "communitize_image"}.get(visibility)
    if rule:
        require_new(actor, rule, image)


async def add_tag(
    context: CommandContext, actor: Actor, cause: Cause, image_id: UUID, tag: str
) -> None:
    """Adds one tag; one that is there already is no change."""
    rules.check_tag(tag)

    def add(image: Image) -> None:
        if tag not in image.tags:
            rules.check_count("tags", len(image.tags) + 1, context.limits.tags)
            after = [image.fields, [*image.tags, tag], image.properties]
            _check_document(image, after, context)
        image.add_tag(cause, tag)

    await context.log.change(image_id, partial(require, actor, "modify_image"), add)


async def remove_tag(
    context: CommandContext, actor: Actor, cause: Cause, image_id: UUID, tag: str
) -> None:
    """Removes one tag. Raises NotFound when it is not there."""
    allowed = partial(require, actor, "modify_image")
    await context.log.change(image_id, allowed, Image.remove_tag, cause, tag)


async def deactivate(context: CommandContext, actor: Actor, cause: Cause, image_id: UUID) -> None:
    """Hides the data from all but administrators."""
    allowed = partial(require, actor, "deactivate")
    await context.log.change(image_id, allowed, Image.deactivate, cause)


async def reactivate(context: CommandContext, actor: Actor, cause: Cause, image_id: UUID) -> None:
    """Makes the data available again."""
    allowed = partial(require, actor, "reactivate")
    await context.log.change(image_id, allowed, Image.reactivate, cause)
