"""What image data really is: the claimed disk format checked against the content.

The inspectors are those of oslo.utils, which Nova, Cinder and Glance use too. They look at the
stream as it passes; the verdict comes after the last byte and before the data becomes visible.
"""

from dataclasses import dataclass
from typing import Any

from oslo_utils.imageutils import format_inspector as inspectors

from calotype.stores.images.driver import Chunk, StoreError

_WITHOUT_VIRTUAL_SIZE = ("iso",)
_PIECE_BYTES = 1 << 18
"""Fed in pieces of this size the inspectors take the least time."""


class ContentRefused(StoreError):
    """The content is not what was claimed, or is of a kind that must not be stored."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the caller says that the data is, and how strictly that is taken."""

    disk_format: str
    must_match: bool = True
    """Whether content of another format is refused; unsafe content always is."""
    tolerated_checks: frozenset[str] = frozenset()
    """Names of safety checks of partition tables that may fail, such as `mbr`."""


class _Feed:
    """The file-like object that the library's wrapper wants to read from."""

    piece = b""

    def read(self, size: int) -> bytes:
        return self.piece


class Inspection:
    """Looks at one stream of data. Used by one thread at a time."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._feed = _Feed()
        self._stream: Any = inspectors.InspectWrapper(self._feed)  # type: ignore[arg-type]
        self._size_bytes = 0
        self._decision: list[Any] | None = None

    def update(self, chunk: Chunk) -> None:
        """Takes the next bytes of the data."""
        self._size_bytes += len(chunk)
        for start in range(0, len(chunk), _PIECE_BYTES):
            if self._decision is not None:
                return  # Every inspector has seen all that it wants to see.
            # A small chunk of bytes is the very object again, and not copied.
            self._feed.piece = bytes(chunk[start : start + _PIECE_BYTES])
            self._stream.read(_PIECE_BYTES)
            self._feed.piece = b""
            self._decide()

    def _decide(self) -> None:
        """Takes the verdict if there is one, and lets go of what the losers have captured."""
        try:
            self._decision = self._stream.formats
        except inspectors.ImageFormatError as error:
            raise ContentRefused(f"The content cannot be judged: {error}") from None
        if self._decision is not None:
            self._stream = None

    def virtual_size(self) -> int | None:
        """The size in bytes of the disk inside, None where the format does not tell.

        To be asked once, after the last byte. Raises ContentRefused.
        """
        if self._decision is None:
            self._stream.close()
            self._decide()
        found = self._found()
        self._check_safety(found)
        claimed = self._claim.disk_format
        if claimed == "raw":
            return self._size_bytes or None
        if claimed not in inspectors.ALL_FORMATS:
            if found.NAME != "raw":
                self._mismatch(f"the content is {found.NAME} and not {claimed}")
            return None
        if claimed != found.NAME:
            seen = "not recognised" if found.NAME == "raw" else f"{found.NAME}"
            self._mismatch(f"the claimed format is {claimed}, the content is {seen}")
            return None
        return None if claimed in _WITHOUT_VIRTUAL_SIZE else int(found.virtual_size)

    def _found(self) -> Any:
        found = self._decision
        assert found is not None
        names = {inspector.NAME for inspector in found}
        if names == {"iso", "gpt"}:  # A bootable CD is both, and is taken as what it is for.
            return next(inspector for inspector in found if inspector.NAME == "iso")
        if len(found) > 1:
            raise ContentRefused(f"The content is several formats at once: {', '.join(names)}.")
        return found[0]

    def _check_safety(self, found: Any) -> None:
        try:
            found.safety_check()
        except inspectors.SafetyCheckFailed as error:
            failures = set(error.failures) - (
                self._claim.tolerated_checks if found.NAME == "gpt" else frozenset()
            )
            if failures:
                raise ContentRefused(
                    f"The content ({found.NAME}) fails a safety check: "
                    f"{', '.join(sorted(failures))}."
                ) from None
        except inspectors.ImageFormatError as error:
            raise ContentRefused(f"The content cannot be judged: {error}") from None

    def _mismatch(self, text: str) -> None:
        if self._claim.must_match:
            raise ContentRefused(f"Image format mismatch: {text}.")
