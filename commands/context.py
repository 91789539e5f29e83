"""What commands work with, put together once by `calotype.ops.wiring.composition`."""

import asyncio
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from calotype.commands.images.fields import FORMATS, Formats
from calotype.commands.images.image import Image
from calotype.commands.policy.actor import Actor, Cause
from calotype.commands.policy.policy import DEFAULT_POLICY
from calotype.commands.policy.quotas import Quotas
from calotype.stores.images.driver import Driver
from calotype.stores.log.log import EventLog


@dataclass(frozen=True, slots=True)
class Limits:
    """Static limits of one image; a negative number is no limit."""

    image_size_bytes: int = 1 << 40
    properties: int = 128
    tags: int = 128
    members: int = 128
    locations: int = 10
    property_value_bytes: int = 64 << 10
    image_document_bytes: int = 1 << 20


class Lease(Protocol):
    """What says that this process lives, as far as it can know by itself."""

    @property
    def sure(self) -> bool:
        """Whether nobody can take this process for gone by now."""

    @property
    def lapses(self) -> int:
        """How often that may not have been so for a while."""

    async def held(self) -> bool:
        """Takes the lease again when that is due. Raises when the log does not answer."""


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The log, the stores, the limits, and who this process is."""

    log: EventLog[Image]
    stores: Mapping[str, Driver]
    """Drivers by the name that the operator gave the store."""
    default_store: str
    quotas: Quotas
    """What projects have, and what they may have."""
    limits: Limits = field(default_factory=Limits)
    hash_algorithm: str = "sha512"
    process_id: str = field(default_factory=lambda: new_id())
    """Names this process in intents and leases; new at every start."""
    lease: Lease | None = None
    """Without one nobody takes this process's uploads for dead: it serves nobody else."""
    formats: Formats = FORMATS
    """The formats that images may have."""
    format_must_match: bool = True
    """Whether data of another format than the image's disk_format is refused."""
    tolerated_checks: frozenset[str] = frozenset()
    """Safety checks of partition tables that may fail."""
    uploads: set[str] = field(default_factory=set)
    """Ids of the uploads that this process has under way."""
    garbage: "asyncio.Queue[Image]" = field(default_factory=lambda: asyncio.Queue(maxsize=1000))
    """Images with doomed bytes, for the sweeper; what does not fit it finds by itself later."""
    strays: set[tuple[str, UUID, str]] = field(default_factory=set)
    """Store, image and upload of what this process may have written after it was given up."""
    retention_seconds: float = 0.0
    """How long a deleted image can be restored; 0: its data goes at once."""
    locations_shown: bool = False
    """Whether clients may see and change locations (`show_multiple_locations`)."""


def new_id() -> str:
    """A UUID of version 7 (RFC 9562): unique, and sorted by time of making."""
    milliseconds = time.time_ns() // 1_000_000
    number = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
    number = number & ~(0xF << 76) | 7 << 76
    number = number & ~(0x3 << 62) | 2 << 62
    return str(UUID(int=number))


def cause_of(actor: Actor, request_id: str, traceparent: str | None = None) -> Cause:
    """The cause of a change that this actor asks for in this request."""
    return Cause(actor.recorded(), request_id, traceparent, secrets.token_hex(8))


SYSTEM = Actor("calotype", None, frozenset({"admin"}), policy=DEFAULT_POLICY)
"""The actor of what the service does by itself: clean-up, recovery."""
