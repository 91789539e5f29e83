"""What a verb prints: tables for people, plain columns for pipes, and JSON, YAML and CSV."""

import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, TypeVar, cast

import orjson
import typer
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

Document = dict[str, Any]
Item = TypeVar("Item")

WIDEST = 1_000_000
"""Characters of a line off a terminal, where nothing is folded."""


def _values(item: Any) -> list[object]:
    return list(item.values())


class Format(StrEnum):
    """What `--output` takes."""

    TABLE = "table"
    PLAIN = "plain"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


class Output:
    """Prints on standard output in one format; without one a table on a terminal, else columns."""

    def __init__(self, chosen: Format | None) -> None:
        self.chosen = chosen
        self._head: list[str] = []

    @property
    def is_for_programs(self) -> bool:
        """Whether documents are printed whole, and nothing else."""
        return self.chosen in (Format.JSON, Format.YAML, Format.CSV)

    @property
    def is_table(self) -> bool:
        """Whether rows are shown as a table, where long texts take much room."""
        return self.chosen is Format.TABLE or (self.chosen is None and sys.stdout.isatty())

    def rows(
        self,
        titles: Sequence[str],
        items: Iterable[Item],
        cells: Callable[[Item], Sequence[object]] = _values,
        document: Callable[[Item], Document] | None = None,
        *,
        as_they_come: Sequence[int] = (),
    ) -> None:
        """One row for each item: its cells, or the document that JSON and YAML show of it.

        Without `document` the items are documents themselves, and without `cells` these are their
        values.
        With `as_they_come`, the least widths of the columns, each line is printed at once, also on
        a terminal.
        """
        if self.is_for_programs:
            for item in items:
                row = dict(zip(titles, cells(item), strict=True))
                self._whole(document(item) if document else cast(Document, item), row)
        elif as_they_come and self.chosen is not Format.TABLE:
            widths = list(as_they_come)
            for item in items:
                line = [_in_a_line(cell) for cell in cells(item)]
                widths = [max(wide, len(cell)) for wide, cell in zip(widths, line, strict=True)]
                _columns([line], widths)
        elif self.is_table:
            _table(titles, map(cells, items))
        else:
            lines = [[_in_a_line(cell) for cell in cells(item)] for item in items]
            _columns(lines, [max(map(len, column)) for column in zip(*lines, strict=True)])

    def document(self, document: Document) -> None:
        """One object: as indented JSON, unless another format is chosen."""
        if self.chosen in (None, Format.JSON):
            typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
        elif self.chosen is Format.YAML:
            self._whole(document, document)
        else:
            pairs = [{"field": name, "value": value} for name, value in document.items()]
            self.rows(("field", "value"), pairs)

    def say(self, text: str, **facts: object) -> None:
        """What was done, in words; for programs the same as facts."""
        if not self.is_for_programs:
            typer.echo("\n".join(map(printable, text.split("\n"))))
            return
        self._whole(facts, facts)

    def summary(self, text: str, facts: Document) -> None:
        """What rows come to, after them; not in CSV, which has columns for rows alone."""
        if self.chosen is Format.CSV:
            typer.echo(text, err=True)
        else:
            self.say(text, summary=facts)

    def _whole(self, document: Document, row: Document) -> None:
        if self.chosen is Format.JSON:
            typer.echo(orjson.dumps(document))
        elif self.chosen is Format.YAML:
            plain = orjson.loads(orjson.dumps(document))
            text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, explicit_start=True)
            typer.echo(text, nl=False)
        else:
            self._csv(row)
        sys.stdout.flush()

    def _csv(self, row: Document) -> None:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        if self._head != list(row):
            self._head = list(row)
            writer.writerow(self._head)
        writer.writerow([_text(cell) for cell in row.values()])


def printable(text: str) -> str:
    """The text without what could steer a terminal: names come from outside."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _text(cell: object) -> str:
    if cell is None:
        return ""
    return cell if isinstance(cell, str) else orjson.dumps(cell).decode()


def _in_a_line(cell: object) -> str:
    return printable("; ".join(_text(cell).split("\n"))) or "-"


def _columns(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        typer.echo("  ".join(padded).rstrip())
    sys.stdout.flush()


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = Table(*titles)
    for row in rows:
        lines = ("\n".join(map(printable, _text(cell).split("\n"))) for cell in row)
        # As Text, because what callers wrote may look like markup.
        table.add_row(*[Text(line, overflow="fold") for line in lines])
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDEST)
    console.print(table)
