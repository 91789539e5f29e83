"""`[sinks.NAME]`: where the log is delivered to, one table for each sink."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from yarl import URL

from calotype.ops.settings.table import TlsClient

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def _checked(name: object) -> object:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("name a sink with up to 40 of a-z, 0-9, - and _")
    return name


SinkName = Annotated[str, BeforeValidator(_checked)]


class _Sink(TlsClient):
    urls: list[str] = Field(min_length=1, repr=False)
    """URLs of the broker or of each node of a cluster; with a password better given in the
    environment."""
    start: Literal["head", "beginning"] = "head"
    """Where a sink begins that the log has not seen before: with what comes from now on, or with
    everything there is."""

    def shown(self) -> dict[str, object]:
        """The settings without passwords."""
        return {**self.model_dump(), "urls": [without_password(url) for url in self.urls]}


class RabbitMQSink(_Sink):
    """`[sinks.NAME]` with `kind = "rabbitmq"`: Glance's notifications, for OpenStack's services."""

    kind: Literal["rabbitmq"]
    """RabbitMQ, in the form of oslo.messaging."""
    exchange: str = Field("glance", min_length=1)
    """The topic exchange, which is made if it is missing."""
    topics: list[str] = Field(["notifications"], min_length=1)
    """Each message goes to the queue TOPIC.info or TOPIC.error, which is made if it is missing."""
    durable: bool = False
    """Exchange and queues outlive the broker; as `amqp_durable_queues` of the consumers."""
    quorum: bool = False
    """Queues are quorum queues, which are durable; as `rabbit_quorum_queue` of the consumers."""
    publisher_id: str = "image.localhost"
    """Who the messages say that they are from."""
    disabled_notifications: list[str] = []
    """Event types that are not sent, or their beginnings up to a dot, such as `image.member`."""

    exists: Literal["never", "hour", "day"] = "never"
    """How often image.exists tells of every image there is (periods of UTC)."""

    @model_validator(mode="after")
    def _reachable(self) -> "RabbitMQSink":
        _check_urls(self.urls, ("amqp", "amqps"), "amqp://USER:PASSWORD@HOST:5672/VIRTUAL_HOST")
        return self


class NatsSink(_Sink):
    """`[sinks.NAME]` with `kind = "nats"`: CloudEvents in a stream of NATS JetStream."""

    kind: Literal["nats"]
    """NATS JetStream."""
    stream: str = Field("CALOTYPE", pattern=r"^[A-Za-z0-9_-]+$")
    """The stream, which is made if it is missing."""
    subject: str = Field("calotype", pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    """What subjects begin with: SUBJECT.EVENT_TYPE.PROJECT."""
    replicas: int = Field(1, ge=1, le=5)
    """How many servers of a cluster keep a stream that is made."""
    duplicate_window_seconds: float = Field(3600.0, gt=0)
    """How long a stream that is made remembers ids, and so drops what comes twice."""
    credentials_file: str = ""
    """File with the credentials of a user, where the server wants such."""

    @model_validator(mode="after")
    def _reachable(self) -> "NatsSink":
        _check_urls(self.urls, ("nats", "tls"), "nats://USER:PASSWORD@HOST:4222")
        return self


SinkSettings = Annotated[RabbitMQSink | NatsSink, Field(discriminator="kind")]
KINDS: tuple[type[_Sink], ...] = (RabbitMQSink, NatsSink)


def check_sinks(sinks: dict[str, SinkSettings], *, versions_kept: bool) -> None:
    """Raises ValueError where a sink needs what another setting turns off."""
    for name, sink in sinks.items():
        if isinstance(sink, RabbitMQSink) and sink.exists != "never" and not versions_kept:
            raise ValueError(f"sinks.{name}.exists needs followers.versions = true; set it")


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    parsed = URL(url)
    return str(parsed.with_password("***")) if parsed.password else url


def _check_urls(urls: list[str], schemes: tuple[str, ...], form: str) -> None:
    for url in urls:
        try:
            parsed = URL(url)
        except ValueError:
            parsed = URL()
        if parsed.scheme not in schemes or not parsed.host:
            raise ValueError(f"'urls' needs {form}")
