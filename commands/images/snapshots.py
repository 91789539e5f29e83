"""The state of an image as text, and the fingerprint of the code that makes it.

The fingerprint is that of the source of every class that takes part in the fold: who changes what
an event does, or what the state holds, need not think of snapshots, because those of the code
before are then not used any more.
"""

import inspect
import sys
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson

from calotype.commands.images.events import EVENT_TYPES
from calotype.commands.images.image import Image
from calotype.commands.images.image_state import Blob, Deletion, Member
from calotype.stores.log.snapshots import Snapshots

_TIMES = ("_created_on", "_modified_on", "changed_on")
_PENDING = "_pending_events"


def encode_image(image: Image) -> str:
    """Everything that the image remembers; what is pending is not part of it."""
    state = {name: value for name, value in vars(image).items() if name != _PENDING}
    return orjson.dumps(state, option=orjson.OPT_UTC_Z).decode()


def decode_image(text: str) -> Image:
    """The image that `encode_image` was given."""
    state: dict[str, Any] = orjson.loads(text)
    state["_id"] = UUID(state["_id"])
    for name in _TIMES:
        state[name] = datetime.fromisoformat(state[name])
    state["blobs"] = {url: Blob(**facts) for url, facts in state["blobs"].items()}
    state["members"] = {name: Member(**facts) for name, facts in state["members"].items()}
    state["deletion"] = state["deletion"] and Deletion(**state["deletion"])
    image = Image.__new__(Image)
    vars(image).update(state, **{_PENDING: []})
    return image


def fingerprint_of(*parts: type | Callable[..., Any]) -> str:
    """A digest of the source of the modules that these classes and functions stand in."""
    modules = {__name__, *(part.__module__ for part in parts)}
    digest = sha256()
    for name in sorted(modules):
        digest.update(f"{name}\n{inspect.getsource(sys.modules[name])}\n".encode())
    return digest.hexdigest()[:32]


IMAGE_SNAPSHOTS = Snapshots(
    fingerprint_of(Image, Blob, Member, Deletion, *EVENT_TYPES.values()), encode_image, decode_image
)
