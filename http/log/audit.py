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
from calotype.http.middleware import Call, json_answer
from calotype.http.parameters import parameters
from calotype.projections.seal.reading import SCRIPT, NotCovered, Sealed
from calotype.projections.seal.tiles import HIGHEST_LEVEL, WIDTH, Tile, read_index_path

IMMUTABLE = "private, max-age=31536000, immutable"
"""Full tiles never change; only who may see them may keep them."""

_SIZE = re.compile(r"[1-9][0-9]{0,17}")


def _sealed(call: Call) -> Sealed:
    """The seal, if this caller may see it. Raises Forbidden."""
    text = "The seal of the event log is for the roles admin and auditor."
    require_call(call.actor, "get_seal", text)
    return Sealed(call.api.context.log.recorder)


async def checkpoint(call: Call) -> web.Response:
    """The newest signed checkpoint (C2SP tlog-checkpoint)."""
    note = await _sealed(call).checkpoint()
    return web.Response(
        text=note, content_type="text/plain", charset="utf-8", headers={"Cache-Control": "no-cache"}
    )


async def tile(call: Call) -> web.Response:
    """A tile's hashes, or with `entries` for a level an entry bundle (C2SP tlog-tiles)."""
    sealed = _sealed(call)
    level = call.request.match_info["level"]
    try:
        index, width = read_index_path(call.request.match_info["index"])
    except ValueError as error:
        raise Invalid(f"'index' is malformed: {error}.", "index") from None
    if level != "entries" and level not in map(str, range(HIGHEST_LEVEL)):
        raise Invalid(f"'level' must be 'entries' or 0 to {HIGHEST_LEVEL - 1}.", "level")
    if level == "entries":
        data = await sealed.bundle(index, width)
    else:
        data = await sealed.tile(Tile(int(level), index), width)
    # A partial tile never changes either, but it is soon of no use.
    caching = IMMUTABLE if width == WIDTH else "private, max-age=3600"
    return web.Response(
        body=data, content_type="application/octet-stream", headers={"Cache-Control": caching}
    )


async def inclusion(call: Call) -> web.Response:
    """What proves that the event at `position` is under a checkpoint, as verify_proof.py reads it.

    The checkpoint is the newest, or one of `size` events. For those who read all events and all
    properties only: the event is in it as it is stored.
    """
    sealed = _sealed(call)
    require_call(call.actor, "get_all_events", "A proof holds the whole event, whosever it is.")
    given = parameters(call, "position", "size")
    position = (await call.api.feed.positions()).decode(given.get("position", ""))
    size = _size(given, "size") if "size" in given else None
    if size is not None and size > await sealed.size():
        raise Invalid("'size' is larger than the sealed tree.", "size")
    try:
        proof = await sealed.proof_of_event(position, size)
    except NotCovered as error:
        raise Invalid(f"'position' cannot be proved: {error}", "position") from None
    _refuse_hidden(call.actor, proof["event"])
    return json_answer(proof)


def _refuse_hidden(actor: Actor, event: dict[str, Any]) -> None:
    """Raises Forbidden where the event holds properties that the actor may not read."""
    readable = readable_by(actor)
    if readable is None:
        return
    state = orjson.loads(base64.b64decode(event["state"]))
    names = [*state.get("properties", ()), *state.get("removed_properties", ())]
    if not readable.holds_all(names):
        raise Forbidden("The event holds properties that you may not read.")


async def consistency(call: Call) -> web.Response:
    """What proves that the tree of `from` events grew into that of `to` (all sealed, if not given),
    as verify_proof.py reads it."""
    sealed, given = _sealed(call), parameters(call, "from", "to")
    sealed_size = await sealed.size()
    second = _size(given, "to") if "to" in given else sealed_size
    if not second:
        raise NotFound("Nothing is sealed yet.")
    first = _size(given, "from")
    if first > second:
        raise Invalid(f"'from' is larger than 'to', which is {second}.", "from")
    if second > sealed_size:
        raise Invalid("'to' is larger than the sealed tree.", "to")
    return json_answer(await sealed.proof_of_growth(first, second))


async def script(call: Call) -> web.Response:
    """The script that checks proofs without Calotype; nothing in it is secret."""
    return web.Response(body=SCRIPT.read_bytes(), content_type="text/x-python", charset="utf-8")


def _size(given: dict[str, str], field: str) -> int:
    """A tree's size among the parameters. Raises Invalid."""
    text = given.get(field, "")
    if not _SIZE.fullmatch(text):
        raise Invalid(f"'{field}' must be a number of events, as in a checkpoint.", field)
    return int(text)
