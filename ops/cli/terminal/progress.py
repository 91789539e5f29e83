"""How far a long command is: bars on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_SECONDS = 5.0


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; gives the function that moves it on by so much."""
    with _bars(Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total)
        yield lambda count: bars.advance(task, count)


class ProgressReporter:
    """Reports on standard error, phase by phase, what is done of what, with the subject in front.

    Bars on a terminal; elsewhere a line now and then.
    """

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._console = Console(stderr=True)
        self._bars = _bars(self._console)
        self._task: TaskID | None = None
        self._name = ""
        self._done = self._total = 0
        self._tell_at = 0.0
        self.seconds: dict[str, float] = {}
        """How long each phase took, once the next has begun or all is over."""
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._end()
        self._bars.stop()

    def phase(self, name: str, total: int) -> None:
        """Begins with something of which there is so much to do; 0: nobody knows how much."""
        self._end()
        self._name, self._done, self._total = name, 0, total
        self._started = time.monotonic()
        self._tell_at = self._started + LINE_SECONDS
        self._task = self._bars.add_task(f"{self._subject}: {name}", total=total or None)
        self._say(f"{total} to do" if total else "begun")

    def advance(self, count: int) -> None:
        """So much of it is done."""
        self._done += count
        if self._task is not None:
            self._bars.advance(self._task, count)
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + LINE_SECONDS
            share = f" ({100 * self._done // self._total} %)" if self._total else ""
            self._say(f"{self._done} done{share}")

    def _end(self) -> None:
        if self._name:
            seconds = time.monotonic() - self._started
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + seconds
            if self._task is not None:
                self._bars.update(self._task, total=self._done or 1, completed=self._done or 1)
            self._say(f"{self._done} done in {seconds:.1f} s")
            self._name = ""

    def _say(self, text: str) -> None:
        if not self._console.is_terminal:
            print(f"{self._subject}: {self._name}: {text}", file=self._console.file, flush=True)
