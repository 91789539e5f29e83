"""What a sink is made of: something that says events in its form, and a broker that takes them."""

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
    """The same whenever the same event is told again."""
    ordering_key: str
    """Messages of one ordering_key arrive in order; of different lanes in any."""
    route: str
    """A routing key, or a subject."""
    kind: str
    """The type of what is told, for people who count."""
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class MessageEncoder(Protocol):
    """Says events in the form that the readers of a sink know."""

    def messages(self, event: Notification) -> Sequence[Message]:
        """What is told of the event, in this order; nothing, if it does not concern them.

        A function of the log alone. Events are given in their order; it may read of earlier ones.
        """

    def forget(self) -> None:
        """Drops what is remembered; needed before an event that does not follow on the last."""


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
