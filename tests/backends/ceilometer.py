"""A real ceilometer, the agent that makes samples and events of notifications.

It lives in a virtual environment of its own (`make .venv-ceilometer/.installed`), as Keystone does,
and writes what it makes into files.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yarl import URL

from tests.backends.server import Server, write_secret

PROGRAMS = Path(__file__).parent.parent.parent / ".venv-ceilometer" / "bin"

_CONFIGURATION = """\
[DEFAULT]
transport_url = {url}
pipeline_cfg_file = {folder}/pipeline.yaml
event_pipeline_cfg_file = {folder}/event_pipeline.yaml
log_file = {folder}/ceilometer.log
[notification]
messaging_urls = {url}
notification_control_exchanges = {exchange}
[oslo_messaging_notifications]
topics = {topic}
[oslo_concurrency]
lock_path = {folder}
"""
_PIPELINE = """\
sources: [{{name: source, {kind}: ["*"], sinks: [sink]}}]
sinks: [{{name: sink, publishers: ["file://{folder}/{kind}?json"]}}]
"""


class Ceilometer(Server):
    """One agent that reads the notifications of one exchange and topic from a RabbitMQ.

    `start` does not wait: what is in the queues by then is read as well.
    """

    def __init__(self, folder: Path, broker_url: str, *, exchange: str, topic: str) -> None:
        super().__init__(folder)
        self._facts = {"url": oslo_url(broker_url), "exchange": exchange, "topic": topic}

    def prepare(self) -> None:
        text = _CONFIGURATION.format(folder=self.folder, **self._facts)
        write_secret(self.folder / "ceilometer.conf", text)
        for name, kind in (("pipeline", "meters"), ("event_pipeline", "events")):
            text = _PIPELINE.format(kind=kind, folder=self.folder)
            (self.folder / f"{name}.yaml").write_text(text)

    def command(self) -> Sequence[str | Path]:
        agent = PROGRAMS / "ceilometer-agent-notification"
        if not agent.exists():
            raise RuntimeError(f"There is no {agent}: run `make .venv-ceilometer/.installed`")
        return [agent, "--config-file", self.folder / "ceilometer.conf"]

    @property
    def variables(self) -> dict[str, str]:
        return super().variables | {"PYTHONWARNINGS": "ignore"}

    def samples(self) -> list[dict[str, Any]]:
        """The samples of meters that it has made so far."""
        return self._read("meters")

    def events(self) -> list[dict[str, Any]]:
        """The events that it has made so far, each with its traits."""
        return self._read("events")

    def _read(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        if not path.exists():
            return []
        # The last line may be on its way.
        return [json.loads(line) for line in path.read_text().splitlines(True) if line[-1] == "\n"]


def oslo_url(url: str) -> str:
    """An AMQP URL as oslo.messaging writes it."""
    return str(URL(url).with_scheme("rabbit"))
