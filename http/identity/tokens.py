"""What a token of Keystone says: who acts, for what, until when, and where it may be used."""

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import DEFAULT_POLICY


@dataclass(frozen=True, slots=True)
class AccessRule:
    """One kind of request that an application credential may be used for."""

    service: str
    method: str
    path: str

    def allows(self, service: str, method: str, path: str) -> bool:
        """Whether it is about such a request; `path` is decoded, except for slashes."""
        if self.service != service or self.method.upper() != method:
            return False
        return _pattern(self.path).fullmatch(path) is not None


@dataclass(frozen=True, slots=True)
class Token:
    """A valid token, understood."""

    actor: Actor
    elsewhere: str = ""
    """What it is for, where that is no project: `system` or `domain`."""
    access_rules: tuple[AccessRule, ...] | None = None
    """None: it may be used for everything."""


def token_of(facts: dict[str, Any]) -> Token:
    """The token of which Keystone says this. Raises KeyError, TypeError, ValueError for nonsense.

    Roles are in lower case, because the rules of policies compare them so.
    """
    user, project = facts["user"], facts.get("project")
    credential = facts.get("application_credential") or {}
    rules = credential.get("access_rules")
    actor = Actor(
        user=str(user["id"]),
        project=str(project["id"]) if project else None,
        roles=frozenset(str(role["name"]).lower() for role in facts.get("roles") or ()),
        user_domain=_domain(user),
        project_domain=_domain(project),
        expires_at=datetime.fromisoformat(facts["expires_at"]).timestamp(),
        policy=DEFAULT_POLICY,
    )
    return Token(
        actor,
        elsewhere=next((scope for scope in ("system", "domain") if facts.get(scope)), ""),
        access_rules=None if rules is None else tuple(_access_rule(rule) for rule in rules),
    )


def _domain(of: dict[str, Any] | None) -> str | None:
    return of["domain"]["id"] if of and of.get("domain") else None


def _access_rule(rule: dict[str, Any]) -> AccessRule:
    return AccessRule(str(rule["service"]), str(rule["method"]), str(rule["path"]))


@lru_cache(maxsize=1024)
def _pattern(path: str) -> re.Pattern[str]:
    """`*` and `{name}` stand for one part of a path, `**` for any number of them."""
    parts = re.split(r"(\*\*|\*|\{[^}]*\})", path)
    return re.compile("".join(_expression(part) for part in parts), re.DOTALL)


def _expression(part: str) -> str:
    if part == "**":
        return ".*"
    if part == "*" or (part.startswith("{") and part.endswith("}")):
        return "[^/]+"
    return re.escape(part)
