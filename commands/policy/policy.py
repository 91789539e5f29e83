"""Who may do what: questions that commands and queries ask, and the rules that answer them.

Rule names and defaults are those that operators know from Glance; an operator's file overrides
them. A rule is a function of the actor and of the image; it never looks at anything else.
"""

from collections.abc import Mapping
from dataclasses import replace

from calotype.commands.errors import Forbidden, NotFound
from calotype.commands.policy.actor import Actor, NewImage, Target, refused
from calotype.commands.policy.default_rules import DEFAULT_RULES
from calotype.commands.policy.protections import Protections
from calotype.commands.policy.rule_language import Text, compiled, grants_to


class Policy:
    """The rules in force: the defaults, and what an operator's files replace of them."""

    def __init__(
        self,
        texts: Mapping[str, Text] | None = None,
        *,
        enforce_new_defaults: bool = True,
        protections: Protections | None = None,
    ) -> None:
        """Raises BadRule naming the rule that cannot be used, or BadProtection the section."""
        given = dict(texts or {})
        effective: dict[str, Text] = {}
        for default in DEFAULT_RULES:
            effective[default.name] = default.text
            if not enforce_new_defaults and default.former is not None:
                effective[default.name] = f"({default.text}) or {default.former}"
        effective |= given
        self.texts = effective
        """Every rule as it was written."""
        self._rules, particular = compiled(effective)
        # Administrators are asked about once, when the actor is made, and not in every rule.
        admin = "context_is_admin"
        self._for_admins = frozenset(
            name
            for name, text in effective.items()
            if admin not in particular and grants_to(admin, text)
        )
        self._tells_kinds_only = "get_image" not in particular
        self._legacy = not enforce_new_defaults
        self.protections = protections
        """Who may do what to custom properties; None: whoever may do it to the image."""
        if protections is not None:
            protections.check_rules(self._rules)

    def holds(self, rule: str, actor: Actor, target: Target) -> bool:
        """Whether the rule says yes; one that does not exist says no."""
        if actor.is_admin and rule in self._for_admins:
            return True
        decide = self._rules.get(rule)
        if decide is None or not decide(actor, target):
            return False
        return not self._legacy or _legacy_holds(rule, actor, target)

    def shows_all(self, actor: Actor) -> bool:
        """Whether `get_image` lets the actor see every image that a list could hold.

        Only then no image of a list need be looked at. Decided by trying one image of each kind
        that the rule can tell apart; a rule that could tell more kinds apart is not trusted.
        """
        return self._tells_kinds_only and all(
            self.holds("get_image", actor, kind) for kind in _kinds_listed(actor)
        )


def in_sight(actor: Actor, image: Target) -> bool:
    """Whether the actor can reach the image at all, before any rule is asked."""
    return (
        actor.is_admin
        or image.owner is None
        or image.owner == actor.project
        or image.visibility in ("public", "community")
        or (image.visibility == "shared" and image.has_member(actor.project))
    )


def allows(actor: Actor, rule: str, image: Target) -> bool:
    """Whether the policy lets the actor do this to an image that exists."""
    return in_sight(actor, image) and actor.policy.holds(rule, actor, image)


def require(
    actor: Actor, rule: str, image: Target | None, missing: str = "No image found with that ID"
) -> None:
    """Raises Forbidden, or NotFound where there is no image or the actor may not know of it.

    `missing` is what NotFound says.
    """
    if image is None or image.status == "deleted":
        raise NotFound(missing)
    if in_sight(actor, image) and actor.policy.holds(rule, actor, image):
        return
    if rule == "get_image" or not allows(actor, "get_image", image):
        raise refused(NotFound(missing), actor, rule)
    raise refused(Forbidden(f"You are not authorized to complete {rule} action."), actor, rule)


def require_new(actor: Actor, rule: str, image: Target) -> None:
    """Raises Forbidden unless the rule holds for an image that is not made yet."""
    if not actor.policy.holds(rule, actor, image):
        raise refused(Forbidden(f"You are not authorized to complete {rule} action."), actor, rule)


def may(actor: Actor, rule: str) -> bool:
    """Whether a rule that is about no particular image holds for the actor and its project."""
    return actor.policy.holds(rule, actor, NewImage(actor.project))


def require_call(actor: Actor, rule: str, explanation: str = "") -> None:
    """Raises Forbidden unless `may`."""
    if not may(actor, rule):
        text = explanation or f"You are not authorized to complete {rule} action."
        raise refused(Forbidden(text), actor, rule)


def as_auditor(actor: Actor) -> Actor:
    """The actor for reads of the past, where who may read all of it reads what admin reads."""
    if actor.is_admin or not may(actor, "get_all_past_images"):
        return actor
    return replace(actor, policy=_READS_ALL)


def _kinds_listed(actor: Actor) -> list[NewImage]:
    """One image of each kind that a list for this actor could hold."""
    kinds = [NewImage(actor.project, visibility) for visibility in _VISIBILITIES]
    for owner in (None, "\x00somebody else"):
        kinds += [NewImage(owner, visibility) for visibility in ("public", "community")]
        kinds.append(NewImage(owner, "shared", offered=True))
        if actor.is_admin:
            kinds += [NewImage(owner, visibility) for visibility in ("private", "shared")]
    return kinds


def _legacy_holds(rule: str, actor: Actor, target: Target) -> bool:
    """What was checked in code before the personas; still is while the old defaults hold too."""
    if actor.is_admin:
        return True
    if rule in _FOR_OWNERS:
        return target.owner == actor.project
    return rule != "modify_member" or target.owner != actor.project


_VISIBILITIES = ("public", "community", "shared", "private")
_FOR_OWNERS = frozenset({
    "add_image", "modify_image", "delete_image", "upload_image", "communitize_image",
    "deactivate", "reactivate", "set_image_location", "delete_image_location",
    "add_member", "delete_member",
})  # fmt: skip

DEFAULT_POLICY: Policy = Policy()
"""The default rules: in force unless an operator's files say otherwise, and for the service."""
_READS_ALL = Policy({"context_is_admin": "@"})
