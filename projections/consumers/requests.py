"""What may be asked of named consumers, by whom, and in which bounds."""

import re
from collections.abc import Mapping
from typing import Any, get_args
from uuid import UUID

from calotype.commands.errors import Forbidden, Invalid
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import require_call
from calotype.projections.consumers.account import OnParked, Subscription
from calotype.projections.consumers.consumers import OWN_MARK
from calotype.projections.feed.feed import Feed, known_types, reader_of

READ, USE, MODIFY = "get_consumer", "use_consumer", "modify_consumer"
"""The policy's rules: looking at consumers, being a member, and everything else."""
BEGINNING, END = "beginning", "end"
"""Words for the positions before all events and after all that there are now."""
MAX_LIMIT = 1000
"""Events that are handed out at once, and answers that are taken at once, at most."""
LONGEST_CLAIM_SECONDS = 12 * 3600
LONGEST_RETRY_SECONDS = 7 * 86400
LONGEST_WAIT_SECONDS = 60
MOST_ATTEMPTS = 1000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MEMBER = re.compile(r"[!-~]{1,100}")


def consumer_feed(actor: Actor, rule: str, project: str | None) -> str | None:
    """The feed whose consumers the actor means: its own, or that of `project`.

    Who may read all feeds may look at all consumers; touching those of a project is for its members
    and administrators. Raises Forbidden.
    """
    own = reader_of(actor)
    require_call(actor, rule)
    if project is None or project == own:
        return own
    if own is not None:
        raise Forbidden("Only administrators and auditors see the consumers of other projects.")
    if rule != READ and not actor.is_admin:
        raise Forbidden("Only members and administrators change the consumers of a project.")
    return project


def checked_name(name: str) -> str:
    """Raises Invalid for what cannot be the name of a consumer."""
    if OWN_MARK in name:
        raise Invalid("Names with ':' are for the consumers of the service itself.", "name")
    if not _NAME.fullmatch(name):
        raise Invalid(
            "'name' has 1 to 100 letters, digits, '.', '_' or '-', and begins with a letter or "
            "digit.",
            "name",
        )
    return name


def checked_member(member: object) -> str:
    """Raises Invalid for what cannot be the name of a member."""
    if not isinstance(member, str) or not _MEMBER.fullmatch(member):
        raise Invalid("'member' has 1 to 100 visible ASCII characters.", "member")
    return member


def checked_subscription(given: Mapping[str, object]) -> Subscription:
    """The subscription that the fields say. Raises Invalid naming the one that makes no sense."""
    default = Subscription()
    types = given.get("types", [])
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        raise Invalid("'types' must be a list of event types; see /log/v1/schemas.", "types")
    on_parked: Any = given.get("on_parked", default.on_parked)
    if on_parked not in get_args(OnParked):
        raise Invalid(f"'on_parked' must be one of {', '.join(get_args(OnParked))}.", "on_parked")
    attempts = checked_number(given, "max_attempts", default.max_attempts, 1, MOST_ATTEMPTS)
    image = given.get("image")
    return Subscription(
        types=known_types(types),
        image=None if image is None else _image(image),
        on_parked=on_parked,
        max_attempts=attempts,
    )


async def checked_position(feed: Feed, given: object, field: str) -> int:
    """The position, or what one of the words for positions means. Raises Invalid."""
    if given == BEGINNING:
        return 0
    if given == END:
        return await feed.head()
    if not isinstance(given, str):
        raise Invalid(f"'{field}' must be a position, '{BEGINNING}' or '{END}'.", field)
    return await feed.decode(given, field)


def checked_number(
    given: Mapping[str, object], name: str, default: int, least: int, most: int
) -> int:
    """A whole number among the given fields. Raises Invalid."""
    number = given.get(name, default)
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise Invalid(f"'{name}' must be a whole number from {least} to {most}.", name)
    return number


def checked_seconds(
    given: Mapping[str, object], name: str, default: float | None, least: float, most: float
) -> float | None:
    """A time among the given fields. Raises Invalid."""
    if name not in given:
        return default
    seconds = given[name]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        seconds = -1.0
    if not least <= seconds <= most:
        raise Invalid(f"'{name}' must be a number of seconds from {least:g} to {most:g}.", name)
    return float(seconds)


def _image(given: object) -> UUID:
    try:
        if isinstance(given, str) and len(given) == 36:
            return UUID(given)
    except ValueError:
        pass
    raise Invalid("'image' must be the id of an image.", "image")
