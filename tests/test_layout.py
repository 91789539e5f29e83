"""The rooms stay as they are: names, doors, packages, and the standard library's http."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("commands", "projections", "stores", "http", "ops")

DOORS = {
    "stores": {"stores"},
    "commands": {"commands", "stores"},
    "projections": {"projections", "commands", "stores"},
    "http": {"http", "commands", "projections", "stores"},
    "ops": {"ops", "http", "commands", "projections", "stores"},
}

COMMAND_MODULES_FOR_PROJECTIONS = {
    "errors", "images.image", "images.events", "images.snapshots", "images.usage",
    "images.download", "images.places", "policy.actor", "policy.policy", "policy.protections",
    "policy.authorization",
}  # fmt: skip
"""Projections fold events and ask who may see; they never run a command's handler."""


def _packages() -> list[str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]


def test_no_room_has_an_init_file() -> None:
    found = [path for room in (*ROOMS, "tests") for path in (ROOT / room).rglob("__init__.py")]
    assert found == []


@pytest.mark.parametrize("module", ["http.client", "http.server", "urllib.request", "aiohttp"])
def test_the_standard_library_wins_at_the_root(module: str) -> None:
    code = f"import {module}, http; assert 'lib/python' in http.__file__, http.__file__"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_directory_is_a_listed_package() -> None:
    on_disk = {
        "calotype." + ".".join(path.parent.relative_to(ROOT).parts)
        for room in ROOMS
        for pattern in ("*.py", "*.sql")
        for path in (ROOT / room).rglob(pattern)
        if "__pycache__" not in path.parts
    }
    rooms_within = {name.rpartition(".")[0] for name in on_disk} - {"calotype"}
    assert on_disk | rooms_within == set(_packages())


def test_every_room_has_a_link_for_type_checkers() -> None:
    links = {path.name: path.resolve() for path in (ROOT / ".typing" / "calotype").iterdir()}
    assert links == {room: ROOT / room for room in ROOMS}


def _imports(path: Path) -> set[tuple[str, ...]]:
    names: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {(*node.module.split("."), alias.name) for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_who_imports_whom_is_as_the_doors_allow(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        for parts in _imports(path):
            if parts[0] != "calotype":
                assert parts[0] not in ROOMS or parts[0] == "http", f"{path}: {parts}"
                continue
            assert parts[1] in DOORS[room], f"{path.relative_to(ROOT)} imports {'.'.join(parts)}"
            if room == "projections":
                assert parts[1:3] != ("stores", "images"), f"{path}: {parts}"
                if parts[1] == "commands":
                    module = ".".join(parts[2 : 3 if parts[2] == "errors" else 4])
                    assert module in COMMAND_MODULES_FOR_PROJECTIONS, f"{path}: {parts}"


@pytest.mark.parametrize("client", ["minio", "aio_pika", "nats"])
def test_serving_loads_no_client_that_the_settings_do_not_ask_for(client: str) -> None:
    code = f"import calotype.ops.serving.process, sys; assert {client!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
