"""The parts of a sink: an encoder that makes messages of events, and a broker that takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from eventsourcing.persistence import Notification


class TryLater(Exception):
    """The broker cannot take it now: not reached, refused for the moment, or silent.

    The message says where and why, without credentials.
    """


class Refused(Exception):
    """The broker will never take this message; the text says why."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a broker is given."""

    id: str
    """The same whenever the same event is sent again."""
    ordering_key: str
    """Messages of one ordering_key arrive in order; of different keys in any."""
    route: str
    """A routing key, or a subject."""
    kind: str
    """The type of the message, for counting."""
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class MessageEncoder(Protocol):
    """Makes messages of events, in the format that the readers of a sink know."""

    def messages(self, event: Notification) -> Sequence[Message]:
        """The messages of the event, in this order; none, if it does not concern the readers.

        A function of the log alone. Events are given in their order; it may read of earlier ones.
        """

    def forget(self) -> None:
        """Drops what is remembered; needed before an event that does not follow the last one."""


class Broker(Protocol):
    """Takes messages. What it raises holds no credentials."""

    async def open(self) -> None:
        """Connects, unless it is connected. Raises TryLater."""

    async def publish(self, message: Message) -> None:
        """Returns when the broker has confirmed that it holds the message.

        Raises TryLater when that is in doubt, and Refused when it never will.
        """

    async def close(self) -> None:
        """Ends the connection; `open` makes another."""
