"""Tamper evidence: checkpoints, tiles and proofs of the sealed log, for admins and auditors."""

import re

import orjson
from aiohttp import web

from calotype.commands.errors import Invalid, NotFound
from calotype.commands.policy import require_call
from calotype.http.conversation import API, actor_of, json_answer
from calotype.projections.positions import positions_of
from calotype.projections.sealed import NotSealed, Sealed, in_base64
from calotype.projections.tiles import HIGHEST_LEVEL, WIDTH, Tile, read_index_path

IMMUTABLE = "private, max-age=31536000, immutable"
"""Full tiles never change; only who may see them may keep them."""

_SIZE = re.compile(r"[1-9][0-9]{0,17}")


def _sealed(request: web.Request) -> Sealed:
    """The seal, if this caller may see it. Raises Forbidden."""
    text = "The seal of the event log is for the roles admin and auditor."
    require_call(actor_of(request), "get_seal", text)
    return Sealed(request.app[API].parts.log.recorder)


async def checkpoint(request: web.Request) -> web.Response:
    """The newest signed checkpoint (C2SP tlog-checkpoint)."""
    sealed = _sealed(request)
    try:
        note = await sealed.checkpoint()
    except NotSealed as error:
        raise NotFound(str(error)) from None
    return web.Response(
        text=note, content_type="text/plain", charset="utf-8", headers={"Cache-Control": "no-cache"}
    )


async def tile(request: web.Request) -> web.Response:
    """A tile's hashes, or with `entries` for a level an entry bundle (C2SP tlog-tiles)."""
    sealed = _sealed(request)
    level = request.match_info["level"]
    try:
        index, width = read_index_path(request.match_info["index"])
    except ValueError as error:
        raise Invalid(f"'index' is malformed: {error}.", "index") from None
    if level != "entries" and level not in map(str, range(HIGHEST_LEVEL)):
        raise Invalid(f"'level' must be 'entries' or 0 to {HIGHEST_LEVEL - 1}.", "level")
    try:
        if level == "entries":
            data = await sealed.bundle(index, width)
        else:
            data = await sealed.tile(Tile(int(level), index), width)
    except NotSealed as error:
        raise NotFound(str(error)) from None
    # A partial tile never changes either, but it is soon of no use.
    caching = IMMUTABLE if width == WIDTH else "private, max-age=3600"
    return web.Response(
        body=data, content_type="application/octet-stream", headers={"Cache-Control": caching}
    )


async def inclusion(request: web.Request) -> web.Response:
    """The proof that the event at `position` is in the tree of `size` (all sealed, if not given).

    Hashes are in base64, in the order of RFC 9162.
    """
    sealed = _sealed(request)
    positions = await positions_of(request.app[API].parts.log.recorder)
    position = positions.decode(request.query.get("position", ""))
    size = _size(request, "size", await sealed.size())
    if not 0 < position <= size:
        raise Invalid(f"'position' is not among the first {size} events.", "position")
    index = position - 1
    try:
        proof = await sealed.inclusion(index, size)
        leaf_tile = await sealed.tile(Tile(0, index // WIDTH), index % WIDTH + 1)
        root = await sealed.root(size)
    except NotSealed as error:
        raise Invalid(f"'size' is too large: {error}", "size") from None
    document = {
        "position": positions.encode(position),
        "leaf_index": index,
        "tree_size": size,
        "leaf_hash": in_base64([leaf_tile[-32:]])[0],
        "root": in_base64([root])[0],
        "inclusion": in_base64(proof),
    }
    return json_answer(orjson.dumps(document))


async def consistency(request: web.Request) -> web.Response:
    """The proof that the tree of `from` events grew into that of `to` (all sealed, if not given).

    Hashes are in base64, in the order of RFC 9162.
    """
    sealed = _sealed(request)
    second = _size(request, "to", await sealed.size())
    first = _size(request, "from", None)
    if first > second:
        raise Invalid(f"'from' is larger than 'to', which is {second}.", "from")
    try:
        proof = await sealed.consistency(first, second)
        roots = [await sealed.root(first), await sealed.root(second)]
    except NotSealed as error:
        raise Invalid(f"'to' is too large: {error}", "to") from None
    document = {
        "from": first,
        "to": second,
        "from_root": in_base64(roots)[0],
        "to_root": in_base64(roots)[1],
        "consistency": in_base64(proof),
    }
    return json_answer(orjson.dumps(document))


def _size(request: web.Request, field: str, default: int | None) -> int:
    """A tree's size from the query. Raises Invalid, or NotFound where nothing is sealed."""
    text = request.query.get(field)
    if text is None and default is not None:
        if not default:
            raise NotFound("Nothing is sealed yet.")
        return default
    if text is None or not _SIZE.fullmatch(text):
        raise Invalid(f"'{field}' must be a number of events, as in a checkpoint.", field)
    return int(text)
