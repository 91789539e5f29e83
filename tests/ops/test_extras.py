"""The base serves the embedded log and files; what needs more says which extra brings it."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import requests

from calotype.ops.settings.extras import LIBRARIES

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
S3 = (
    '[store]\nkind = "s3"\nendpoint = "http://127.0.0.1:1"\nbucket = "images"\n'
    'access_key = "k"\nsecret_key = "s"\n'
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a virtual environment in which only the base is installed."""
    folder = tmp_path_factory.mktemp("base")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable"]
    subprocess.run([str(folder / "bin/python"), *install, str(ROOT)], check=True, timeout=280)
    return folder / "bin"


def test_the_base_brings_no_library_of_an_extra_and_each_extra_brings_its_own(base: Path) -> None:
    code = "import sys; from importlib.util import find_spec as f; print(*map(f, sys.argv[1:]))"
    command = [str(base / "python"), "-c", code, *LIBRARIES.values()]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == " ".join(["None"] * len(LIBRARIES)) + "\n"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras["all"] == [f"calotype[{','.join(LIBRARIES)}]"]
    assert "calotype[all]" in extras["test"]
    for extra in LIBRARIES:
        assert len(extras[extra]) == 1


@pytest.mark.parametrize(
    ("settings", "key", "extra"),
    [
        (S3, "store.kind", "s3"),
        ('[log]\nurl = "postgresql://u@127.0.0.1:1/x"\n', "log.url", "postgres"),
        ('[sinks.mq]\nkind = "rabbitmq"\nurls = ["amqp://h"]\n', "sinks.mq.kind", "rabbitmq"),
        ('[sinks.bus]\nkind = "nats"\nurls = ["nats://h"]\n', "sinks.bus.kind", "nats"),
    ],
)
def test_a_setting_whose_library_is_missing_is_refused_at_start(
    base: Path, tmp_path: Path, settings: str, key: str, extra: str
) -> None:
    file = tmp_path / "calotype.toml"
    file.write_text(settings)
    for verb in (("config", "check"), ("serve", "--listen", "127.0.0.1:0")):
        command = [str(base / "calotype"), *verb, "--config", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[1:] == [
            f"{key}: the library '{LIBRARIES[extra]}' is not installed: "
            f"pip install 'calotype[{extra}]'"
        ]
    assert list(tmp_path.iterdir()) == [file]


def test_the_base_serves_and_its_command_line_works(base: Path, tmp_path: Path) -> None:
    options = ("--data", str(tmp_path / "data"))
    serve = [str(base / "calotype"), "serve", "--listen", "127.0.0.1:0", *options]
    environment = {**os.environ, "CALOTYPE_QUIET": "1"}
    service = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert service.stderr is not None
        ready = next(line for line in service.stderr if '"event": "ready"' in line)
        url = f"http://{json.loads(ready)['listen']}/v2/images"
        formats = {"disk_format": "raw", "container_format": "bare"}
        path = f"{url}/{requests.post(url, json=formats, timeout=30).json()['id']}/file"
        octets = {"Content-Type": "application/octet-stream"}
        sent = requests.put(path, data=b"bytes", headers=octets, timeout=30)
        assert (sent.status_code, requests.get(path, timeout=30).content) == (204, b"bytes")
        status: Any = subprocess.run(
            [str(base / "calotype"), "status", *options], capture_output=True, text=True, timeout=60
        )
        assert (status.returncode, status.stderr) == (0, "")
        assert "1 images, 5 bytes" in status.stdout
    finally:
        service.terminate()
        assert service.wait(30) == 0
