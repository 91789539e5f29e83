"""`calotype replay --policy FILE`: which past changes other rules would have decided otherwise."""

from collections import Counter, deque
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import typer

from calotype.commands.policy.policy import Policy
from calotype.ops.cli.terminal.output import Document, Output
from calotype.ops.cli.terminal.progress import bar
from calotype.ops.settings.policy_files import load_policy
from calotype.ops.settings.settings import Settings
from calotype.projections.engine.positions import Positions, positions_now
from calotype.projections.past.policy_replay import (
    Decision,
    PolicyReplay,
    Refusal,
    unrecorded_facts,
)
from calotype.stores.log.recorder import GroupCommitRecorder

LONGEST_TABLE = 200
"""Changes of a table; all of them are counted, and `--output json` gives all."""
TITLES = ("position", "time", "who", "request", "what", "image", "rule", "now -> then")


def tried_policy(settings: Settings, policy: Path | None, protections: Path | None) -> Policy:
    """The policy as it would be with another file in the place of `[policy] file` and the like.

    Raises SettingsError naming what cannot be used.
    """
    rules, protected = settings.policy, settings.property_protections
    if policy is not None:
        rules = rules.model_copy(update={"file": str(policy)})
    if protections is not None:
        protected = protected.model_copy(update={"file": str(protections)})
    return load_policy(rules, protected)


class Findings:
    """What was found so far: counts of everything, and the first changes themselves."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self.first: list[Decision] = []
        self.asked = 0
        self.refused_by_both = 0
        self.directions: Counter[str] = Counter()
        self.rules: Counter[tuple[str, str]] = Counter()
        self.users: Counter[tuple[str, str]] = Counter()

    @property
    def count(self) -> int:
        """How many changes would be decided otherwise."""
        return self.directions.total()

    def add(self, decision: Decision) -> None:
        """Counts a decision, and keeps it while there is room, if it differs."""
        self.asked += 1
        if not decision.differs:
            self.refused_by_both += decision.now is not None
            return
        direction = f"{_said(decision.now)} -> {_said(decision.then)}"
        self.directions[direction] += 1
        self.rules[decision.rule, direction] += 1
        self.users[str(decision.actor["user"]), str(decision.actor["project"])] += 1
        if len(self.first) < LONGEST_TABLE:
            self.first.append(decision)

    def document(self, decision: Decision) -> Document:
        """The change as an object."""
        return {
            "position": self._positions.encode(decision.position),
            "time": decision.time,
            "actor": decision.actor,
            "request_id": decision.request_id,
            "type": decision.type,
            "image_id": decision.image_id,
            "rule": decision.rule,
            "now": _said(decision.now),
            "then": _said(decision.then),
        }

    def cells(self, decision: Decision) -> list[object]:
        """The change as a row."""
        told = self.document(decision)
        who = f"{decision.actor['user']} of {decision.actor['project']}"
        facts = [told[key] for key in ("request_id", "type", "image_id", "rule")]
        return [told["position"], told["time"], who, *facts, f"{told['now']} -> {told['then']}"]

    def summary(self) -> Document:
        """All counts."""
        return {
            "changes": self.asked,
            "decided_otherwise": self.count,
            "directions": dict(self.directions),
            "refused_by_both": self.refused_by_both,
            "by_rule": [
                {"rule": rule, "decided": direction, "changes": count}
                for (rule, direction), count in self.rules.most_common()
            ],
            "by_user": [
                {"user": user, "project": project, "changes": count}
                for (user, project), count in self.users.most_common()
            ],
        }

    def show(self, out: Output) -> None:
        """Tables for people: the changes, and how many there are by rule and by user."""
        summary = self.summary()
        if self.count:
            out.rows(TITLES, self.first, self.cells)
            for kind, titles in (
                ("by_rule", ("rule", "now -> then", "changes")),
                ("by_user", ("user", "project", "changes")),
            ):
                out.rows(titles, summary[kind])
        if self.count > len(self.first):
            out.say(f"Only the first {len(self.first)} are shown; --output json gives all.")

    def said(self) -> str:
        """The counts in two sentences."""
        return (
            f"{self.count} of {self.asked} changes would be decided otherwise; "
            f"{self.refused_by_both} are refused by both today.\n"
            "What was refused is no event: what these rules would newly allow is not known."
        )


def what_if(
    settings: Settings,
    recorder: GroupCommitRecorder,
    then: Policy,
    span: tuple[int, int],
    out: Output,
) -> int:
    """Judges the events from one position to another, both included, and prints what it finds.

    `then` is tried against the policy in force. Returns how many changes they decide otherwise.
    Needs flat memory, and takes nothing from a service that runs meanwhile.
    """
    now = load_policy(settings.policy, settings.property_protections)
    for fact, rules in unrecorded_facts(then).items():
        typer.echo(
            f"events do not record {fact}, so it is taken for missing in: {', '.join(rules)}",
            err=True,
        )
    findings = Findings(positions_now(recorder))
    first, last = span

    def differing() -> Iterator[Decision]:
        with bar("asking", max(0, last - first + 1)) as advance:
            for decision in PolicyReplay(recorder, now, then).decisions(first, last):
                advance(1)
                if decision is not None:
                    findings.add(decision)
                    if decision.differs:
                        yield decision

    if out.is_for_programs:
        out.rows(TITLES, differing(), findings.cells, findings.document)
    else:
        deque(differing(), maxlen=0)
        findings.show(out)
    out.summary(findings.said(), findings.summary())
    return findings.count


def _said(refusal: Refusal | None) -> str:
    """The status that a client got, or would have got instead of its answer."""
    if refusal is None:
        return "allowed"
    status = refusal.error.status
    return f"{status} {HTTPStatus(status).phrase}"
