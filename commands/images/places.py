"""Where bytes are today: those that Calotype wrote are found by store and key, not by their URL."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from calotype.commands.images.image_state import Blob
from calotype.commands.images.keys import key_of
from calotype.stores.images.driver import Driver


def url_now(driver: Driver, image_id: UUID | str, url: str) -> str:
    """Where the bytes are that stood at `url` when the event was written."""
    key = key_of(image_id, url)
    return url if key is None else driver.url_of(key)


def places_now(
    stores: Mapping[str, Driver], image_id: UUID | str, locations: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Locations as clients are shown them: each with the URL that its store has today."""
    shown = []
    for place in locations:
        driver = stores.get(place["metadata"].get("store", ""))
        url = place["url"] if driver is None else url_now(driver, image_id, place["url"])
        shown.append({**place, "url": url})
    return shown


def recorded_url(
    stores: Mapping[str, Driver], image_id: UUID | str, blobs: Iterable[Blob], url: str
) -> str:
    """The URL under which the image knows the bytes that a caller names by today's or an old one.

    `url` itself where the image knows nothing of them.
    """
    for blob in blobs:
        driver = stores.get(blob.store)
        if driver is not None and url == url_now(driver, image_id, blob.url):
            return blob.url
    return url
