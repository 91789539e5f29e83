"""The two JSON-patch media types of the Image API, parsed to operations."""

import re
from typing import Any

from calotype.commands.errors import Invalid, UnsupportedMedia
from calotype.commands.images.operations import Operation

V21 = "application/openstack-images-v2.1-json-patch"
V20 = "application/openstack-images-v2.0-json-patch"
_OPS = ("add", "remove", "replace")
_BAD_ESCAPE = re.compile("~(?![01])")


class UnsupportedPatchMedia(UnsupportedMedia):
    """The body is no JSON patch that we take (415, with the media types that we do)."""

    headers = {"Accept-Patch": f"{V21}, {V20}"}


def parse_patch(content_type: str | None, body: object) -> tuple[Operation, ...]:
    """The operations of a PATCH body. Raises UnsupportedPatchMedia or Invalid."""
    media = (content_type or "").partition(";")[0].strip().lower()
    if media not in (V20, V21):
        raise UnsupportedPatchMedia(
            f"Content-Type '{media[:80]}' is not supported; use {V21} or {V20}."
        )
    if not isinstance(body, list):
        raise Invalid("The body must be a JSON array of operations.")
    parse = _parse_v21 if media == V21 else _parse_v20
    return tuple(parse(number, change) for number, change in enumerate(body))


def _parse_v21(number: int, change: Any) -> Operation:
    if not isinstance(change, dict):
        raise Invalid(f"Operation {number} must be an object with 'op' and 'path'.")
    op = change.get("op")
    if op not in _OPS:
        raise Invalid(f"Operation {number}: 'op' must be one of {', '.join(_OPS)}.")
    return _operation(number, op, change.get("path"), change, strict=False)


def _parse_v20(number: int, change: Any) -> Operation:
    if not isinstance(change, dict):
        raise Invalid(f"Operation {number} must be an object.")
    ops = [op for op in _OPS if op in change]
    if len(ops) != 1:
        raise Invalid(f"Operation {number} must have exactly one member of {', '.join(_OPS)}.")
    return _operation(number, ops[0], change[ops[0]], change, strict=True)


def _operation(
    number: int, op: Any, pointer: Any, change: dict[str, Any], *, strict: bool
) -> Operation:
    if not isinstance(pointer, str):
        raise Invalid(f"Operation {number} needs a 'path' that is a JSON pointer.")
    path = parse_pointer(pointer)
    deep_enough = path[0] == "locations" and op in ("add", "remove")
    if len(path) != (2 if deep_enough else 1):
        raise Invalid(f"Operation {number}: path '{pointer[:80]}' has the wrong depth.")
    if op == "remove":
        return Operation(op, path, strict=strict)
    if "value" not in change:
        raise Invalid(f"Operation {number}: '{op}' needs a 'value'.")
    return Operation(op, path, change["value"], strict)


def parse_pointer(pointer: str) -> tuple[str, ...]:
    """The tokens of a JSON pointer, unescaped and trimmed. Raises Invalid."""
    if not pointer.startswith("/"):
        raise Invalid(f"Pointer '{pointer[:80]}' must start with '/'.")
    if pointer != "/" and (pointer.endswith("/") or "//" in pointer):
        raise Invalid(f"Pointer '{pointer[:80]}' has an empty part.")
    if _BAD_ESCAPE.search(pointer):
        raise Invalid(f"Pointer '{pointer[:80]}' has a '~' that is neither '~0' nor '~1'.")
    return tuple(
        token.strip().replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/")
    )
