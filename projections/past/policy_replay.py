"""What other rules would have decided: every change in the log, judged again by two policies.

The rules judge the image as it was right before the event, and the actor that the event records.
What was refused is no event, so only changes that were once allowed can be judged again.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eventsourcing.persistence import Notification

from calotype.commands.errors import CalotypeError
from calotype.commands.images.download import LOG_EVENT_TYPES, DataSent
from calotype.commands.images.events import EVENT_TYPES, clock_text
from calotype.commands.images.image import Image
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.authorization import reauthorize
from calotype.commands.policy.policy import Policy
from calotype.projections.past.latest import LatestImages
from calotype.projections.past.row_versions import stored_of
from calotype.stores.log.log import event_mapper
from calotype.stores.log.recorder import GroupCommitRecorder

PAGE_EVENTS = 1000
PAGE_BYTES = 4 << 20
_REMEMBERED_ACTORS = 4096
_SERVICE = {"user": "calotype", "project": None, "roles": ["admin"]}
"""The actor of the service's own events."""
_SHELL = "cli:"
"""What the user names of commands from the service's shell begin with; they have no project."""
_UNRECORDED = re.compile(r"\b(service_roles|user_domain_id|project_domain_id)\b")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a policy would have said instead of yes."""

    rule: str
    error: type[CalotypeError]


@dataclass(frozen=True, slots=True)
class Decision:
    """One change of the past, and what the two policies say of it; None is yes."""

    position: int
    time: str
    """RFC 3339 in UTC with microseconds."""
    actor: Mapping[str, Any]
    request_id: str
    type: str
    image_id: str
    now: Refusal | None
    then: Refusal | None

    @property
    def differs(self) -> bool:
        """Whether one of the policies allows it and the other does not."""
        return (self.now is None) != (self.then is None)

    @property
    def rule(self) -> str:
        """The rule that decides otherwise."""
        refusal = self.then or self.now
        return refusal.rule if refusal else ""


def unrecorded_facts(policy: Policy) -> dict[str, list[str]]:
    """Facts of actors that rules look at and events do not record, each with those rules.

    Such a check is never fulfilled here.
    """
    found: dict[str, list[str]] = {}
    for name, text in policy.texts.items():
        for fact in _UNRECORDED.findall(str(text)):
            found.setdefault(fact, []).append(name)
    return found


class PolicyReplay:
    """Has two policies judge the events of a log, in its order and in flat memory."""

    def __init__(self, recorder: GroupCommitRecorder, now: Policy, then: Policy) -> None:
        self._recorder = recorder
        self._images = LatestImages(recorder)
        self._mapper = event_mapper()
        self._judged: OrderedDict[Any, tuple[Actor, Actor]] = OrderedDict()
        self._policies = (now, then)
        self._last_command: tuple[Any, str] | None = None

    def decisions(self, first: int, last: int) -> Iterator[Decision | None]:
        """One for each event from position `first` to `last`, both included.

        None where no operator's policy applied: for events of the service itself and of its shell,
        and for events of no image.
        """
        position = first
        while position <= last:
            page = self._recorder.select_notifications(
                position, PAGE_EVENTS, last, limit_bytes=PAGE_BYTES
            )
            if not page:
                return
            for notification in page:
                yield self._decision(notification)
            position = page[-1].id + 1

    def _decision(self, notification: Notification) -> Decision | None:
        if notification.topic not in LOG_EVENT_TYPES:
            return None
        event: Any = self._mapper.to_domain_event(stored_of(notification))
        image = self._before(notification, event)
        command = (notification.originator_id, event.command_id)
        first, self._last_command = command != self._last_command, command
        decision = None
        if not _is_above_policy(event.actor):
            now, then = [
                _refusal(actor, event, image, first=first) for actor in self._actors(event.actor)
            ]
            decision = Decision(
                position=notification.id,
                time=clock_text(event.timestamp),
                actor=event.actor,
                request_id=event.request_id,
                type=event.TOPIC,
                image_id=_image_id(event, image),
                now=now,
                then=then,
            )
        if notification.topic in EVENT_TYPES:
            self._images.after(notification)
        return decision

    def _before(self, notification: Notification, event: Any) -> Image | None:
        if isinstance(event, DataSent):
            return self._images.at(UUID(event.image_id), notification.id)
        return self._images.before(notification)

    def _actors(self, recorded: Mapping[str, Any]) -> tuple[Actor, Actor]:
        """The actor that an event records, judged by each of the policies."""
        key = (recorded["user"], recorded["project"], *recorded["roles"])
        if key not in self._judged:
            actor = Actor(recorded["user"], recorded["project"], frozenset(recorded["roles"]))
            now, then = [actor.under(policy) for policy in self._policies]
            self._judged[key] = (now, then)
            if len(self._judged) > _REMEMBERED_ACTORS:
                self._judged.popitem(last=False)
        return self._judged[key]


def _is_above_policy(actor: Mapping[str, Any]) -> bool:
    from_shell = actor["project"] is None and str(actor["user"]).startswith(_SHELL)
    return from_shell or actor == _SERVICE


def _image_id(event: Any, image: Image | None) -> str:
    image_id: str = event.image_id if image is None else image.image_id
    return image_id


def _refusal(actor: Actor, event: Any, image: Image | None, *, first: bool) -> Refusal | None:
    try:
        reauthorize(actor, event, image, first=first)
    except CalotypeError as error:
        rule = error.decision.rule if error.decision is not None else "out of sight"
        return Refusal(rule, type(error))
    return None
