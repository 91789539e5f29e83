"""Property protections: which custom properties who may create, read, update and delete.

An operator's file has sections in order, each a regular expression that is searched in a property's
name. The first that is found decides; a name in which none is found is nobody's. What only the
service sets (`os_glance...`) is always readable, whatever the file says.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from calotype.commands.errors import Conflict, Forbidden
from calotype.commands.images.fields import HASHES, READ_ONLY, RESERVED, WRITABLE
from calotype.commands.policy.actor import Actor, NewImage, refused

Operation = Literal["create", "read", "update", "delete"]
Form = Literal["roles", "policies"]
OPERATIONS: tuple[Operation, ...] = ("create", "read", "update", "delete")

EVERYBODY, NOBODY = "@", "!"
INTERNAL = "os_glance"
"""What the names of properties begin with that only the service itself sets."""
_NOT_CUSTOM = WRITABLE | READ_ONLY | RESERVED | HASHES | {"id", "tags"}
"""The other members of an image as the API shows it; no custom property can have such a name."""
FOUND_EVERYWHERE = frozenset({".*", "^", "^.*", ".*$", "(.*)", ".*?"})
"""Patterns that are found in every name. Others may be too; then reading costs a look. (`^.*$` is
not: a name may have several lines.)"""
_NO_IMAGE = NewImage(owner="\x00", visibility="\x00", status="\x00")
"""What rules are asked about, because protections are not about an image: it is like none."""
_REMEMBERED_NAMES, _REMEMBERED_READERS = 4096, 64


class BadProtection(ValueError):
    """A section that cannot be used; the message names it and the key, and says the fix."""

    def __init__(self, section: str, key: str | None, why: str) -> None:
        super().__init__(f"[{section}] {why}" if key is None else f"[{section}] {key}: {why}")


@dataclass(frozen=True, slots=True)
class Grant:
    """Who may do one thing: everybody, who has one of the roles, or whoever a rule lets."""

    everybody: bool = False
    roles: frozenset[str] = frozenset()
    """Lower case; those of a service that asks on a user's behalf count too."""
    rule: str | None = None

    def is_for(self, actor: Actor) -> bool:
        if self.rule is not None:
            return actor.policy.holds(self.rule, actor, _NO_IMAGE)
        if self.everybody:
            return True
        return not (
            self.roles.isdisjoint(actor.roles) and self.roles.isdisjoint(actor.service_roles)
        )


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the file."""

    text: str
    pattern: re.Pattern[str]
    grants: Mapping[str, Grant]
    """One for each of OPERATIONS."""


class Readable:
    """The names that are readable where the same sections are open; remembers what it found."""

    def __init__(self, sections: Sequence[Section], opened: Sequence[bool]) -> None:
        self._sections = tuple(zip(sections, opened, strict=True))
        self._names = set(_NOT_CUSTOM)
        self._hidden: set[str] = set()

    def __contains__(self, name: str) -> bool:
        if name in self._names:
            return True
        if name in self._hidden:
            return False
        if len(self._names) + len(self._hidden) >= _REMEMBERED_NAMES:
            # Names come from outside: there may be any number.
            self._names, self._hidden = set(_NOT_CUSTOM), set()
        opened = name.startswith(INTERNAL) or self._opens(name)
        (self._names if opened else self._hidden).add(name)
        return opened

    def _opens(self, name: str) -> bool:
        for section, opened in self._sections:
            if section.pattern.search(name):
                return opened
        return False

    def holds_all(self, names: Iterable[str]) -> bool:
        """Whether all the names are readable."""
        return self._names.issuperset(names) or all(name in self for name in names)


class Protections:
    """The sections of a file, in its order."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self.sections = tuple(sections)
        self._readable: dict[tuple[bool, ...], Readable | None] = {}

    def allows(self, actor: Actor, operation: Operation, name: str) -> bool:
        """Whether the actor may do this to the custom property."""
        if name.startswith(INTERNAL):
            return True
        for section in self.sections:
            if section.pattern.search(name):
                return section.grants[operation].is_for(actor)
        return False

    def readable_by(self, actor: Actor) -> Readable | None:
        """The names that the actor may read; None: all there can be."""
        opened = tuple([section.grants["read"].is_for(actor) for section in self.sections])
        if opened not in self._readable:
            if len(self._readable) >= _REMEMBERED_READERS:
                self._readable.clear()
            everything = self._opens_all(opened)
            self._readable[opened] = None if everything else Readable(self.sections, opened)
        return self._readable[opened]

    def check_rules(self, known: Iterable[str]) -> None:
        """Raises BadProtection for a rule that is not among the policy's."""
        rules = frozenset(known)
        for section in self.sections:
            for key, grant in section.grants.items():
                if grant.rule is not None and grant.rule not in rules:
                    raise BadProtection(
                        section.text,
                        key,
                        f"there is no rule '{grant.rule}'; write it in the policy file, or name "
                        "another",
                    )

    def _opens_all(self, opened: Sequence[bool]) -> bool:
        for section, is_open in zip(self.sections, opened, strict=True):
            if not is_open:
                return False
            if section.text in FOUND_EVERYWHERE:
                return True  # No section behind this one is ever asked.
        return False


def protections_of(sections: Iterable[tuple[str, Mapping[str, str]]], form: Form) -> Protections:
    """The protections that the sections of a file say: `(regular expression, values by key)`.

    Values are a comma list of roles, or with the form `policies` the name of one rule; `@` is
    everybody and `!` or nothing nobody. Raises BadProtection naming the first that cannot be used.
    """
    return Protections(
        [
            _section(text, values, form)
            for text, values in sections
            if not text.startswith(INTERNAL)  # Those are not for operators to close.
        ]
    )


def _section(text: str, values: Mapping[str, str], form: Form) -> Section:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise BadProtection(text, None, f"is not a regular expression: {error}") from None
    grants: dict[str, Grant] = {}
    for operation in OPERATIONS:
        if operation not in values:
            raise BadProtection(
                text, operation, "is missing; write who may (nothing behind the '=' is nobody)"
            )
        grant = _of_roles if form == "roles" else _of_rule
        grants[operation] = grant(text, operation, values[operation].strip())
    return Section(text, pattern, grants)


def _of_roles(section: str, key: str, value: str) -> Grant:
    roles = frozenset(role.strip().lower() for role in value.split(","))
    if EVERYBODY in roles and NOBODY in roles:
        raise BadProtection(section, key, "'@' and '!' exclude each other; keep one of them")
    if NOBODY in roles:
        return Grant()
    return Grant(everybody=EVERYBODY in roles, roles=roles - {""})


def _of_rule(section: str, key: str, value: str) -> Grant:
    if "," in value:
        raise BadProtection(
            section, key, "takes exactly one rule; combine them in a rule of the policy file"
        )
    if value in ("", NOBODY, EVERYBODY):
        return Grant(everybody=value == EVERYBODY)
    return Grant(rule=value)


# ---- for commands and queries ----


def readable_by(actor: Actor) -> Readable | None:
    """The names of custom properties that the actor may read; None: all there can be.

    To be asked once for an answer, however many images are in it.
    """
    protections: Protections | None = actor.policy.protections
    return None if protections is None else protections.readable_by(actor)


def reads(actor: Actor, name: str) -> bool:
    """Whether the actor may read the custom property."""
    protections: Protections | None = actor.policy.protections
    return protections is None or protections.allows(actor, "read", name)


def require_property(actor: Actor, operation: Operation, name: str) -> None:
    """Raises Forbidden unless the actor may do this to the custom property."""
    protections: Protections | None = actor.policy.protections
    if protections is not None and not protections.allows(actor, operation, name):
        error = Forbidden(f"Attribute '{name}' is reserved.")
        raise refused(error, actor, f"property '{name}' {operation}")


def require_change(actor: Actor, op: str, name: str, *, exists: bool, strict: bool = False) -> None:
    """Whether a step of a PATCH (`add`, `replace` or `remove`) may do this to the property.

    `strict` forbids to add what exists. What the actor cannot read is not there for it, but it
    cannot be overwritten either. Raises Forbidden, and Conflict where there is nothing to replace
    or to remove.
    """
    if op == "add":
        if exists:
            require_property(actor, "read", name)
        if exists and strict:
            raise Conflict(f"Property '{name}' already exists; use replace.")
        require_property(actor, "update" if exists else "create", name)
    elif not exists or not reads(actor, name):
        missing = Conflict(f"Property '{name}' does not exist; use add.")
        raise refused(missing, actor, f"property '{name}' read") if exists else missing
    else:
        require_property(actor, "update" if op == "replace" else "delete", name)
