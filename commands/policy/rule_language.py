"""From rules in the language of oslo.policy to functions that cost what they look like.

oslo.policy reads the texts; its trees of checks are turned once into closures of the actor and
the target. What they answer is what oslo.policy's Enforcer answers, with these exceptions, all
of them found when the rules are read and not when somebody asks: a rule that cannot be parsed, a
reference to a rule that nobody wrote, a circle of references, and checks that ask another server.
"""

import ast
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oslo_policy import policy as oslo

from calotype.commands.policy.actor import Actor, Target

Rule = Callable[[Actor, Target], bool]
Text = str | Sequence[str | Sequence[str]]
"""A rule as files write it: the language, or the old lists of lists."""

_PLACES = re.compile(r"%\(([^()]+)\)s|%%")
_PLAIN_PLACE = re.compile(r"%\(([^()%]+)\)s")
_IDENTITY = ("project_id", "tenant", "project")


class BadRule(ValueError):
    """A rule that cannot be used; `rule` is its name."""

    def __init__(self, rule: str, why: str) -> None:
        super().__init__(f"rule '{rule}' {why}")
        self.rule = rule


class _Complaints(logging.Handler):
    """Hears what oslo.policy's parser only writes to its log before it refuses everybody."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = False

    def emit(self, record: logging.LogRecord) -> None:
        self.heard = True


def compiled(texts: Mapping[str, Text]) -> tuple[dict[str, Rule], frozenset[str]]:
    """A function for every rule, and the names of those that look at a target closely.

    The others tell targets apart by visibility, by whether they are the actor's own, and by
    whether they were offered to it, and by nothing else. Raises BadRule naming the first rule
    that cannot be used.
    """
    trees = {name: _parsed(name, text) for name, text in texts.items()}
    compiler = _Compiler(trees)
    rules = {name: compiler.rule(name, name, ()) for name in trees}
    particular = {name for name in trees if compiler.looks_closely(trees[name])}
    return rules, frozenset(particular)


def grants_to(rule: str, text: Text) -> bool:
    """Whether whoever fulfils `rule` fulfils the text, because it begins `rule:... or`."""
    tree = _parsed(rule, text)
    first = tree.rules[0] if isinstance(tree, oslo.OrCheck) else tree
    return isinstance(first, oslo.RuleCheck) and bool(first.match == rule)


def _parsed(name: str, text: Any) -> Any:
    if not isinstance(text, (str, list, tuple)):
        raise BadRule(name, f"must be text, not {type(text).__name__}")
    logger = logging.getLogger("oslo_policy._parser")
    complaints, propagated = _Complaints(), logger.propagate
    logger.addHandler(complaints)
    logger.propagate = False
    try:
        tree = oslo.RuleDefault(name, text).check  # type: ignore[arg-type]
    except Exception as error:
        raise BadRule(name, f"cannot be understood: {error}") from None
    finally:
        logger.removeHandler(complaints)
        logger.propagate = propagated
    if complaints.heard:
        raise BadRule(name, f"cannot be understood: {str(text)[:200]!r}")
    return tree


class _Compiler:
    def __init__(self, trees: Mapping[str, Any]) -> None:
        self._trees = trees
        self._done: dict[str, Rule] = {}

    def rule(self, name: str, asked_by: str, above: tuple[str, ...]) -> Rule:
        """The function of a rule; `above` are the rules whose texts led here."""
        if name not in self._done:
            if name in above:
                raise BadRule(asked_by, f"goes in a circle: {' -> '.join((*above, name))}")
            if name not in self._trees:
                raise BadRule(asked_by, f"refers to rule '{name}', which nobody wrote")
            self._done[name] = self._check(self._trees[name], asked_by, (*above, name))
        return self._done[name]

    def _check(self, check: Any, name: str, above: tuple[str, ...]) -> Rule:
        if isinstance(check, oslo.RuleCheck):
            return self.rule(check.match, name, above)
        if isinstance(check, oslo.AndCheck):
            return _all_of([self._check(part, name, above) for part in check.rules])
        if isinstance(check, oslo.OrCheck):
            return _any_of([self._check(part, name, above) for part in check.rules])
        if isinstance(check, oslo.NotCheck):
            inner = self._check(check.rule, name, above)
            return lambda actor, target: not inner(actor, target)
        text = str(check)
        if text in ("@", "!"):
            return _always if text == "@" else _never
        return _leaf(check.kind, check.match, name)

    def looks_closely(self, check: Any) -> bool:
        """Whether a check that has been compiled names more of a target than its kind."""
        if isinstance(check, oslo.RuleCheck):
            return self.looks_closely(self._trees[check.match])
        if isinstance(check, oslo.NotCheck):
            return self.looks_closely(check.rule)
        if isinstance(check, (oslo.AndCheck, oslo.OrCheck)):
            return any(self.looks_closely(part) for part in check.rules)
        match = getattr(check, "match", "")
        if "%" not in match:
            return False
        if check.kind in _IDENTITY:
            return match not in ("%(project_id)s", "%(owner)s", "%(member_id)s")
        return match != "%(visibility)s" or not check.kind.startswith(("'", '"'))


def _always(actor: Actor, target: Target) -> bool:
    return True


def _never(actor: Actor, target: Target) -> bool:
    return False


def _all_of(rules: list[Rule]) -> Rule:
    if len(rules) == 2:
        first, second = rules
        return lambda actor, target: first(actor, target) and second(actor, target)

    def every(actor: Actor, target: Target) -> bool:
        for rule in rules:  # noqa: SIM110 - a loop costs half of what a generator does
            if not rule(actor, target):
                return False
        return True

    return every


def _any_of(rules: list[Rule]) -> Rule:
    if len(rules) == 2:
        first, second = rules
        return lambda actor, target: first(actor, target) or second(actor, target)

    def some(actor: Actor, target: Target) -> bool:
        for rule in rules:  # noqa: SIM110 - a loop costs half of what a generator does
            if rule(actor, target):
                return True
        return False

    return some


def _leaf(kind: str, match: str, name: str) -> Rule:
    """`kind:match`, the quick forms first: those of nearly all rules that anybody writes."""
    if kind in ("http", "https"):
        raise BadRule(name, f"asks another server ({kind}:), which this service does not do")
    if "%" in _PLACES.sub("", match):
        raise BadRule(name, f"has a '%' in {match!r} that is neither %(name)s nor %%")
    if kind == "role":
        return _role(match)
    try:
        literal = str(ast.literal_eval(kind))
    except ValueError:
        return _identity(kind, match)
    except (SyntaxError, MemoryError, RecursionError):
        raise BadRule(
            name, f"compares with {kind!r}, which is neither a name nor a value"
        ) from None
    return _literal(literal, match)


def _role(match: str) -> Rule:
    if "%" not in match:
        role = match.lower()
        return lambda actor, target: role in actor.roles

    def has_role(actor: Actor, target: Target) -> bool:
        filled = _filled(match, actor, target)
        return filled is not None and filled.lower() in actor.roles

    return has_role


def _literal(literal: str, match: str) -> Rule:
    if match == "%(visibility)s":
        return lambda actor, target: target.visibility == literal
    return lambda actor, target: _filled(match, actor, target) == literal


def _identity(kind: str, match: str) -> Rule:
    if kind in _IDENTITY:
        place = _PLAIN_PLACE.fullmatch(match)
        if place and place[1] in ("project_id", "owner"):
            # Nobody's project and nobody's image are equal here, as "None" and "None" are there.
            return lambda actor, target: target.owner == actor.project
        if place and place[1] == "member_id":
            return lambda actor, target: was_offered(actor, target)
    path = kind.split(".")

    def matches(actor: Actor, target: Target) -> bool:
        filled = _filled(match, actor, target)
        return filled is not None and _found(actor.facts(), path, filled)

    return matches


def was_offered(actor: Actor, target: Target) -> bool:
    """Whether the actor's project reaches the target because it was shared with it."""
    return (
        actor.project is not None
        and target.visibility == "shared"
        and target.owner != actor.project
        and target.has_member(actor.project)
    )


def _filled(match: str, actor: Actor, target: Target) -> str | None:
    """The text with the target's values in their places; None when it has no such value."""
    if "%" not in match:
        return match
    facts = target_facts(actor, target)
    try:
        return match % facts
    except KeyError:
        return None


def target_facts(actor: Actor, target: Target) -> dict[str, Any]:
    """Every value of a target that a rule can name."""
    facts = dict(target.facts())
    facts.pop("member_id", None)  # A custom property may have any name, and means nothing here.
    facts |= {"project_id": target.owner, "owner": target.owner, "visibility": target.visibility}
    if was_offered(actor, target):
        facts["member_id"] = actor.project
    return facts


def _found(facts: Any, path: list[str], text: str) -> bool:
    """Whether the value at the path is the text; of a list, whether any of its values is."""
    if isinstance(facts, (list, tuple)):
        return any(_found(fact, path, text) for fact in facts)
    if not path:
        return text == str(facts)
    if not isinstance(facts, Mapping) or path[0] not in facts:
        return False
    return _found(facts[path[0]], path[1:], text)
