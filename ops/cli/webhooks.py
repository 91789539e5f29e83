"""`calotype webhooks`: make, look at, try out and mend webhooks from the shell.

For operators, who can read the database anyway: the policy is not asked. Without `--project` it is
about the webhooks of operators, which get every event.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer

from calotype.ops.cli.terminal.invocation import (
    AllOption,
    Invocation,
    PositionsArgument,
    TypesOption,
    check_choice,
    fail,
    noun,
    verb,
)
from calotype.ops.wiring import webhooks as webhook_wiring
from calotype.projections.consumers.consumers import Consumers
from calotype.projections.feed.feed import Feed
from calotype.projections.webhooks.service import Wanted, Webhooks, shown
from calotype.stores.log.recorder import GroupCommitRecorder

app = noun("Webhooks: events sent to endpoints.")

PARKED_AT_ONCE = 500

NameArgument = Annotated[str, typer.Argument(help="Name of the webhook.")]
ProjectOption = Annotated[
    str, typer.Option("--project", help="Whose it is; without this the operators'.")
]

Result = TypeVar("Result")


@verb(app, "list")
def list_(
    invocation: Invocation,
    project: Annotated[str | None, typer.Option("--project", help="Only of this project.")] = None,
) -> None:
    """List webhooks, of everybody or of one project, and how their deliveries go."""
    found = _run(invocation, lambda webhooks: webhooks.all_of(project))
    titles = ("project", "name", "url", "state", "failing since", "last error")
    invocation.out.rows(titles, map(shown, found), _cells)


def _cells(row: dict[str, Any]) -> list[object]:
    facts = [row[key] for key in ("project", "name", "url", "state", "failing_since")]
    return [*facts, row["disabled_because"] or row["last_error"]]


@verb(app)
def show(
    invocation: Invocation,
    name: NameArgument,
    project: ProjectOption = "",
) -> None:
    """Print one webhook: where it leads, and how it fares."""

    async def look(webhooks: Webhooks) -> dict[str, object]:
        return await webhooks.described(await webhooks.get(project, name))

    invocation.out.document(_run(invocation, look))


@verb(app)
def create(
    invocation: Invocation,
    name: NameArgument,
    url: Annotated[str, typer.Argument(help="Where messages are sent: https://HOST/PATH.")],
    project: ProjectOption = "",
    types: TypesOption = None,
    start: Annotated[
        str, typer.Option(help="Where a new one begins: now, beginning, or after a position.")
    ] = "now",
    disabled: Annotated[
        bool, typer.Option("--disabled", help="Deliver nothing until it is enabled.")
    ] = False,
) -> None:
    """Make a webhook and print it with its secret, for the only time; or change one."""
    wanted = Wanted(url, tuple(types or ()), not disabled, start)
    endpoint, secret = _run(invocation, lambda webhooks: webhooks.put(project, name, wanted))
    told = shown(endpoint)
    invocation.out.document(told if secret is None else {**told, "secret": secret})


@verb(app)
def delete(
    invocation: Invocation,
    name: NameArgument,
    project: ProjectOption = "",
) -> None:
    """Delete a webhook; what is not delivered yet never will be."""
    _run(invocation, lambda webhooks: webhooks.delete(project, name))
    invocation.out.say(f"deleted {name}", deleted=name)


@verb(app, "test")
def send_test(
    invocation: Invocation,
    name: NameArgument,
    project: ProjectOption = "",
) -> None:
    """Send a test message from this machine; exits with 1 when it is not taken."""
    tried = _run(invocation, lambda webhooks: webhooks.test(project, name))
    status = tried.result.status
    if not tried.result.delivered:
        fail(f"not delivered: {tried.result.error}")
    text = f"delivered in {tried.seconds:.3f} s (answered {status})"
    invocation.out.say(text, delivered=True, seconds=round(tried.seconds, 3), status=status)


@verb(app)
def parked(
    invocation: Invocation,
    name: NameArgument,
    project: ProjectOption = "",
) -> None:
    """List the messages that failed too often, one a line."""

    async def read(webhooks: Webhooks) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        after = 0
        while found := await webhooks.parked(project, name, after, PARKED_AT_ONCE):
            after = await webhooks.position(found[-1]["position"], "position")
            rows += found
        return rows

    titles = ("position", "image", "attempts", "error")
    invocation.out.rows(titles, _run(invocation, read), _parked_cells)


def _parked_cells(row: dict[str, Any]) -> list[object]:
    return [row["position"], row["image"], f"{row['attempts']} attempts", row["error"]]


@verb(app)
def redeliver(
    invocation: Invocation,
    name: NameArgument,
    positions: PositionsArgument = None,
    everything: AllOption = False,
    project: ProjectOption = "",
) -> None:
    """Send parked messages again; a serving process does so within seconds.

    Without positions, all that are parked.
    """
    check_choice(positions, everything)

    async def again(webhooks: Webhooks) -> int:
        numbers = [await webhooks.position(text, "POSITIONS") for text in positions or ()]
        wanted: list[int | None] = [*numbers] or [None]
        return sum([await webhooks.redeliver(project, name, number) for number in wanted])

    count = _run(invocation, again)
    invocation.out.say(f"{count} messages are sent again", redelivered=count)


@verb(app)
def rotate(
    invocation: Invocation,
    name: NameArgument,
    project: ProjectOption = "",
    overlap_seconds: Annotated[
        float, typer.Option(help="How long the former secret goes on signing as well.")
    ] = 86400.0,
) -> None:
    """Give a webhook a new secret and print it, for the only time."""
    secret = _run(invocation, lambda webhooks: webhooks.rotate(project, name, overlap_seconds))
    invocation.out.say(secret, secret=secret)


def _run(invocation: Invocation, work: Callable[[Webhooks], Awaitable[Result]]) -> Result:
    """What work makes of the webhooks of the configured log."""

    async def go(recorder: GroupCommitRecorder) -> Result:
        consumers = Consumers(recorder, Feed(recorder))
        return await work(webhook_wiring.webhooks_of(invocation.settings, recorder, consumers))

    return invocation.ask(go)
