"""Glance's notifications in the envelope of oslo.messaging (format 2.0), for a RabbitMQ."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import orjson
from eventsourcing.persistence import Notification

from calotype.commands.images.download import DataSent
from calotype.commands.images.events import EVENT_TYPES
from calotype.commands.images.snapshots import IMAGE_SNAPSHOTS
from calotype.projections.engine.positions import Positions
from calotype.projections.past.latest import LatestImages
from calotype.projections.past.row_versions import stored_of
from calotype.projections.sinks import glance
from calotype.projections.sinks.contract import Message
from calotype.projections.sinks.glance import GlanceNotification
from calotype.stores.log.log import event_mapper
from calotype.stores.log.recorder import GroupCommitRecorder

_NAMESPACE = UUID("b2a3c6e4-0c1f-5d6e-9b5d-2f4e7a9c8d10")


class OsloEnvelope:
    """Puts notifications into messages whose ids depend on the log and the event alone."""

    def __init__(
        self,
        positions: Positions,
        *,
        publisher_id: str = "image.localhost",
        topics: Sequence[str] = ("notifications",),
        disabled: Sequence[str] = (),
    ) -> None:
        self.positions = positions
        self._publisher_id = publisher_id
        self._topics = topics
        self._disabled = disabled

    def messages(
        self,
        notification: GlanceNotification,
        *,
        name: str,
        position: int,
        ordering_key: str,
        moment: datetime,
        headers: dict[str, str],
    ) -> list[Message]:
        """The messages of a notification, one for each topic; none where it is disabled.

        `name` tells it from all others of the log as it was called at `position`. `headers` go
        beside the envelope, where consumers that do not know them do not look.
        """
        if glance.is_disabled(notification.event_type, self._disabled):
            return []
        namespace = uuid5(_NAMESPACE, self.positions.log_of(position))
        message_id = uuid5(namespace, name)
        inner = {
            "message_id": str(message_id),
            "publisher_id": self._publisher_id,
            "event_type": notification.event_type,
            "priority": notification.priority,
            "payload": notification.payload,
            "timestamp": moment.strftime("%Y-%m-%d %H:%M:%S.%f"),
            "_unique_id": message_id.hex,
        }
        text = orjson.dumps(inner).decode()
        body = orjson.dumps({"oslo.version": "2.0", "oslo.message": text})
        return [
            Message(
                id=str(message_id),
                ordering_key=ordering_key,
                route=f"{topic}.{notification.priority.lower()}",
                kind=notification.event_type,
                body=body,
                headers=headers,
            )
            for topic in self._topics
        ]


class OsloEncoder:
    """Tells events of images, and downloads, as Glance would."""

    def __init__(self, recorder: GroupCommitRecorder, envelope: OsloEnvelope) -> None:
        self._images = LatestImages(recorder, snapshots=IMAGE_SNAPSHOTS)
        self._mapper = event_mapper()
        self._envelope = envelope

    def forget(self) -> None:
        """Drops the images that it remembers."""
        self._images.forget()

    def messages(self, event: Notification) -> list[Message]:
        """What is told of the event, in Glance's order."""
        fact: Any
        if event.topic in EVENT_TYPES:
            before = glance.kept(self._images.before(event))
            fact, image = self._images.after(event)
            told, ordering_key = glance.notifications_of(before, fact, image), image.image_id
        elif event.topic == DataSent.TOPIC:
            fact = self._mapper.to_domain_event(stored_of(event))
            told, ordering_key = [glance.sent(fact)], fact.image_id
        else:
            return []
        headers = {
            "calotype-position": self._envelope.positions.encode(event.id),
            "calotype-request-id": fact.request_id,
        }
        if fact.traceparent:
            headers["traceparent"] = fact.traceparent
        return [
            message
            for number, notification in enumerate(told)
            for message in self._envelope.messages(
                notification,
                name=f"{event.id}/{number}",
                position=event.id,
                ordering_key=ordering_key,
                moment=fact.timestamp,
                headers=headers,
            )
        ]
