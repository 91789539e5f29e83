"""One upload stays short: few files, a flat stack, nobody who only forwards."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("commands", "projections", "stores", "http", "ops")
MOST_FILES, MOST_CALLS, DEEPEST_STACK = 26, 355, 7
"""Over all threads, parts of a function such as comprehensions being no calls of their own. Of
Glance these are 24, 970 and 18, without its database."""
LEAST_CALLS = 150
PASSED = {
    "http/middleware.py", "http/v2/data.py", "commands/images/data.py", "commands/images/image.py",
    "stores/images/pipe.py", "stores/images/file.py", "stores/log/log.py",
    "stores/log/recorder.py", "stores/log/sqlite/recorder.py", "projections/images/rows.py",
}  # fmt: skip
"""An upload that does not run through these was not seen."""
THREADS = {"MainThread", "image-hash", "image-write", "log-writer"}


def _traced(folder: Path, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("traced_upload.py")), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    traced: dict[str, Any] = json.loads(done.stdout)
    return traced


def _check_budget(traced: dict[str, Any]) -> None:
    calls = traced["calls"]
    listed = "\n".join(f"{name}: {count}" for name, count in sorted(calls.items()))
    files = {name.partition(":")[0] for name in calls}
    assert files >= PASSED, f"not seen: {sorted(PASSED - files)}"
    assert {name.partition("_")[0] for name in traced["threads"]} == THREADS
    assert calls["commands/images/data.py:upload_data"] == 1
    assert LEAST_CALLS <= sum(calls.values()) <= MOST_CALLS, listed
    assert len(files) <= MOST_FILES, listed
    assert len(traced["deepest"]) <= DEEPEST_STACK, "\n".join(traced["deepest"])


def test_an_upload_runs_through_few_files_and_seven_frames(tmp_path: Path) -> None:
    _check_budget(_traced(tmp_path))


def test_an_upload_through_an_installed_copy_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    installed = tmp_path / "site-packages"
    for room in ROOMS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / room, installed / "calotype" / room, ignore=ignored)
    traced = _traced(tmp_path / "data", PYTHONPATH=str(installed))
    with pytest.raises(AssertionError, match="not seen"):
        _check_budget(traced)


def _only_forwards(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the method's whole body hands its own arguments to the same name elsewhere."""
    body = [part for part in function.body if not _is_docstring(part)]
    if len(body) != 1 or not isinstance(body[0], (ast.Return, ast.Expr)):
        return False
    call = body[0].value
    call = call.value if isinstance(call, ast.Await) else call
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == function.name
    )


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def test_no_class_only_forwards() -> None:
    forwarding = []
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.ClassDef):
                    continue
                methods = [
                    part
                    for part in node.body
                    if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef))
                    and not part.name.startswith("__")
                ]
                if len(methods) > 1 and all(_only_forwards(method) for method in methods):
                    forwarding.append(f"{path.relative_to(ROOT)}:{node.name}")
    assert forwarding == []
