"""Options that many verbs of the command line share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file (TOML).", envvar="CALOTYPE_CONFIG")
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="Directory of the embedded log and file store.")
]
LogUrlOption = Annotated[
    str | None,
    typer.Option("--log-url", help="Event log: sqlite:///path or postgresql://user@host/database."),
]
