"""What people and services identify with stays between them and who judges it."""

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import bcrypt
import pytest

pytestmark = pytest.mark.slow


def _ask(url: str, method: str = "GET", body: object = None, **headers: str) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, sent, method=method)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, f"{answer.headers}{answer.read().decode()}"
    except urllib.error.HTTPError as refused:
        return refused.code, f"{refused.headers}{refused.read().decode()}"


def _check(service: Any) -> subprocess.CompletedProcess[str]:
    """`calotype config check` with the same settings."""
    command = [sys.executable, "-m", "calotype.ops", "config", "check"]
    environ = {**os.environ, **service.environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)


def test_no_token_and_no_password_is_written_anywhere(make_service: Any, keystone: Any) -> None:
    """With a line for every request, through success, refusal and trouble."""
    settings = {f"CALOTYPE_KEYSTONE__{key.upper()}": v for key, v in keystone.settings.items()}
    service = make_service(
        CALOTYPE_IDENTITY__KIND="keystone",
        CALOTYPE_KEYSTONE__RETRIES="0",
        CALOTYPE_HTTP__ACCESS_LOG="true",
        **settings,
    )
    service.start()
    token, late, wrong = keystone.token("member"), keystone.token("member"), "wrong-token-MARKER"
    helper = keystone.token("nova", "service")
    images, events = f"{service.url}/v2/images", f"{service.url}/log/v1/events"
    answers = [
        _ask(images, "POST", {"name": "known"}, X_Auth_Token=token, X_Service_Token=helper),
        _ask(images, X_Auth_Token=wrong),
        _ask(images, X_Auth_Token=token, X_Service_Token=wrong),
        _ask(events, X_Auth_Token=wrong),
        _ask(events, X_Auth_Token=token),
        _ask(images, "POST", {"name": []}, X_Auth_Token=token),
    ]
    keystone.server.stop()
    try:
        answers.append(_ask(images, X_Auth_Token=late))
    finally:
        keystone.server.start()
    statuses = [status for status, _ in answers]
    assert statuses == [201, 401, 401, 401, 200, 400, 503]
    checked = _check(service)
    assert "keystone.password = '(set)'" in checked.stdout
    assert service.terminate() == 0
    assert any('"POST /v2/images HTTP/1.1" 201' in line for line in service.lines)
    assert any("keystone cannot be asked" in line for line in service.lines)
    written = [text for _, text in answers] + service.lines + [checked.stdout, checked.stderr]
    files = [path.read_bytes() for path in Path(service.folder).rglob("*") if path.is_file()]
    assert b"image.created" in b"".join(files)
    for secret in (token, late, wrong, helper, keystone.PASSWORDS["calotype"]):
        assert not any(secret in text for text in written)
        assert not any(secret.encode() in content for content in files)


def test_no_password_of_a_file_is_written_anywhere(make_service: Any, tmp_path: Path) -> None:
    """Neither a right one, nor a wrong one, nor one that was typed where the name belongs."""
    right, wrong, misplaced = "right-MARKER", "wrong-MARKER", "misplaced-MARKER"
    hashed = bcrypt.hashpw(right.encode(), bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"alice:{hashed}\n")
    service = make_service(
        CALOTYPE_IDENTITY__KIND="http_basic",
        CALOTYPE_HTTP_BASIC__FILE=str(tmp_path / "htpasswd"),
        CALOTYPE_HTTP__ACCESS_LOG="true",
    )
    service.start()
    pairs = {login: base64.b64encode(login.encode()).decode() for login in (
        f"alice:{right}", f"alice:{wrong}", f"{misplaced}:",
    )}  # fmt: skip
    images = f"{service.url}/v2/images"
    answers = [
        _ask(images, "POST", {"name": "known"}, Authorization=f"Basic {pair}")
        for pair in pairs.values()
    ]
    assert [status for status, _ in answers] == [201, 401, 401]
    checked = _check(service)
    assert "http_basic.file" in checked.stdout
    assert service.terminate() == 0
    assert any('"user": "alice"' in line and "password refused" in line for line in service.lines)
    written = [text for _, text in answers] + service.lines + [checked.stdout, checked.stderr]
    files = [path.read_bytes() for path in Path(service.folder).rglob("*") if path.is_file()]
    for secret in (right, wrong, misplaced, hashed, *pairs.values()):
        assert not any(secret in text for text in written)
        assert not any(secret.encode() in content for content in files)
