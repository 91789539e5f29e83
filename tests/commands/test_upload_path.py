"""One upload stays short: few files, a flat stack, nobody who only forwards."""

import ast
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from calotype.http.routes import application
from calotype.ops import wiring
from calotype.ops.settings import load_settings

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("commands", "projections", "stores", "http", "ops")
MOST_FILES = 7
DEEPEST_STACK = 6


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[TestClient[Any, Any]]:
    settings = load_settings(None, data=str(tmp_path))
    recorder = wiring.recorder_of(settings)
    wiring.migrate(recorder)
    parts = wiring.parts_of(settings, recorder)
    app = application(wiring.api_of(settings, parts))
    async with TestClient(TestServer(app)) as client:
        yield client
    await recorder.close()


def _own_file(frame: Any) -> str | None:
    path = Path(frame.f_code.co_filename)
    if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS:
        return str(path.relative_to(ROOT))
    return None


async def test_an_upload_runs_through_seven_files_and_six_frames(client: Any) -> None:
    body = {"disk_format": "raw", "container_format": "bare"}
    image = await (await client.post("/v2/images", json=body)).json()
    await client.get(f"/v2/images/{image['id']}")
    files: dict[str, int] = {}
    deepest: list[str] = []

    def trace(frame: Any, event: str, argument: Any) -> None:
        nonlocal deepest
        file = _own_file(frame) if event == "call" else None
        if file is None:
            return
        files[file] = files.get(file, 0) + 1
        stack = []
        outer = frame
        while outer is not None:
            if own := _own_file(outer):
                stack.append(f"{own}:{outer.f_code.co_name}")
            outer = outer.f_back
        if len(stack) > len(deepest):
            deepest = stack[::-1]

    sys.setprofile(trace)
    try:
        answer = await client.put(
            f"/v2/images/{image['id']}/file",
            data=b"x" * 3_000_000,
            headers={"Content-Type": "application/octet-stream"},
        )
    finally:
        sys.setprofile(None)
    assert answer.status == 204
    assert len(files) <= MOST_FILES, "\n".join(f"{f}: {n}" for f, n in files.items())
    assert len(deepest) <= DEEPEST_STACK, "\n".join(deepest)


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
