"""What a command may refuse with: the errors of the domain.

A command raises one of these; `calotype.http.errors` turns each into an answer in one place.
The message is shown to the caller, so it names the field and the fix and never holds a secret.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Decision:
    """What a refusal rests on, for the operator's log; callers are not shown it."""

    rule: str
    """The name of the policy's rule, of a protection or of a limit."""
    actor: dict[str, Any]


class CalotypeError(Exception):
    """The root of every refusal; the first argument is the explanation shown to the caller."""

    decision: Decision | None = None
    """Set where a policy, a protection or a quota refused."""

    @property
    def explanation(self) -> str:
        return str(self.args[0]) if self.args else ""


class Invalid(CalotypeError):
    """The request makes no sense as it stands (400); `field` names the part that is wrong."""

    def __init__(self, explanation: str = "", field: str | None = None) -> None:
        super().__init__(explanation)
        self.field = field


class Forbidden(CalotypeError):
    """The caller may see the target but may not do this to it (403)."""


class NotFound(CalotypeError):
    """There is no such thing, or the caller may not know that there is (404); `field` names the
    part of the request that asked for it."""

    def __init__(self, explanation: str = "", field: str | None = None) -> None:
        super().__init__(explanation)
        self.field = field


class Conflict(CalotypeError):
    """The target's state, or another change at the same moment, forbids it (409)."""


class Gone(CalotypeError):
    """The image was deleted or moved on while its data was being written (410)."""


class LimitExceeded(CalotypeError):
    """A quota, a size limit or the store's space would be exceeded (413)."""


class UnsupportedMedia(CalotypeError):
    """The body's media type, or its content, is not one we take (415)."""


class RangeUnsatisfiable(CalotypeError):
    """The requested byte range lies outside the data (416)."""


class Unavailable(CalotypeError):
    """A part that this needs is down or overloaded; the same request may succeed later (503)."""
