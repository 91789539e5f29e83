"""Tickets for streams of events: for browsers, whose EventSource cannot send a header.

A ticket stands for the headers that its holder identified with. They are kept encrypted with the
ticket itself as the key, which is not kept, so neither a database nor a backup shows them.
"""

import base64
import hashlib
import secrets
import time
from uuid import UUID

import orjson
from cryptography.fernet import Fernet, InvalidToken

from calotype.commands.errors import LimitExceeded
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.statements import Fetch
from calotype.stores.log.tables import Column, Index, Table

LIFETIME_SECONDS = 60
MOST_OPEN = 1000
"""Tickets of one caller that are neither used nor over."""
_PREFIX = "st_"
_LONGEST_TICKET = 64
_TURN = "stream-tickets"

STREAM_TICKETS = Table(
    name="stream_tickets_1",
    columns=(
        Column("id", "uuid"),
        Column("holder", "text"),
        Column("sealed", "text"),
        Column("expires_at", "integer"),
    ),
    key=("id",),
    owner="id",
    indexes=(
        Index("stream_tickets_1_by_end", ("expires_at",)),
        Index("stream_tickets_1_by_holder", ("holder",)),
    ),
)
"""Tickets that were not used so far, in seconds since 1970."""

_FORGET = f"DELETE FROM {STREAM_TICKETS.name} WHERE expires_at < :now"
_COUNT = f"SELECT count(*) FROM {STREAM_TICKETS.name} WHERE holder = :holder"
_KEEP = (
    f"INSERT INTO {STREAM_TICKETS.name} (id, holder, sealed, expires_at) "
    "VALUES (:id, :holder, :sealed, :expires_at)"
)
_TAKE = f"DELETE FROM {STREAM_TICKETS.name} WHERE id = :id RETURNING sealed, expires_at"


class StreamTickets:
    """The tickets of one log; every process and host has the same."""

    def __init__(self, recorder: GroupCommitRecorder) -> None:
        self._recorder = recorder

    async def issue(self, holder: str, headers: dict[str, str]) -> str:
        """A ticket for a caller that identifies with these headers; valid once, for a minute.

        Raises LimitExceeded when the holder has very many, and LogUnavailable.
        """
        ticket = _PREFIX + secrets.token_urlsafe(32)
        row_id, key = _parts(ticket)
        now = int(time.time())
        row = {
            "id": row_id,
            "holder": hashlib.sha256(holder.encode()).hexdigest(),
            "sealed": Fernet(key).encrypt(orjson.dumps(headers)).decode(),
            "expires_at": now + LIFETIME_SECONDS,
        }

        def keep(fetch: Fetch) -> int:
            fetch(_FORGET, {"now": now})
            count = int(fetch(_COUNT, {"holder": row["holder"]})[0][0])
            if count < MOST_OPEN:
                fetch(_KEEP, row)
            return count

        if await self._recorder.transact(_TURN, keep) >= MOST_OPEN:
            raise LimitExceeded(f"There are {MOST_OPEN} unused tickets of yours; use those first.")
        return ticket

    async def redeem(self, ticket: str) -> dict[str, str] | None:
        """The headers that the ticket stands for, once; None: there is no such ticket."""
        if not ticket.startswith(_PREFIX) or len(ticket) > _LONGEST_TICKET or not ticket.isascii():
            return None
        row_id, key = _parts(ticket)
        rows = await self._recorder.transact(_TURN, lambda fetch: fetch(_TAKE, {"id": row_id}))
        if not rows or rows[0][1] < time.time():
            return None
        try:
            headers: dict[str, str] = orjson.loads(Fernet(key).decrypt(rows[0][0]))
        except InvalidToken:
            return None
        return headers


def _parts(ticket: str) -> tuple[UUID, bytes]:
    """The id of a ticket's row, and the key that decrypts it; neither gives the other away."""
    secret = ticket.encode()
    row_id = UUID(bytes=hashlib.blake2b(secret, digest_size=16, person=b"ticket id").digest())
    key = hashlib.blake2b(secret, digest_size=32, person=b"ticket key").digest()
    return row_id, base64.urlsafe_b64encode(key)
