"""What all verbs share: their options, how they open the log, and how they refuse."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from calotype.commands.errors import CalotypeError, Invalid
from calotype.ops.cli.terminal.output import Format, Output
from calotype.ops.settings.settings import Settings, load_settings
from calotype.ops.wiring import composition
from calotype.stores.log.recorder import GroupCommitRecorder

Result = TypeVar("Result")
Verb = TypeVar("Verb", bound=Callable[..., None])

_OPTIONS: dict[str, Any] = {
    "config": Annotated[
        Path | None,
        typer.Option("--config", help="Settings file (TOML).", envvar="CALOTYPE_CONFIG"),
    ],
    "data": Annotated[
        str | None,
        typer.Option("--data", help="Directory of the embedded log, the file store and the key."),
    ],
    "log_url": Annotated[
        str | None,
        typer.Option(
            "--log-url", help="Event log: sqlite:///path or postgresql://user@host/database."
        ),
    ],
    "output": Annotated[
        Format | None,
        typer.Option(
            "--output",
            "-o",
            help="How to print. Without it a table on a terminal, and plain columns elsewhere.",
            show_choices=True,
        ),
    ],
    "as_json": Annotated[bool, typer.Option("--json", help="The same as --output json.")],
}
_PRINTING = ("output", "as_json")

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would be done; change nothing.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All that are parked.")]
PositionsArgument = Annotated[
    list[str] | None, typer.Argument(help="Positions of what is parked.", show_default=False)
]
TypesOption = Annotated[
    list[str] | None, typer.Option("--type", help="Only this event type; may be repeated.")
]


@dataclass(frozen=True)
class Invocation:
    """One run of a verb: the settings that its options name, and where its output goes."""

    config: Path | None
    data: str | None
    log_url: str | None
    out: Output

    def load(self, **more: Any) -> Settings:
        """The settings, with more options of the verb's own. Raises SettingsError."""
        return load_settings(self.config, data=self.data, log__url=self.log_url, **more)

    @cached_property
    def settings(self) -> Settings:
        """The settings in force. Raises SettingsError."""
        return self.load()

    @contextmanager
    def log(self) -> Iterator[GroupCommitRecorder]:
        """The recorder of the log, which is up to date. Raises SettingsError for another."""
        recorder = composition.ready_recorder(self.settings)
        try:
            yield recorder
        finally:
            recorder.close_now()

    def ask(self, work: Callable[[GroupCommitRecorder], Awaitable[Result]]) -> Result:
        """What `work` makes of the log, on an event loop of its own."""

        async def go(recorder: GroupCommitRecorder) -> Result:
            try:
                return await work(recorder)
            finally:
                await recorder.close()

        with self.log() as recorder:
            return asyncio.run(go(recorder))


def noun(text: str) -> typer.Typer:
    """A group of verbs. Help is printed as it is written: no markup, no brackets lost."""
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def verb(
    app: typer.Typer,
    name: str | None = None,
    *,
    prints: bool = True,
    hidden: bool = False,
    formerly: Mapping[str, str] | None = None,
) -> Callable[[Verb], Verb]:
    """Makes a function a verb of `app`: its first parameter is an Invocation, the others options.

    All verbs take the options that name the settings, and those that print the format. What a
    command refuses ends the verb here: with 2 and the usage where the request makes no sense, else
    with 1. `formerly` gives older spellings of options, which help does not show.
    """
    older = formerly or {}

    def register(function: Verb) -> Verb:
        own = list(inspect.signature(function).parameters.values())[1:]
        shared = [
            inspect.Parameter(
                key,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if key == "as_json" else None,
                annotation=annotation,
            )
            for key, annotation in _OPTIONS.items()
            if prints or key not in _PRINTING
        ]
        shared += [
            inspect.Parameter(
                f"older_{key}",
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[str | None, typer.Option(spelling, hidden=True)],
            )
            for key, spelling in older.items()
        ]

        def run(**given: Any) -> None:
            config, data, log_url = (given.pop(key) for key in ("config", "data", "log_url"))
            output, as_json = given.pop("output", None), given.pop("as_json", False)
            for key in older:
                former = given.pop(f"older_{key}")
                given[key] = former if given[key] is None else given[key]
            out = Output(Format.JSON if as_json else output)
            try:
                function(Invocation(config, data, log_url, out), **given)
            except Invalid as error:
                raise misused(error.field, error.explanation) from None
            except CalotypeError as error:
                fail(error.explanation)

        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__doc__, run.__name__ = function.__doc__, function.__name__
        run.__annotations__ = {each.name: each.annotation for each in (*own, *shared)}
        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        app.command(name, hidden=hidden)(run)
        return function

    return register


def fail(text: str) -> NoReturn:
    """Ends the verb with 1, and one sentence on standard error."""
    typer.echo(f"calotype: {text}", err=True)
    raise typer.Exit(1) from None


def misused(field: str | None, text: str) -> typer.BadParameter:
    """A usage error: what is wrong with an option or an argument, and how it is right."""
    return typer.BadParameter(text, param_hint=field)


def check_choice(positions: list[str] | None, everything: bool, *, needed: bool = False) -> None:
    """Raises BadParameter for positions and --all at once, or where one is needed for neither."""
    if positions and everything or needed and not (positions or everything):
        raise misused("POSITIONS", "name positions of what is parked, or --all of it")
