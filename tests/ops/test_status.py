"""`calotype status` shows every part, and its exit code is what a monitor needs."""

import json
from pathlib import Path
from typing import Any

import pytest
import requests
from typer.testing import CliRunner

from calotype.ops.cli.main import app

pytestmark = pytest.mark.slow


def parts(service: Any, *more: str) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
    done = service.run("status", "--json", *more)
    rows = map(json.loads, done.stdout.splitlines())
    return done.returncode, {(row["part"], row["name"]): row for row in rows}


def test_a_service_that_keeps_up_is_well_and_one_that_stopped_is_behind(
    service: Any, until: Any
) -> None:
    service.start()
    create = lambda: requests.post(f"{service.url}/v2/images", json={}, timeout=30)  # noqa: E731
    create()
    assert service.run("consumers", "create", "cmdb").returncode == 0
    until(lambda: parts(service, "--most-behind", "0")[1]["follower", "seal"]["behind"] == 0)
    code, told = parts(service)
    assert code == 0, told
    for key in (
        ("log", ""), ("migrations", ""), ("follower", "versions"), ("follower", "audience"),
        ("follower", "seal"), ("consumer", "cmdb"), ("store", "default"), ("images", "queued"),
    ):  # fmt: skip
        assert told[key]["state"] == "ok"
    assert told["consumer", "cmdb"]["behind"] == 1
    assert parts(service, "--most-behind", "0")[0] == 1
    assert service.terminate() == 0
    service.environment["CALOTYPE_FOLLOWERS__VERSIONS"] = "false"
    service.start()
    create()
    assert service.terminate() == 0
    assert parts(service)[1]["follower", "versions"]["detail"] == "switched off"
    del service.environment["CALOTYPE_FOLLOWERS__VERSIONS"]
    code, told = parts(service)
    assert (code, told["follower", "versions"]["state"]) == (1, "behind")
    assert told["follower", "versions"]["behind"] == 1


def test_webhooks_that_fail_and_parked_messages_are_trouble(
    make_service: Any, receiver: Any, until: Any
) -> None:
    service = make_service(
        CALOTYPE_WEBHOOKS__PLAIN_HTTP="true",
        CALOTYPE_WEBHOOKS__ALLOW='["127.0.0.0/8"]',
        CALOTYPE_WEBHOOKS__ATTEMPTS="1",
        CALOTYPE_WEBHOOKS__FIRST_RETRY_SECONDS="0.2",
    )
    service.start()
    assert service.run("webhooks", "create", "ci", receiver.url).returncode == 0
    code, told = parts(service)
    assert (code, told["webhook", "ci"]["state"]) == (0, "ok")
    receiver.answer = lambda received: 500
    requests.post(f"{service.url}/v2/images", json={}, timeout=30)
    until(lambda: parts(service)[1]["webhook", "ci"]["parked"] == 1)
    code, told = parts(service)
    assert (code, told["webhook", "ci"]["state"]) == (1, "trouble")


def test_a_database_or_a_store_that_cannot_be_used_is_trouble(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "log.sqlite").touch()
    done = CliRunner().invoke(app, ["status", "--data", str(data)])
    assert done.exit_code == 1
    assert "run `calotype migrate`" in done.stdout
    assert CliRunner().invoke(app, ["migrate", "--data", str(data)]).exit_code == 0
    assert CliRunner().invoke(app, ["status", "--data", str(data)]).exit_code == 0
    s3 = {
        "CALOTYPE_STORE__KIND": "s3",
        "CALOTYPE_STORE__ENDPOINT": "http://127.0.0.1:1",
        "CALOTYPE_STORE__BUCKET": "images",
        "CALOTYPE_STORE__ACCESS_KEY": "k",
        "CALOTYPE_STORE__SECRET_KEY": "s",
    }
    done = CliRunner(env=s3).invoke(app, ["status", "--data", str(data)])
    assert done.exit_code == 1
    assert "trouble  store       default" in done.stdout


def test_sinks_are_shown_with_what_they_wait_for(make_service: Any, until: Any) -> None:
    service = make_service(
        CALOTYPE_SINKS__BUS__KIND="nats", CALOTYPE_SINKS__BUS__URLS='["nats://127.0.0.1:1"]'
    )
    service.start()
    requests.post(f"{service.url}/v2/images", json={}, timeout=30)
    until(lambda: parts(service)[1]["sink", "bus"]["state"] == "trouble")
    assert parts(service)[0] == 1
