"""What an image remembers of its bytes and of the projects it is offered to."""

from dataclasses import dataclass

INTENDED, STORED, DOOMED = "intended", "stored", "doomed"


@dataclass(slots=True)
class Blob:
    """Bytes in a store that this image put there, or was about to.

    `state` is `intended` from the intent event until the outcome is known, `stored` while the
    image stands on it, `doomed` from then on until the bytes are known to be gone.
    """

    url: str
    store: str
    state: str
    upload_id: str | None = None
    holder: str | None = None
    """The process that is writing it; None once the upload has ended. Nobody else touches the
    bytes while it holds a lease."""


@dataclass(slots=True)
class Member:
    """A project that a shared image is offered to."""

    status: str
    created_at: str
    updated_at: str
