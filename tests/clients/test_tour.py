"""The README's first upload and tour of the log run as they stand there, and print what does."""

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.backends.processes import free_port
from tests.backends.rabbitmq import RabbitMQ

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.slow

_VARYING = (
    (re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile("p[0-9a-f]{12}-"), "POSITION-"),
    (re.compile(r"calotype/[0-9a-f]{12}"), "LOG"),
    # The event that a rebuild ends at depends on how fast the machine is.
    (re.compile("(?<=switched at position POSITION-)[0-9a-f]+"), "N"),
)


def steps(section: str) -> Iterator[tuple[str, str]]:
    """The commands of the section's console blocks, each with what it prints."""
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        command, printed = "", ""
        for line in block.splitlines():
            if line.startswith("$ "):
                if command:
                    yield command, printed
                command, printed = line[2:], ""
            elif line.startswith("> "):
                command += "\n" + line[2:]
            else:
                printed += line + "\n"
        yield command, printed


def without_varying(text: str) -> str:
    for pattern, name in _VARYING:
        text = pattern.sub(name, text)
    return text


class Shell:
    """A bash that is given one command after the other."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )

    def run(self, command: str) -> str:
        """What the command prints, on both of its outputs."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        mark = f"end-{uuid.uuid4().hex}"
        # Away from our own stream of commands, which a program may read from.
        self.process.stdin.write(f"{{ {command}\n}} </dev/null\necho {mark}\n")
        self.process.stdin.flush()
        printed = ""
        for line in self.process.stdout:
            if line.endswith(mark + "\n"):
                return printed + line.removesuffix(mark + "\n")
            printed += line
        raise AssertionError(f"the shell ended at {command!r}, after printing {printed!r}")

    def end(self) -> None:
        """Ends it with all that it has started."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.terminate()
        self.process.wait()
        with subprocess.Popen(["pkill", "-KILL", "-s", str(self.process.pid)]) as killing:
            killing.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RabbitMQ]:
    """A RabbitMQ that nobody else uses, for the tour stops it."""
    with RabbitMQ(tmp_path / "rabbitmq") as broker:
        yield broker


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], Shell]]:
    """Opens a shell in an empty folder, with these programs' folders on its path."""
    folder = tmp_path / "empty"
    folder.mkdir()
    shells: list[Shell] = []

    def open_shell(path: str) -> Shell:
        environment = {"PATH": path, "HOME": str(tmp_path), "LANG": "C.UTF-8"}
        shells.append(Shell(folder, environment))
        return shells[-1]

    yield open_shell
    for shell in shells:
        shell.end()


def section(title: str) -> str:
    return (ROOT / "README.md").read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]


def assert_prints(shell: Shell, title: str, replaced: dict[str, str]) -> None:
    """Runs a section's commands, with these texts in the place of others, and compares."""
    seen, expected = "", ""
    for command, printed in steps(section(title)):
        real = command
        for text, other in replaced.items():
            real = real.replace(text, other)
        seen += f"$ {command}\n{shell.run(real)}"
        expected += f"$ {command}\n{printed}"
    assert without_varying(seen).splitlines() == without_varying(expected).splitlines()


@pytest.mark.timeout(400)
def test_the_tour_of_the_readme_prints_what_stands_there(
    tmp_path: Path, opened: Callable[[str], Shell], broker: RabbitMQ
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    control = programs / "rabbitmqctl"
    settings = " ".join(f"'{name}={value}'" for name, value in broker.variables.items())
    control.write_text(f'#!/bin/sh\nexec env {settings} /usr/lib/rabbitmq/bin/rabbitmqctl "$@"\n')
    control.chmod(0o755)
    # The broker is one that nobody else uses; it and the port are all that is not as it stands.
    shell = opened(f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    replaced = {
        "amqp://guest:guest@127.0.0.1:5672/": broker.url,
        "127.0.0.1:9292": f"127.0.0.1:{free_port()}",
    }
    assert_prints(shell, "A tour of the log", replaced)


def _serving(shell: Shell) -> tuple[str, str]:
    """Serves as `make serve` does; the address, and all that it says."""
    address = f"127.0.0.1:{free_port()}"
    shell.run(f".venv/bin/calotype serve --listen {address} >said 2>service.log &")
    shell.run(f"until curl -sfo healthy http://{address}/healthcheck; do sleep 0.2; done")
    return address, shell.run("cat said")


def test_serving_ends_with_an_upload_that_needs_nothing_but_curl(
    tmp_path: Path, opened: Callable[[str], Shell]
) -> None:
    shell = opened("/usr/bin:/bin")
    shell.run(f"ln -s {Path(sys.executable).parent.parent} .venv")
    _, said = _serving(shell)
    lines = said.partition("curl):\n")[2]
    assert "curl -sT disk.raw" in lines
    shown = json.loads(shell.run(lines.strip()))
    assert (shown["name"], shown["status"], shown["size"]) == ("my-first-image", "active", 1000000)


@pytest.mark.timeout(400)
def test_the_first_upload_of_the_readme_prints_what_stands_there(
    tmp_path: Path, opened: Callable[[str], Shell]
) -> None:
    # A checkout in which `make serve` has run: its virtual environment, and nothing else.
    ours = Path(sys.executable).parent.parent
    shell = opened("/usr/bin:/bin")
    shell.run(f"ln -s {ours} .venv")
    address, _ = _serving(shell)
    replaced = {
        # What pip would fetch is installed with the tests.
        "python3 -m venv client && client/bin/pip install --quiet python-openstackclient": (
            f"ln -s {ours} client"
        ),
        "127.0.0.1:9292": address,
    }
    assert_prints(shell, "The first upload", replaced)
