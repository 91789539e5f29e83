"""Changing by hand where an image's bytes are: PATCH on `/locations` (Image API, old way).

Only when the operator shows locations. Bytes that Calotype wrote itself belong to the image that
they were written for: their URL cannot be given to another image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from calotype.commands.context import CommandContext
from calotype.commands.errors import Conflict, Forbidden, Invalid
from calotype.commands.images.fields import check_count, check_document
from calotype.commands.images.image import Image
from calotype.commands.images.image_state import STORED
from calotype.commands.images.operations import Operation
from calotype.commands.images.places import recorded_url, written_for
from calotype.commands.policy.actor import Actor, Cause
from calotype.commands.policy.policy import require
from calotype.stores.images.driver import StoreError
from calotype.stores.images.threads import threads_of


@dataclass(frozen=True, slots=True)
class Place:
    """A URL that a caller named, the store it is in, and the size of what lies there."""

    store: str
    size_bytes: int


async def measure_places(
    context: CommandContext, operations: Sequence[Operation]
) -> dict[str, Place]:
    """Looks up every URL that operations on locations name. Raises Forbidden or Invalid.

    What Calotype wrote may be named by the URL of before a move: that is for the image to tell.
    """
    if not context.locations_shown:
        raise Forbidden("It's not allowed to add/update/remove locations if locations are hidden.")
    places: dict[str, Place] = {}
    for operation in operations:
        if operation.path[0] == "locations" and operation.op != "remove":
            for value in _values(operation):
                url = value["url"]
                place = await _measure(context, url)
                if place is not None:
                    places[url] = place
                elif written_for(url) is None:
                    raise _unknown(url)
    return places


async def _measure(context: CommandContext, url: str) -> Place | None:
    for store, driver in context.stores.items():
        if url.startswith(("file:", "filesystem:", "swift+config:")):
            break
        try:
            size = await threads_of(driver).call(driver.size, url)
        except StoreError:
            continue
        if size > 0:
            return Place(store, size)
    return None


def _unknown(url: str) -> Invalid:
    return Invalid(f"Invalid location: no configured store has data at {url[:255]}")


def change_locations(
    image: Image,
    actor: Actor,
    cause: Cause,
    operations: Sequence[Operation],
    places: dict[str, Place],
    context: CommandContext,
) -> None:
    """Applies the operations on `/locations` in order, as one event."""
    locations = [dict(location) for location in image.locations]
    checked: dict[str, str | None] = {
        "checksum": image.checksum,
        "os_hash_algo": image.os_hash_algo,
        "os_hash_value": image.os_hash_value,
    }
    for operation in operations:
        _apply(image, actor, operation, locations, places, context, checked)
    check_count("locations", len(locations), context.limits.locations)
    stores = {url: blob.store for url, blob in image.blobs.items() if blob.state == STORED}
    for location in locations:
        url = location["url"]
        if url not in stores:
            if url not in places:
                raise _unknown(url)
            stores[url] = places[url].store
        location["metadata"] = {**location["metadata"], "store": stores[location["url"]]}
    limit = context.limits.image_document_bytes
    check_document("list of locations", image.locations, locations, limit)
    size = image.size
    if image.status == "queued":
        size = places[locations[0]["url"]].size_bytes
    image.change_locations(cause, locations=locations, stores=stores, size=size, **checked)


def _apply(
    image: Image,
    actor: Actor,
    operation: Operation,
    locations: list[dict[str, Any]],
    places: dict[str, Place],
    context: CommandContext,
    checked: dict[str, str | None],
) -> None:
    if operation.op == "remove":
        require(actor, "delete_image_location", image)
        _remove(image, operation, locations)
        return
    require(actor, "set_image_location", image)
    values = [
        {**value, "url": recorded_url(context.stores, image.id, image.blobs.values(), value["url"])}
        for value in _values(operation)
    ]
    if operation.op == "replace":
        if not values:
            raise Forbidden("The list of locations cannot be emptied; delete the image instead.")
        urls = {location["url"] for location in locations}
        if urls and urls != {value["url"] for value in values}:
            raise Invalid("Locations can only be replaced by the same URLs; use add and remove.")
        locations.clear()
    elif image.status not in ("queued", "active"):
        raise Conflict(f"Image {image.image_id} is {image.status}: its locations cannot change.")
    for value in values:
        _check_belongs(image, value["url"])
        location = {"url": value["url"], "metadata": value.get("metadata", {})}
        if any(_same(location, other) for other in locations):
            raise Invalid(f"Location {location['url']} is there already.")
        _take_validation(image, value.get("validation_data"), context, checked)
        locations.insert(_position(operation, len(locations)), location)


def _remove(image: Image, operation: Operation, locations: list[dict[str, Any]]) -> None:
    if image.status != "active":
        raise Conflict(f"Image {image.image_id} is {image.status}: its locations cannot change.")
    if len(locations) == 1:
        raise Forbidden("The last location of an active image cannot be removed.")
    position = _position(operation, len(locations) - 1)
    del locations[position]


def _position(operation: Operation, end: int) -> int:
    if len(operation.path) == 1 or operation.path[1] == "-":
        return end
    text = operation.path[1]
    if not text.isdecimal() or int(text) > end:
        raise Invalid(f"There is no location at position '{text[:20]}' (use 0 to {end}, or '-').")
    return int(text)


def _values(operation: Operation) -> list[dict[str, Any]]:
    values = operation.value if operation.op == "replace" else [operation.value]
    if not isinstance(values, list):
        raise Invalid("The value of '/locations' must be an array of locations.")
    for value in values:
        if not isinstance(value, dict) or not isinstance(value.get("url"), str):
            raise Invalid("A location must be an object with a 'url' and 'metadata'.")
        if len(value["url"]) > 255:
            raise Invalid("The 'url' of a location has at most 255 characters.")
        metadata = value.get("metadata")
        if not isinstance(metadata, dict) or not all(
            isinstance(item, (str, list, dict)) for item in metadata.values()
        ):
            raise Invalid("The 'metadata' of a location must be an object of strings.")
    return values


def _take_validation(
    image: Image, given: Any, context: CommandContext, checked: dict[str, str | None]
) -> None:
    if given is None:
        return
    if not isinstance(given, dict) or not {"os_hash_algo", "os_hash_value"} <= given.keys():
        raise Invalid("'validation_data' needs both 'os_hash_algo' and 'os_hash_value'.")
    for name, value in given.items():
        if name not in checked or not isinstance(value, str):
            raise Invalid(f"'validation_data' holds text in {', '.join(checked)}; not '{name}'.")
        if checked[name] not in (None, value):
            raise Conflict(f"'{name}' differs from the value that the image already has.")
        if checked[name] is None and image.status != "queued":
            raise Conflict(f"'{name}' can only be set while the image is queued.")
    if given["os_hash_algo"] != context.hash_algorithm:
        raise Conflict(f"'os_hash_algo' must be {context.hash_algorithm}.")
    checked |= given


def _check_belongs(image: Image, url: str) -> None:
    written = written_for(url)
    if written is not None and written[0] != str(image.id):
        raise Forbidden("These bytes belong to another image.")


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def bare(location: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in location["metadata"].items() if name != "store"}

    return one["url"] == other["url"] and bare(one) == bare(other)
