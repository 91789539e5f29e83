"""The README's tour of the log runs as it stands there, and prints what stands there."""

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from calotype.ops.backends.rabbitmq import RabbitMQ, is_installed
from calotype.ops.bench.processes import free_port

ROOT = Path(__file__).parent.parent.parent
SECTION = "## A tour of the log\n"
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
    if not is_installed():
        pytest.skip("no RabbitMQ: apt install rabbitmq-server")
    folder = tmp_path / "rabbitmq"
    folder.mkdir()
    with RabbitMQ(folder) as broker:
        yield broker


@pytest.fixture
def shell(tmp_path: Path, broker: RabbitMQ) -> Iterator[Shell]:
    """A shell in an empty folder that finds `calotype`, and `rabbitmqctl` for our broker."""
    programs = tmp_path / "bin"
    programs.mkdir()
    control = programs / "rabbitmqctl"
    settings = " ".join(f"'{name}={value}'" for name, value in broker.environment.items())
    control.write_text(f'#!/bin/sh\nexec env {settings} /usr/lib/rabbitmq/bin/rabbitmqctl "$@"\n')
    control.chmod(0o755)
    folder = tmp_path / "tour"
    folder.mkdir()
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = Shell(folder, {"PATH": path, "HOME": str(tmp_path), "LANG": "C.UTF-8"})
    yield shell
    shell.end()


@pytest.mark.timeout(400)
def test_the_tour_of_the_readme_prints_what_stands_there(shell: Shell, broker: RabbitMQ) -> None:
    section = (ROOT / "README.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    port = str(free_port())
    seen, expected = "", ""
    for command, printed in steps(section):
        real = command.replace("amqp://guest:guest@127.0.0.1:5672/", broker.url)
        seen += f"$ {command}\n{shell.run(real.replace('127.0.0.1:9292', f'127.0.0.1:{port}'))}"
        expected += f"$ {command}\n{printed}"
    assert without_varying(seen).splitlines() == without_varying(expected).splitlines()
