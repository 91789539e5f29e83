"""Pages of events as messages, and handing these to a broker until it has confirmed them all."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from eventsourcing.persistence import Notification

from calotype.projections.sinks.contract import Broker, Message, MessageEncoder, Refused, TryLater
from calotype.stores.log.recorder import GroupCommitRecorder

PAGE_EVENTS = 128
"""At most so many events are sent again when a process dies."""
PAGE_BYTES = 4 << 20
"""A page whose messages have become this long ends early."""

# What an event can be the cause of. Anything else is trouble of ours, which passes.
_POISONED = (AssertionError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(slots=True)
class Page:
    """Some events that follow on each other."""

    last: int
    """The position of the last of them."""
    full: bool
    """Whether more may follow at once."""
    messages: list[tuple[int, Message]] = field(default_factory=list)
    """Each with the position of its event."""
    refused: dict[int, str] = field(default_factory=dict)
    """Events that cannot be encoded or were rejected: position and reason."""
    topics: dict[int, str] = field(default_factory=dict)
    """The type of every event by its position."""


def page_after(
    recorder: GroupCommitRecorder,
    encoder: MessageEncoder,
    position: int,
    *,
    limit: int = PAGE_EVENTS,
    until: int | None = None,
) -> Page | None:
    """The next events after the position as messages; None: there are none. Reads in this thread.

    An event that cannot be encoded is among the refused, and does not block others.
    """
    events = recorder.select_notifications(
        position, limit, until, inclusive_of_start=False, limit_bytes=PAGE_BYTES
    )
    if not events:
        return None
    whole = len(events) < limit and sum(len(event.state) for event in events) < PAGE_BYTES
    page = Page(position, full=not whole)
    try:
        _tell(events, encoder, page)
    except BaseException:
        encoder.forget()  # It may have stopped half-way.
        raise
    return page


def _tell(events: Sequence[Notification], encoder: MessageEncoder, page: Page) -> None:
    size = 0
    for event in events:
        if size >= PAGE_BYTES:
            page.full = True
            return
        page.last = event.id
        page.topics[event.id] = event.topic
        try:
            told = encoder.messages(event)
        except _POISONED as error:
            encoder.forget()
            page.refused[event.id] = f"cannot be told: {error!r}"
            continue
        page.messages += [(event.id, message) for message in told]
        size += sum(len(message.body) for message in told)


class Publication:
    """Publishes a page's messages. Remembers what is confirmed, so that it can be tried again.

    One message of an ordering key at a time, so that these stay in order whatever gets lost on the
    way; messages of different keys side by side. `may_send` is asked before every message.
    """

    def __init__(
        self, broker: Broker, page: Page, may_send: Callable[[], bool] = lambda: True
    ) -> None:
        self._broker = broker
        self._page = page
        self._may_send = may_send
        self._by_ordering_key: dict[str, list[tuple[int, Message]]] = {}
        for position, message in reversed(page.messages):
            self._by_ordering_key.setdefault(message.ordering_key, []).append((position, message))

    async def publish(self) -> None:
        """Returns when the broker holds every message, or has rejected it permanently.

        Raises TryLater when something is left; call it again then.
        """
        await self._broker.open()
        outcomes = await asyncio.gather(
            *map(self._publish_in_order, self._by_ordering_key.values()), return_exceptions=True
        )
        for error in _errors(outcomes):
            raise error

    async def _publish_in_order(self, ordering_key: list[tuple[int, Message]]) -> None:
        while ordering_key:
            position, message = ordering_key[-1]
            if not self._may_send():
                raise TryLater("the lease is in doubt")
            try:
                await self._broker.publish(message)
            except Refused as error:
                self._page.refused[position] = str(error)
            ordering_key.pop()


def _errors(outcomes: Iterable[object]) -> list[BaseException]:
    """The errors, unexpected ones first."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    return sorted(errors, key=lambda error: isinstance(error, TryLater))
