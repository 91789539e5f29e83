"""What a command may refuse with: the errors of the domain.

A command raises one of these; `calotype.http.errors` turns each into an answer in one place.
The message is shown to the caller, so it names the field and the fix and never holds a secret.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Decision:
    """What a refusal rests on, for the operator's log; callers are not shown it."""

    rule: str
    """The name of the policy's rule, of a protection or of a limit."""
    actor: dict[str, Any]


class CalotypeError(Exception):
    """The root of every refusal, with the explanation shown to the caller.

    `field` names the part of the request that is wrong, where it is one part.
    """

    status: ClassVar[int] = 500
    """The HTTP status of the answer."""
    headers: Mapping[str, str] = {}
    """Headers of the answer."""
    decision: Decision | None = None
    """Set where a policy, a protection or a quota refused."""

    def __init__(self, explanation: str = "", field: str | None = None) -> None:
        super().__init__(explanation)
        self.explanation = explanation
        self.field = field


class Invalid(CalotypeError):
    """The request makes no sense as it stands (400)."""

    status = 400


class Forbidden(CalotypeError):
    """The caller may see the target but may not do this to it (403)."""

    status = 403


class NotFound(CalotypeError):
    """There is no such thing, or the caller may not know that there is (404)."""

    status = 404


class Conflict(CalotypeError):
    """The target's state, or another change at the same moment, forbids it (409)."""

    status = 409


class Gone(CalotypeError):
    """The image was deleted or moved on while its data was being written (410)."""

    status = 410


class LimitExceeded(CalotypeError):
    """A quota, a size limit or the store's space would be exceeded (413)."""

    status = 413


class UnsupportedMedia(CalotypeError):
    """The body's media type, or its content, is not one we take (415)."""

    status = 415


class RangeUnsatisfiable(CalotypeError):
    """The requested byte range lies outside the data (416)."""

    status = 416


class Unavailable(CalotypeError):
    """A part that this needs is down or overloaded; the same request may succeed later (503)."""

    status = 503
