"""Tamper evidence: checkpoints, tiles and proofs of the sealed log, for admins and auditors."""

import base64
import re
from typing import Any

import orjson
from aiohttp import web

from calotype.commands.errors import Forbidden, Invalid, NotFound
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import require_call
from calotype.commands.policy.protections import readable_by
from calotype.http.middleware import API, actor_of, json_answer, refuse_body
from calotype.projections.engine.positions import positions_of
from calotype.projections.seal.reading import SCRIPT, NotCovered, NotSealed, Sealed
from calotype.projections.seal.tiles import HIGHEST_LEVEL, WIDTH, Tile, read_index_path

IMMUTABLE = "private, max-age=31536000, immutable"
"""Full tiles never change; only who may see them may keep them."""

_SIZE = re.compile(r"[1-9][0-9]{0,17}")


def _sealed(request: web.Request) -> Sealed:
    """The seal, if this caller may see it. Raises Forbidden."""
    text = "The seal of the event log is for the roles admin and auditor."
    require_call(actor_of(request), "get_seal", text)
    return Sealed(request.app[API].context.log.recorder)


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
    """What proves that the event at `position` is under a checkpoint, as verify_proof.py reads it.

    The checkpoint is the newest, or one of `size` events. For those who read all events and all
    properties only: the event is in it as it is stored.
    """
    sealed, actor = _sealed(request), actor_of(request)
    require_call(actor, "get_all_events", "A proof holds the whole event, whosever it is.")
    positions = await positions_of(request.app[API].context.log.recorder)
    position = positions.decode(request.query.get("position", ""))
    size = _size(request, "size") if "size" in request.query else None
    if size is not None and size > await sealed.size():
        raise Invalid("'size' is larger than the sealed tree.", "size")
    try:
        proof = await sealed.proof_of_event(position, size)
    except NotCovered as error:
        raise Invalid(f"'position' cannot be proved: {error}", "position") from None
    except NotSealed as error:
        raise NotFound(str(error)) from None
    _refuse_hidden(actor, proof["event"])
    return json_answer(orjson.dumps(proof))


def _refuse_hidden(actor: Actor, event: dict[str, Any]) -> None:
    """Raises Forbidden where the event holds properties that the actor may not read."""
    readable = readable_by(actor)
    if readable is None:
        return
    state = orjson.loads(base64.b64decode(event["state"]))
    names = [*state.get("properties", ()), *state.get("removed_properties", ())]
    if not readable.holds_all(names):
        raise Forbidden("The event holds properties that you may not read.")


async def consistency(request: web.Request) -> web.Response:
    """What proves that the tree of `from` events grew into that of `to` (all sealed, if not given),
    as verify_proof.py reads it."""
    sealed = _sealed(request)
    sealed_size = await sealed.size()
    second = _size(request, "to") if "to" in request.query else sealed_size
    if not second:
        raise NotFound("Nothing is sealed yet.")
    first = _size(request, "from")
    if first > second:
        raise Invalid(f"'from' is larger than 'to', which is {second}.", "from")
    if second > sealed_size:
        raise Invalid("'to' is larger than the sealed tree.", "to")
    return json_answer(orjson.dumps(await sealed.proof_of_growth(first, second)))


async def script(request: web.Request) -> web.Response:
    """The script that checks proofs without Calotype; nothing in it is secret."""
    refuse_body(request)
    return web.Response(body=SCRIPT.read_bytes(), content_type="text/x-python", charset="utf-8")


def _size(request: web.Request, field: str) -> int:
    """A tree's size from the query. Raises Invalid."""
    text = request.query.get(field, "")
    if not _SIZE.fullmatch(text):
        raise Invalid(f"'{field}' must be a number of events, as in a checkpoint.", field)
    return int(text)
