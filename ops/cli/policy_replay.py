"""`calotype replay --policy FILE`: which past changes other rules would have decided otherwise."""

from collections import Counter
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from calotype.commands.policy.policy import Policy
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
"""Changes that are shown to people; all of them are counted, and `--json` gives all."""
_WIDTH = 200
"""Characters of a line where it is not a terminal that reads."""


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

    def line(self, decision: Decision) -> bytes:
        """The change as a line of JSON."""
        return orjson.dumps(
            {
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
        )

    def summary(self) -> dict[str, Any]:
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

    def show(self, console: Console) -> None:
        """Tables for people: the changes, and how many there are by rule and by user."""
        changes = Table(
            "position", "time", "who", "request", "what", "image", "rule", "now -> then"
        )
        for decision in self.first:
            who = f"{decision.actor['user']} of {decision.actor['project']}"
            said = f"{_said(decision.now)} -> {_said(decision.then)}"
            position = self._positions.encode(decision.position)
            cells = [position, decision.time, who, decision.request_id]
            cells += [decision.type, decision.image_id, decision.rule, said]
            changes.add_row(*[_plain(cell) for cell in cells])
        rules = Table("rule", "now -> then", "changes")
        for (rule, direction), count in self.rules.most_common():
            rules.add_row(_plain(rule), direction, str(count))
        users = Table("user", "project", "changes")
        for (user, project), count in self.users.most_common():
            users.add_row(_plain(user), _plain(project), str(count))
        if self.count:
            for table in (changes, rules, users):
                console.print(table)
        if self.count > len(self.first):
            console.print(f"Only the first {len(self.first)} are shown; --json gives all.")
        console.print(
            f"{self.count} of {self.asked} changes would be decided otherwise; "
            f"{self.refused_by_both} are refused by both today.\n"
            "What was refused is no event: what these rules would newly allow is not known.",
            highlight=False,
            soft_wrap=True,
        )


def what_if(
    settings: Settings,
    recorder: GroupCommitRecorder,
    then: Policy,
    span: tuple[int, int],
    *,
    as_json: bool,
) -> int:
    """Walks the events from one position to another, both included, and tells what it finds.

    `then` is tried against the policy in force. Returns how many changes they decide otherwise.
    Needs flat memory, and takes nothing from a service that goes on meanwhile.
    """
    now = load_policy(settings.policy, settings.property_protections)
    for fact, rules in unrecorded_facts(then).items():
        typer.echo(
            f"events do not record {fact}, so it is taken for missing in: {', '.join(rules)}",
            err=True,
        )
    findings = Findings(positions_now(recorder))
    first, last = span
    console = Console(stderr=True)
    columns = (TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=max(0, last - first + 1))
        for decision in PolicyReplay(recorder, now, then).decisions(first, last):
            progress.advance(task)
            if decision is None:
                continue
            findings.add(decision)
            if as_json and decision.differs:
                typer.echo(findings.line(decision))
    if as_json:
        typer.echo(orjson.dumps({"summary": findings.summary()}))
    else:
        console = Console()
        findings.show(console if console.is_terminal else Console(width=_WIDTH))
    return findings.count


def _said(refusal: Refusal | None) -> str:
    """The status that a client got, or would have got instead of its answer."""
    if refusal is None:
        return "allowed"
    status = refusal.error.status
    return f"{status} {HTTPStatus(status).phrase}"


def _plain(text: str) -> Text:
    """Text from outside: nothing of it may steer a terminal, or look like markup."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return Text(printable, overflow="fold")
