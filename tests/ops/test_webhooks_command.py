"""`calotype webhooks` beside a service that runs, and secrets that are found nowhere."""

import json
from typing import Any

import pytest
import requests
from cryptography.fernet import Fernet
from standardwebhooks import Webhook
from typer.testing import CliRunner

from calotype.ops.cli import webhooks

pytestmark = pytest.mark.slow

WEBHOOKS = "/log/v1/webhooks"
ENVIRONMENT = {
    "CALOTYPE_WEBHOOKS__PLAIN_HTTP": "true",
    "CALOTYPE_WEBHOOKS__ALLOW": '["127.0.0.0/8"]',
    "CALOTYPE_WEBHOOKS__ATTEMPTS": "2",
    "CALOTYPE_WEBHOOKS__FIRST_RETRY_SECONDS": "0.2",
}


def test_every_verb_explains_itself() -> None:
    for verb in ("list", "show", "create", "delete", "test", "parked", "redeliver", "rotate"):
        done = CliRunner().invoke(webhooks.app, [verb, "--help"])
        assert done.exit_code == 0
        assert "Usage" in done.stdout


def test_webhooks_are_managed_from_the_shell(make_service: Any, receiver: Any, until: Any) -> None:
    service = make_service(**ENVIRONMENT)
    service.start()
    made = service.run("webhooks", "create", "ci", receiver.url, "--type", "image.created")
    assert made.returncode == 0, made.stderr
    environment = {**ENVIRONMENT, "COLUMNS": "250"}

    def shell(*arguments: str) -> Any:
        return CliRunner(env=environment).invoke(webhooks.app, [*arguments, *service.options])

    secret = json.loads(made.stdout)["secret"]
    of_project = ("--project", "[red]")
    assert shell("create", "ci", receiver.url, *of_project).exit_code == 0
    listed = shell("list", "--json")
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(row["project"], row["name"]) for row in rows] == [(None, "ci"), ("[red]", "ci")]
    assert "[red]" in shell("list").stdout
    assert shell("delete", "ci", *of_project).stdout == "deleted ci\n"
    done = shell("test", "ci")
    assert (done.exit_code, done.stdout[:13]) == (0, "delivered in ")
    Webhook(secret).verify(receiver.got[-1].body, receiver.got[-1].headers)
    receiver.answer = lambda received: 500
    done = shell("test", "ci")
    assert (done.exit_code, done.stderr) == (1, "calotype: not delivered: answered 500\n")
    assert requests.post(f"{service.url}/v2/images", json={}, timeout=30).status_code == 201
    line = until(lambda: shell("parked", "ci").stdout)
    position = line.split()[0]
    assert line.endswith("2 attempts  answered 500\n")
    assert json.loads(shell("show", "ci").stdout)["parked"] == 1
    receiver.answer = lambda received: 204
    rotated = shell("rotate", "ci", "--overlap-seconds", "0").stdout.strip()
    count = len(receiver.got)
    again = shell("redeliver", "ci", position)
    assert again.stdout == "1 messages are sent again\n"
    until(lambda: len(receiver.got) > count)
    Webhook(rotated).verify(receiver.got[-1].body, receiver.got[-1].headers)
    for refused, code in (
        (("show", "other"), 1),
        (("redeliver", "ci", position), 1),
        (("create", "Ci", receiver.url), 2),
        (("create", "x", "http://10.0.0.1/"), 2),
        (("redeliver", "ci", "nonsense"), 2),
        (("redeliver", "ci", position, "--all"), 2),
    ):
        done = shell(*refused)
        assert done.exit_code == code, refused
        assert done.stderr.startswith("calotype: " if code == 1 else "Usage: "), refused
    assert service.terminate() == 0


def test_secrets_are_found_nowhere_and_without_their_key_nothing_is_sent(
    make_service: Any, receiver: Any, until: Any
) -> None:
    first, second = (Fernet.generate_key().decode() for _ in range(2))
    key = "CALOTYPE_WEBHOOKS__ENCRYPTION_KEY"
    service = make_service(**ENVIRONMENT, **{key: first})
    service.start()
    path = f"{service.url}{WEBHOOKS}/ci"
    body = {"url": receiver.url}
    secrets = [requests.put(path, json=body, timeout=30).json()["secret"]]
    secrets.append(requests.post(f"{path}/rotate", timeout=30).json()["secret"])
    create = lambda: requests.post(f"{service.url}/v2/images", json={}, timeout=30)  # noqa: E731
    create()
    until(lambda: len(receiver.got) == 1)
    for secret in secrets:
        Webhook(secret).verify(receiver.got[0].body, receiver.got[0].headers)
    assert service.terminate() == 0

    del service.environment[key]
    service.start()
    create()
    path = f"{service.url}{WEBHOOKS}/ci"
    told = until(lambda: requests.get(path, timeout=30).json()["last_error"])
    assert told == "the secret cannot be read: webhooks.encryption_key is not set"
    assert requests.post(f"{path}/test", timeout=30).status_code == 409
    assert requests.post(f"{path}/rotate", timeout=30).status_code == 409
    assert len(receiver.got) == 1
    assert service.terminate() == 0

    service.environment[key] = f"{second},{first}"
    service.start()
    path = f"{service.url}{WEBHOOKS}/ci"
    assert requests.put(path, json=body, timeout=30).status_code == 200
    until(lambda: len(receiver.got) == 2)
    Webhook(secrets[1]).verify(receiver.got[1].body, receiver.got[1].headers)
    feed = requests.get(f"{service.url}/log/v1/events", timeout=30).text
    shown = service.run("config", "check").stdout
    assert service.terminate() == 0

    files = [file.read_bytes() for file in service.folder.rglob("*") if file.is_file()]
    files += ["".join(service.lines).encode(), feed.encode(), shown.encode()]
    assert any(b"image.created" in content for content in files)
    planted = [secret.removeprefix("whsec_") for secret in secrets] + [first, second]
    for content in files:
        for marker in planted:
            assert marker.encode() not in content


def test_settings_that_cannot_be_used_name_the_key(make_service: Any) -> None:
    for name, value, message in (
        ("ENCRYPTION_KEY", "MARKER", "webhooks.encryption_key: use 32 bytes"),
        ("ALLOW", '["10.0.0.1/8"]', "webhooks.allow: '10.0.0.1/8' is no network"),
        ("CAFILE", "/nonexistent", "webhooks.cafile: cannot be used"),
    ):
        service = make_service(**{f"CALOTYPE_WEBHOOKS__{name}": value})
        done = service.run("serve", "--listen", "127.0.0.1:0")
        assert done.returncode == 2
        assert message in done.stderr
        assert "MARKER" not in done.stderr
