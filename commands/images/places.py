"""Where bytes are today: those that Calotype wrote are found by store and key, not by their URL.

A key never changes, and begins with the id of its image, so that it shows by itself whose bytes
they are. The data directory or the endpoint may have moved since an event named a URL, so the rest
of that URL only says where the bytes were at the time. URLs that Calotype did not write stay URLs.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from calotype.commands.images.image_state import Blob
from calotype.stores.images.driver import Driver

_OWN_KEY = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-([0-9a-f]{12})")


def written_for(url: str) -> tuple[str, str] | None:
    """Image and upload whose bytes Calotype wrote under this key or URL; None for any other."""
    match = _OWN_KEY.fullmatch(url.rpartition("/")[2])
    return (match[1], match[2]) if match else None


def key_of(image_id: UUID | str, url: str) -> str | None:
    """The key of bytes that Calotype wrote for this image; None: the URL is all that is known."""
    written = written_for(url)
    return url.rpartition("/")[2] if written and written[0] == str(image_id) else None


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
