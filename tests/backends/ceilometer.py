"""A real ceilometer, the agent that makes samples and events of notifications.

It lives in a virtual environment of its own (`make .venv-ceilometer/.installed`), as Keystone does,
and writes what it makes into files. Everything it writes lies in one folder.
"""

import ctypes
import json
import os
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from yarl import URL

STOP_SECONDS = 10.0
PROGRAMS = Path(__file__).parent.parent.parent / ".venv-ceilometer" / "bin"
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

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


class Ceilometer:
    """One agent that reads the notifications of one exchange and topic from a RabbitMQ."""

    def __init__(self, folder: Path, broker_url: str, *, exchange: str, topic: str) -> None:
        self._folder = folder
        self._url = oslo_url(broker_url)
        self._exchange = exchange
        self._topic = topic
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it; what is in the queues by then is read as well."""
        if not (PROGRAMS / "ceilometer-agent-notification").exists():
            raise RuntimeError(
                f"There is no ceilometer in {PROGRAMS}: run `make .venv-ceilometer/.installed`"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "folder": self._folder,
            "url": self._url,
            "exchange": self._exchange,
            "topic": self._topic,
        }
        configuration = self._folder / "ceilometer.conf"
        configuration.touch(0o600)
        configuration.write_text(_CONFIGURATION.format(**facts))
        for name, kind in (("pipeline", "meters"), ("event_pipeline", "events")):
            text = _PIPELINE.format(kind=kind, folder=self._folder)
            (self._folder / f"{name}.yaml").write_text(text)
        with (self._folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                [PROGRAMS / "ceilometer-agent-notification", "--config-file", configuration],
                cwd=self._folder,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # The signal comes when the starting thread ends, so only the main one may ask.
                preexec_fn=_die_with_parent
                if threading.current_thread() is threading.main_thread()
                else None,
            )

    def stop(self) -> None:
        """Ends it with all its processes."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()  # It then ends its worker, and waits for it.
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def samples(self) -> list[dict[str, Any]]:
        """The samples of meters that it has made so far."""
        return self._read("meters")

    def events(self) -> list[dict[str, Any]]:
        """The events that it has made so far, each with its traits."""
        return self._read("events")

    def _read(self, name: str) -> list[dict[str, Any]]:
        path = self._folder / name
        if not path.exists():
            return []
        # The last line may be on its way.
        return [json.loads(line) for line in path.read_text().splitlines(True) if line[-1] == "\n"]


def oslo_url(url: str) -> str:
    """An AMQP URL as oslo.messaging writes it."""
    return str(URL(url).with_scheme("rabbit"))


_PROCESS_CONTROL = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """Runs in the child: a test run that is killed must not leave a server behind."""
    _PROCESS_CONTROL.prctl(_DEATH_SIGNAL, signal.SIGKILL)
