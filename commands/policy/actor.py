"""Who wants something, of which image, and how an event records it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from calotype.commands.errors import CalotypeError, Decision

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

    def facts(self) -> Mapping[str, Any]:
        """Everything else by its name in the API; only asked for by rules that name it."""
        ...


@dataclass(frozen=True, slots=True)
class NewImage:
    """What is known of an image that is still to be made, or of any of a project's own."""

    owner: str | None
    visibility: str = "private"
    status: str = "queued"
    offered: bool = False

    def has_member(self, project: str | None) -> bool:
        return self.offered

    def facts(self) -> Mapping[str, Any]:
        return {}


class Rules(Protocol):
    """The rules that judge an actor: a `calotype.commands.policy.policy.Policy`."""

    @property
    def protections(self) -> Any: ...

    def holds(self, rule: str, actor: "Actor", target: Target) -> bool: ...

    def shows_all(self, actor: "Actor") -> bool: ...


class NoRules:
    """What judges an actor until a policy does: it allows nothing."""

    protections = None

    def holds(self, rule: str, actor: "Actor", target: Target) -> bool:
        return False

    def shows_all(self, actor: "Actor") -> bool:
        return False


NO_RULES = NoRules()
NO_IMAGE = NewImage(None)
"""The target of rules that are about no image."""


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
    """When the caller's credentials expire, in seconds since 1970; None: never."""
    policy: Rules = field(default=NO_RULES, compare=False, repr=False)
    """The rules that judge this actor; the same for all of a request."""
    is_admin: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_admin", False)  # A rule could ask for it while it is made.
        admin = self.policy.holds("context_is_admin", self, NO_IMAGE)
        object.__setattr__(self, "is_admin", admin)

    def under(self, policy: Rules) -> "Actor":
        """The same actor judged by these rules."""
        return self if self.policy is policy else replace(self, policy=policy)

    def facts(self) -> dict[str, Any]:
        """What rules may name of the actor."""
        return {
            "user_id": self.user,
            "user": self.user,
            "project_id": self.project,
            "project": self.project,
            "tenant": self.project,
            "roles": sorted(self.roles),
            "is_admin": self.is_admin,
            "user_domain_id": self.user_domain,
            "project_domain_id": self.project_domain,
            "service_roles": sorted(self.service_roles),
        }

    def recorded(self) -> dict[str, Any]:
        """What events say of the actor; never a token."""
        return {"user": self.user, "project": self.project, "roles": sorted(self.roles)}


@dataclass(frozen=True, slots=True)
class Cause:
    """The actor of a change, and the request that asked for it; every event carries it."""

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


Refusal = TypeVar("Refusal", bound=CalotypeError)


def refused(error: Refusal, actor: Actor, rule: str) -> Refusal:
    """The error, with what was decided about whom, for the log of refusals."""
    error.decision = Decision(rule, actor.recorded())
    return error
