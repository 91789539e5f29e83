"""`calotype webhooks`: make, look at, try out and mend webhooks from the shell.

For operators, who can read the database anyway: the policy is not asked. Without `--project` it is
about the webhooks of operators, which get every event.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from calotype.commands.errors import CalotypeError
from calotype.ops.cli.options import ConfigOption, DataOption, LogUrlOption
from calotype.ops.settings.settings import load_settings
from calotype.ops.wiring import composition
from calotype.ops.wiring import webhooks as webhook_wiring
from calotype.projections.consumers.consumers import Consumers
from calotype.projections.feed.feed import Feed
from calotype.projections.webhooks.service import Wanted, Webhooks, shown

app = typer.Typer(help="Webhooks: events sent to endpoints.", no_args_is_help=True)

PARKED_AT_ONCE = 500

NameArgument = Annotated[str, typer.Argument(help="Name of the webhook.")]
ProjectOption = Annotated[
    str, typer.Option("--project", help="Whose it is; without this the operators'.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

Result = TypeVar("Result")


@app.command("list")
def list_(
    project: Annotated[str | None, typer.Option("--project", help="Only of this project.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """List webhooks, of everybody or of one project, and how they fare."""
    found = _run(config, data, log_url, lambda webhooks: webhooks.all_of(project))
    if as_json:
        for one in found:
            typer.echo(orjson.dumps(shown(one)).decode())
        return
    table = Table("project", "name", "url", "state", "failing since", "last error")
    for one in found:
        row = shown(one)
        cells = (row["project"], row["name"], row["url"], row["state"])
        told = (row["failing_since"], row["disabled_because"] or row["last_error"])
        # As Text, because what callers wrote may look like markup.
        table.add_row(*[Text(cell or "", overflow="fold") for cell in (*cells, *told)])
    Console().print(table)


@app.command()
def show(
    name: NameArgument,
    project: ProjectOption = "",
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Print one webhook: where it leads, and how it fares."""

    async def look(webhooks: Webhooks) -> dict[str, object]:
        return await webhooks.described(await webhooks.get(project, name))

    _print(_run(config, data, log_url, look))


@app.command()
def create(
    name: NameArgument,
    url: Annotated[str, typer.Argument(help="Where messages are sent: https://HOST/PATH.")],
    project: ProjectOption = "",
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Only this event type; may be repeated.")
    ] = None,
    start: Annotated[
        str, typer.Option(help="Where a new one begins: now, beginning, or after a position.")
    ] = "now",
    disabled: Annotated[
        bool, typer.Option("--disabled", help="Deliver nothing until it is enabled.")
    ] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Make a webhook and print it with its secret, for the only time; or change one."""
    wanted = Wanted(url, tuple(types or ()), not disabled, start)
    endpoint, secret = _run(
        config, data, log_url, lambda webhooks: webhooks.put(project, name, wanted)
    )
    _print(shown(endpoint) if secret is None else {**shown(endpoint), "secret": secret})


@app.command()
def delete(
    name: NameArgument,
    project: ProjectOption = "",
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Delete a webhook; what is not delivered yet never will be."""
    _run(config, data, log_url, lambda webhooks: webhooks.delete(project, name))
    typer.echo(f"deleted {name}")


@app.command("test")
def send_test(
    name: NameArgument,
    project: ProjectOption = "",
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Send a test message from this machine; exits with 1 when it is not taken."""
    tried = _run(config, data, log_url, lambda webhooks: webhooks.test(project, name))
    if not tried.result.delivered:
        typer.echo(f"not delivered: {tried.result.error}", err=True)
        raise typer.Exit(1)
    typer.echo(f"delivered in {tried.seconds:.3f} s (answered {tried.result.status})")


@app.command()
def parked(
    name: NameArgument,
    project: ProjectOption = "",
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """List the messages that failed too often, one a line."""

    async def read(webhooks: Webhooks) -> list[str]:
        lines: list[str] = []
        after = 0
        while found := await webhooks.parked(project, name, after, PARKED_AT_ONCE):
            after = await webhooks.position(found[-1]["position"], "position")
            lines += [
                f"{one['position']}  {one['image']}  {one['attempts']} attempts  {one['error']}"
                for one in found
            ]
        return lines

    for line in _run(config, data, log_url, read):
        typer.echo(line)


@app.command()
def redeliver(
    name: NameArgument,
    position: Annotated[
        str | None, typer.Argument(help="Position of a parked message; without it all of them.")
    ] = None,
    project: ProjectOption = "",
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Send parked messages again; a serving process does so within seconds."""

    async def again(webhooks: Webhooks) -> int:
        number = None if position is None else await webhooks.position(position, "POSITION")
        return await webhooks.redeliver(project, name, number)

    typer.echo(f"{_run(config, data, log_url, again)} messages are sent again")


@app.command()
def rotate(
    name: NameArgument,
    project: ProjectOption = "",
    overlap_seconds: Annotated[
        float, typer.Option(help="How long the former secret goes on signing as well.")
    ] = 86400.0,
    config: ConfigOption = None,
    data: DataOption = None,
    log_url: LogUrlOption = None,
) -> None:
    """Give a webhook a new secret and print it, for the only time."""
    typer.echo(
        _run(
            config, data, log_url, lambda webhooks: webhooks.rotate(project, name, overlap_seconds)
        )
    )


def _print(document: dict[str, object]) -> None:
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def _run(
    config: Path | None,
    data: str | None,
    log_url: str | None,
    work: Callable[[Webhooks], Awaitable[Result]],
) -> Result:
    """What `work` returns; a refusal ends the command with its explanation and 1."""

    async def go() -> Result:
        async with _opened(config, data, log_url) as webhooks:
            return await work(webhooks)

    try:
        return asyncio.run(go())
    except CalotypeError as error:
        typer.echo(f"webhooks: {error.explanation}", err=True)
        raise typer.Exit(1) from None


@asynccontextmanager
async def _opened(
    config: Path | None, data: str | None, log_url: str | None
) -> AsyncIterator[Webhooks]:
    settings = load_settings(config, data=data, log__url=log_url)
    recorder = composition.ready_recorder(settings)
    try:
        yield webhook_wiring.webhooks_of(settings, recorder, Consumers(recorder, Feed(recorder)))
    finally:
        await recorder.close()
