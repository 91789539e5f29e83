"""What a URL in an event tells of the bytes that Calotype wrote: their key, which never changes.

The data directory or the endpoint may have moved since the event, so the rest of the URL is only
where the bytes were at the time. A key begins with the id of its image, so that it says by itself
whose bytes they are. URLs that Calotype did not write stay URLs.
"""

import re
from uuid import UUID

_OWN_KEY = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-([0-9a-f]{12})")


def written_for(url: str) -> tuple[str, str] | None:
    """Image and upload whose bytes Calotype wrote under this key or URL; None for any other."""
    match = _OWN_KEY.fullmatch(url.rpartition("/")[2])
    return (match[1], match[2]) if match else None


def key_of(image_id: UUID | str, url: str) -> str | None:
    """The key of bytes that Calotype wrote for this image; None: the URL is all that is known."""
    written = written_for(url)
    return url.rpartition("/")[2] if written and written[0] == str(image_id) else None
