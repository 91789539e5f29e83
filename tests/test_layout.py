"""The rooms stay as they are: names, doors, packages, and the standard library's http."""

import ast
import subprocess
import sys
import tomllib
from collections import Counter
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


MOST_CODE_LINES, MOST_FUNCTION_LINES, MOST_MODULES = 400, 70, 15
"""Of a module (without docstrings, comments, imports and blanks), a function, a folder."""

INNER_DOORS: dict[str, set[str]] = {
    "engine": set(),
    "images": set(),
    "past": {"engine", "images"},
    "feed": {"engine", "past"},
    "consumers": {"engine", "feed"},
    "webhooks": {"engine", "feed", "consumers"},
    "sinks": {"engine", "feed", "past"},
    "seal": {"engine"},
    "rebuild": {"engine", "images", "past", "feed", "seal"},
}
"""Which folders of `projections` each of them may import."""


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


def test_every_room_says_that_it_is_typed() -> None:
    """A namespace package has no place for one marker, so each package in it has its own."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    for room in ROOMS:
        assert (ROOT / room / "py.typed").is_file()
        assert "py.typed" in data[f"calotype.{room}"]


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


def _modules() -> dict[str, Path]:
    """Every module of the product by its dotted name below `calotype`."""
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def _arrows() -> dict[str, set[str]]:
    """Which modules of ours each module imports."""
    modules = _modules()
    arrows: dict[str, set[str]] = {}
    for name, path in modules.items():
        named = {".".join(parts[1:]) for parts in _imports(path) if parts[0] == "calotype"}
        imported = {one if one in modules else one.rpartition(".")[0] for one in named}
        arrows[name] = imported & modules.keys() - {name}
    return arrows


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = _arrows()
    while free := {name for name, imported in left.items() if not imported & left.keys()}:
        left = {name: imported for name, imported in left.items() if name not in free}
    # Modules that only import the circle, and are not imported by it, are no part of it.
    while loose := left.keys() - set().union(*left.values()):
        left = {name: imported for name, imported in left.items() if name not in loose}
    assert sorted(left) == []


def test_the_folders_of_projections_import_each_other_as_the_inner_doors_allow() -> None:
    found = set()
    for module, imported in _arrows().items():
        room, folder, *rest = module.split(".")
        for one in imported:
            parts = one.split(".")
            if parts[:2] == ["projections", "rebuild"] and room != "projections":
                assert room == "ops", f"{module} imports {one}"
            if room != "projections" or parts[0] != "projections" or parts[1] == folder:
                continue
            if parts[1] not in INNER_DOORS[folder]:
                found.add((".".join([folder, *rest]), parts[1]))
    assert found == set()


def _code_lines(text: str) -> int:
    """Lines with code: no blanks, comments, docstrings and imports."""
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, (ast.Import, ast.ImportFrom)):
            skipped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(
        number not in skipped and bool(line.strip()) and not line.lstrip().startswith("#")
        for number, line in lines
    )


def test_no_module_is_long() -> None:
    counted = {name: _code_lines(path.read_text()) for name, path in _modules().items()}
    assert {name: n for name, n in counted.items() if n > MOST_CODE_LINES} == {}
    assert sum(counted.values()) > 10_000, "nothing was counted"


def test_no_function_is_long() -> None:
    found = {}
    for name, path in _modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    found[f"{name}.{node.name}"] = lines
    assert found == {}


def test_no_folder_has_many_modules() -> None:
    counted = Counter(str(path.parent.relative_to(ROOT)) for path in _modules().values())
    assert {folder: n for folder, n in counted.items() if n > MOST_MODULES} == {}


@pytest.mark.parametrize("client", ["minio", "aio_pika", "nats"])
def test_serving_loads_no_client_that_the_settings_do_not_ask_for(client: str) -> None:
    code = f"import calotype.ops.serving.process, sys; assert {client!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
