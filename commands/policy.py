"""Who may do what: the rules of the Image API's default policy, as questions a command asks.

Rule names and defaults are those that operators know from Glance. A rule is a function of the
actor and of the image; it never looks at anything else.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from calotype.commands.errors import Forbidden, NotFound

IMPLIED_ROLES = {"admin": "manager", "manager": "member", "member": "reader"}


class Target(Protocol):
    """What a rule may know of an image; aggregates and query rows both fit."""

    @property
    def owner(self) -> str | None: ...

    @property
    def visibility(self) -> str: ...

    @property
    def status(self) -> str: ...

    def has_member(self, project: str | None) -> bool: ...


@dataclass(frozen=True, slots=True)
class Actor:
    """The caller: a user acting in a project with roles (all lower case)."""

    user: str | None
    project: str | None
    roles: frozenset[str]
    user_domain: str | None = None
    project_domain: str | None = None
    service_roles: frozenset[str] = frozenset()
    """Roles of the service that asks on the user's behalf."""
    expires_at: float | None = None
    """When what the caller identified with ends, in seconds since 1970; None: never."""
    is_admin: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_admin", "admin" in self.roles)

    def recorded(self) -> dict[str, Any]:
        """What events say of the actor; never a token."""
        return {"user": self.user, "project": self.project, "roles": sorted(self.roles)}


@dataclass(frozen=True, slots=True)
class Cause:
    """Who wants a change and by which request; every event carries it."""

    actor: dict[str, Any]
    """`user`, `project` (text or None) and `roles` (sorted list)."""
    request_id: str
    traceparent: str | None
    """W3C trace context of the request, or None where the caller gave none."""
    command_id: str
    """Unique for each attempt at a command: tells after a lost reply whether it was written."""

    def facts(self) -> dict[str, Any]:
        return {
            "actor": self.actor,
            "request_id": self.request_id,
            "traceparent": self.traceparent,
            "command_id": self.command_id,
        }


def with_implied(roles: set[str]) -> frozenset[str]:
    """Adds the roles that Keystone lets a role imply: admin, manager, member, reader."""
    for role in tuple(roles):
        while role := IMPLIED_ROLES.get(role, ""):
            roles.add(role)
    return frozenset(roles)


Rule = Callable[[Actor, Target], bool]


def _visible(actor: Actor, image: Target) -> bool:
    return (
        image.owner is None
        or image.owner == actor.project
        or image.visibility in ("public", "community")
        or (image.visibility == "shared" and image.has_member(actor.project))
    )


def _admin(actor: Actor, image: Target) -> bool:
    return actor.is_admin


def _owning_member(actor: Actor, image: Target) -> bool:
    return actor.is_admin or (
        "member" in actor.roles and actor.project is not None and image.owner == actor.project
    )


def _adding_member(actor: Actor, image: Target) -> bool:
    # A token without a project makes an image without an owner, as in Glance.
    return actor.is_admin or ("member" in actor.roles and image.owner == actor.project)


def _seeing_reader(actor: Actor, image: Target) -> bool:
    return actor.is_admin or ("reader" in actor.roles and _visible(actor, image))


def _seeing_member(actor: Actor, image: Target) -> bool:
    return actor.is_admin or ("member" in actor.roles and _visible(actor, image))


def _sharing_reader(actor: Actor, image: Target) -> bool:
    return actor.is_admin or (
        "reader" in actor.roles
        and actor.project is not None
        and (image.owner == actor.project or image.has_member(actor.project))
    )


def _owning_reader(actor: Actor, image: Target) -> bool:
    return (
        actor.is_admin
        or "auditor" in actor.roles
        or ("reader" in actor.roles and actor.project is not None and image.owner == actor.project)
    )


def _invited_member(actor: Actor, image: Target) -> bool:
    return actor.is_admin or ("member" in actor.roles and image.has_member(actor.project))


RULES: dict[str, Rule] = {
    "add_image": _adding_member,
    "get_image": _seeing_reader,
    "get_image_history": _owning_reader,
    "modify_image": _owning_member,
    "delete_image": _owning_member,
    "restore_image": _owning_member,
    "purge_image": _admin,
    "upload_image": _owning_member,
    "download_image": _seeing_member,
    "publicize_image": _admin,
    "communitize_image": _owning_member,
    "deactivate": _owning_member,
    "reactivate": _owning_member,
    "add_member": _owning_member,
    "delete_member": _owning_member,
    "get_member": _sharing_reader,
    "get_members": _sharing_reader,
    "modify_member": _invited_member,
    "set_image_location": _owning_member,
    "delete_image_location": _admin,
}


def allows(actor: Actor, rule: str, image: Target) -> bool:
    """Whether the policy lets the actor do this to the image."""
    return RULES[rule](actor, image)


def require(actor: Actor, rule: str, image: Target | None) -> None:
    """Raises Forbidden, or NotFound where there is no image or the actor may not know of it."""
    if image is None or image.status == "deleted":
        raise NotFound("No image found with that ID")
    if RULES[rule](actor, image):
        return
    if not RULES["get_image"](actor, image):
        raise NotFound("No image found with that ID")
    raise Forbidden(f"You are not authorized to complete {rule} action.")


def as_auditor(actor: Actor) -> Actor:
    """The actor for reads of the past, where the role auditor reads what admin reads."""
    if actor.is_admin or "auditor" not in actor.roles:
        return actor
    return Actor(actor.user, actor.project, actor.roles | {"admin"})


def require_listing(actor: Actor) -> None:
    """The rule `get_images`: readers may list. Raises Forbidden."""
    if not actor.is_admin and "reader" not in actor.roles:
        raise Forbidden("You are not authorized to complete get_images action.")
