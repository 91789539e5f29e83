"""What is asked again of an event is what its command asked: of places, and of PATCHes in two."""

from pathlib import Path
from typing import Any

import pytest

from calotype.commands.context import CommandContext, cause_of
from calotype.commands.errors import Forbidden
from calotype.commands.images.image import Image, create
from calotype.commands.images.locations import Place, change_locations
from calotype.commands.images.operations import Operation
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.authorization import reauthorize
from calotype.commands.policy.policy import DEFAULT_POLICY, Policy
from calotype.ops.settings.settings import Settings
from calotype.ops.wiring.composition import parts_of, recorder_of
from calotype.stores.log.log import event_mapper

ADMIN = Actor("eve", "p1", frozenset({"admin"}), policy=DEFAULT_POLICY)
MEMBER = Actor("ann", "p1", frozenset({"member", "reader"}), policy=DEFAULT_POLICY)
FIELDS = {
    "name": None, "visibility": "private", "owner": "p1", "protected": False, "os_hidden": False,
    "disk_format": "raw", "container_format": "bare", "min_disk": 0, "min_ram": 0,
}  # fmt: skip
PLACES = {f"http://h/{name}": Place("default", 10) for name in "abc"}


@pytest.fixture
def context(tmp_path: Path) -> CommandContext:
    """Parts of a log that is not even opened: nothing here is written."""
    settings = Settings(data=str(tmp_path))
    return parts_of(settings, recorder_of(settings))


def _value(name: str, **metadata: str) -> dict[str, Any]:
    return {"url": f"http://h/{name}", "metadata": metadata}


def _changed(context: CommandContext, events: list[Any], operations: list[Operation]) -> Any:
    """The event that these steps of a PATCH give, after those before it."""
    image = _folded(events)
    change_locations(image, ADMIN, cause_of(ADMIN, "req-1"), operations, PLACES, context)
    (event,) = image.collect_events()
    return event


def _folded(events: list[Any]) -> Image:
    image: Any = None
    mapper = event_mapper()
    for event in events:
        image = mapper.to_domain_event(mapper.to_stored_event(event)).mutate(image)
    return image


def _with_places(context: CommandContext, *names: str) -> list[Any]:
    image = create(
        cause_of(ADMIN, "req-0"),
        image_id="11111111-2222-3333-4444-555555555555",
        fields=FIELDS,
        tags=[],
        properties={},
    )
    events = list(image.collect_events())
    steps = [Operation("add", ("locations", "-"), _value(name)) for name in names]
    return [*events, _changed(context, events, steps)] if steps else events


def _rules_that_matter(events: list[Any], event: Any, *, first: bool = True) -> set[str]:
    """The rules without which the event would not be allowed."""
    rules = ("modify_image", "set_image_location", "delete_image_location", "publicize_image")
    everything = dict.fromkeys(rules, "role:member")
    reauthorize(MEMBER.under(Policy(everything)), event, _folded(events), first=first)
    found = set()
    for rule in rules:
        actor = MEMBER.under(Policy({**everything, rule: "!"}))
        try:
            reauthorize(actor, event, _folded(events), first=first)
        except Forbidden as error:
            found.add(error.decision.rule if error.decision else "no rule")
    return found


@pytest.mark.parametrize(
    ("names", "steps", "asked"),
    [
        ("", [Operation("add", ("locations", "-"), _value("a"))], {"set_image_location"}),
        ("a", [Operation("add", ("locations", "0"), _value("b"))], {"set_image_location"}),
        ("ab", [Operation("remove", ("locations", "0"))], {"delete_image_location"}),
        ("ab", [Operation("replace", ("locations",), [_value("b"), _value("a")])],
         {"set_image_location"}),
        ("a", [Operation("replace", ("locations",), [_value("a", key="value")])],
         {"set_image_location"}),
        ("ab", [Operation("remove", ("locations", "1")),
                Operation("add", ("locations", "-"), _value("c"))],
         {"set_image_location", "delete_image_location"}),
    ],
)  # fmt: skip
def test_places_that_went_were_removed_and_others_set(
    context: CommandContext, names: str, steps: list[Operation], asked: set[str]
) -> None:
    events = _with_places(context, *names)
    event = _changed(context, events, steps)
    assert _rules_that_matter(events, event) == asked | {"modify_image"}


def test_the_second_event_of_a_patch_is_not_asked_about_again_what_the_first_was(
    context: CommandContext,
) -> None:
    events = _with_places(context, "a")
    image = _folded(events)
    update: dict[str, Any] = {"properties": {}, "removed_properties": [], "tags": None}
    image.update(cause_of(ADMIN, "req-1"), fields={"visibility": "public"}, **update)
    (event,) = image.collect_events()
    assert _rules_that_matter(events, event) == {"modify_image", "publicize_image"}
    assert _rules_that_matter(events, event, first=False) == {"publicize_image"}
