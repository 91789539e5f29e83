"""What other rules would have decided: against a service that has these rules and is asked."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.commands.context import SYSTEM, CommandContext, cause_of
from calotype.commands.errors import CalotypeError
from calotype.commands.images import data, deletion, members, metadata
from calotype.commands.images.download import LOG_EVENT_TYPES
from calotype.commands.images.operations import Operation
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.authorization import QUESTIONS
from calotype.commands.policy.policy import DEFAULT_POLICY, Policy
from calotype.commands.policy.protections import OPERATIONS, protections_of
from calotype.ops.settings.settings import Settings
from calotype.ops.wiring.composition import migrate, parts_of, recorder_of
from calotype.projections.past.policy_replay import PolicyReplay, unrecorded_facts

ACTORS = (
    Actor("ann", "p1", frozenset({"member", "reader"})),
    Actor("bob", "p1", frozenset({"reader"})),
    Actor("cid", "p2", frozenset({"member", "reader", "curator"})),
    Actor("dan", "p2", frozenset({"member", "reader"})),
    Actor("eve", "p9", frozenset({"admin", "manager", "member", "reader"})),
    Actor("fay", None, frozenset({"member", "reader"})),
)
SECTION = dict.fromkeys(OPERATIONS, "@")
PROTECTED = protections_of(
    [("^x$", {**SECTION, "create": "curator", "read": "curator, admin"}),
     ("^y$", {**SECTION, "update": "admin", "delete": "!"}), (".*", SECTION)],
    "roles",
)  # fmt: skip
OPEN = {"publicize_image": "", "context_is_admin": "role:admin", "purge_image": "role:member"}
_OWN, _ADMIN = "project_id:%(project_id)s", "rule:context_is_admin"
STRICTER = tuple(
    Policy({**OPEN, **rules})
    for rules in (
        {},
        {"add_image": "role:curator", "modify_image": f"role:curator and {_OWN}"},
        {"delete_image": "!", "restore_image": "!", "deactivate": _ADMIN},
        {"publicize_image": _ADMIN, "communitize_image": f"user_id:ann and {_OWN}"},
        {"get_image": f"{_ADMIN} or (role:reader and not 'n1':%(name)s)"},
        {"modify_member": "role:curator and project_id:%(member_id)s", "add_member": _ADMIN},
        {"context_is_admin": "user_id:nobody", "upload_image": "!", "purge_image": "role:curator"},
        {"modify_image": f"role:member and {_OWN} and not 'active':%(status)s"},
    )
) + (Policy(OPEN, protections=PROTECTED),)
"""Each refuses more than the first, and nothing less."""

VISIBILITIES = ("shared", "private", "public", "community")


async def _bytes() -> AsyncIterator[bytes]:
    yield b"0123456789"


def _step(op: str, name: str, value: Any = None) -> Operation:
    return Operation(op, (name,), value)


def _wishes(context: CommandContext, image_id: str, n: int, value: str) -> list[Any]:
    """Every command, each with something of `n` in it; they are called with actor and cause.

    `value` is another one each time: a property that keeps its value leaves no trace to judge.
    """
    updates = [
        [_step("replace", "visibility", VISIBILITIES[n % 4])],
        [_step("replace", "name", f"n{n % 3}"), _step("add", "z", value)],
        [_step("replace", "owner", f"p{n % 2 + 1}")],
        [_step("add", "x", value)],
        [_step("replace", "x", value)],
        [_step("remove", "x")],
        [_step("add", "y", value)],
        [_step("remove", "y"), _step("add", "x", value)],
    ]
    body = {
        "name": f"n{n % 3}", "visibility": VISIBILITIES[n % 4], "disk_format": "raw",
        "container_format": "bare", **({"x": value} if n % 3 else {}),
    }  # fmt: skip

    def of_image(command: Any, *more: Any) -> Any:
        return lambda actor, cause: command(context, actor, cause, image_id, *more)

    answer = {"status": ["accepted", "rejected"][n % 2]}
    return [
        lambda actor, cause: metadata.create_image(context, actor, cause, body),
        *[of_image(metadata.update_image, update) for update in updates],
        of_image(metadata.add_tag, f"t{n % 2}"),
        of_image(metadata.remove_tag, f"t{n % 2}"),
        of_image(partial(data.upload_data, size_bytes=None), _bytes()),
        of_image(metadata.deactivate),
        of_image(metadata.reactivate),
        of_image(members.add_member, {"member": f"p{n % 2 + 1}"}),
        of_image(members.set_member_status, f"p{n % 2 + 1}", answer),
        of_image(members.remove_member, f"p{n % 2 + 1}"),
        of_image(deletion.delete_image),
        of_image(deletion.restore_image),
        of_image(deletion.purge_image, "no room"),
    ]


_STEP = (st.integers(0, len(ACTORS) - 1), st.integers(0, 10**6), st.integers(0, 3))
STEPS = st.lists(st.tuples(*_STEP, st.integers(0, 11)), min_size=20, max_size=50)
"""Who wants which command for which image, and a number for what is in it."""


async def _live(context: CommandContext, steps: Any, then: Policy) -> set[int]:
    """Lives through the steps; the positions of what the rules in `then` had refused.

    Each wish is first made under those rules. What they refuse is then made under the rules that
    are in force.
    """
    now, images, refused = STRICTER[0], [], set()
    recorder = context.log.recorder
    for number, (who, what, which, n) in enumerate([(0, 0, 0, 0), (2, 0, 0, 1), *steps]):
        image_id = images[which % len(images)] if images else "none"
        wishes = _wishes(context, image_id, n, f"v{number}")
        wish = wishes[what % len(wishes)] if images else wishes[0]
        was_refused = False
        for policy in (then, now):
            before = recorder.max_notification_id() or 0
            try:
                actor = ACTORS[who].under(policy)
                made = await wish(actor, cause_of(actor, f"req-{number}"))
            except CalotypeError as error:
                if error.decision is None:
                    break  # Not the rules refuse it, but the image itself.
                was_refused = True
                continue
            if was_refused and (recorder.max_notification_id() or 0) > before:
                refused.add(before + 1)
            if what % len(wishes) == 0 or not images:
                images.append(made.image_id)
            break
    return refused


def _walk(steps: Any, then: Policy) -> tuple[set[int], list[Any], list[Any]]:
    """What was refused on the way, and what is decided afterwards, by `then` and by the same."""

    async def go() -> tuple[set[int], list[Any], list[Any]]:
        with tempfile.TemporaryDirectory() as folder:
            table = {"retention_seconds": 3600}
            settings = Settings(data=folder, deletion=table)
            recorder = recorder_of(settings)
            migrate(recorder)
            try:
                context = parts_of(settings, recorder)
                refused = await _live(context, steps, then)
                last = recorder.max_notification_id() or 0
                decided = [
                    list(PolicyReplay(recorder, STRICTER[0], policy).decisions(1, last))
                    for policy in (then, Policy(OPEN))
                ]
                return refused, decided[0], decided[1]
            finally:
                await recorder.close()

    return asyncio.run(go())


@settings(max_examples=25, deadline=None)
@given(steps=STEPS, then=st.sampled_from(STRICTER))
def test_what_is_listed_is_what_a_service_with_these_rules_refuses(steps, then) -> None:
    refused, decided, same = _walk(steps, then)
    # What happened was allowed, and the rules that allowed it still say so; all of them.
    assert all(decision.now is None for decision in decided)
    assert not any(decision.differs for decision in same)
    assert {decision.position for decision in decided if decision.differs} == refused
    for decision in decided:
        if decision.differs:
            assert decision.rule in then.texts or decision.rule.startswith("property '")
            assert decision.actor["user"] in {actor.user for actor in ACTORS}


def test_every_event_type_has_its_questions() -> None:
    assert set(QUESTIONS) == set(LOG_EVENT_TYPES.values())


def test_rules_about_what_events_do_not_record_are_told() -> None:
    policy = Policy({"get_image": "service_roles:service or user_domain_id:default", "a": "role:b"})
    assert unrecorded_facts(policy) == {
        "service_roles": ["get_image"], "user_domain_id": ["get_image"]
    }  # fmt: skip
    assert unrecorded_facts(DEFAULT_POLICY) == {}


def test_the_service_itself_is_recorded_as_what_is_left_out() -> None:
    from calotype.projections.past import policy_replay

    assert SYSTEM.recorded() == policy_replay._SERVICE
