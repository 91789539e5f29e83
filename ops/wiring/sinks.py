"""Sinks as the settings describe them."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import structlog

from calotype.commands.context import CommandContext
from calotype.ops.settings.settings import Settings, SettingsError
from calotype.ops.settings.sinks import NatsSink, RabbitMQSink, SinkSettings
from calotype.projections.engine.positions import Positions
from calotype.projections.feed.feed import Feed
from calotype.projections.sinks.contract import Broker, MessageEncoder
from calotype.projections.sinks.delivery import Delivery
from calotype.projections.sinks.exists_audit import Existing
from calotype.projections.sinks.glance import is_disabled
from calotype.projections.sinks.oslo import OsloEncoder, OsloEnvelope
from calotype.stores.log.recorder import GroupCommitRecorder

log = structlog.get_logger("calotype.sinks")


@dataclass(frozen=True, slots=True)
class SinkParts:
    """The two ends of a sink: what tells events, and what takes the messages."""

    encoder: MessageEncoder
    broker: Broker


def sink_named(settings: Settings, name: str) -> SinkSettings:
    """The settings of a sink. Raises SettingsError for a name that none has."""
    if name not in settings.sinks:
        known = ", ".join(sorted(settings.sinks)) or "there is none"
        raise SettingsError(f"there is no table [sinks.{name}]; known sinks: {known}")
    return settings.sinks[name]


def ends_of(
    recorder: GroupCommitRecorder, positions: Positions, name: str, table: SinkSettings
) -> SinkParts:
    """Both ends of one sink. Raises SettingsError when its certificates cannot be used."""
    tls = _tls(name, table)
    # Clients of brokers take memory in every process: only those that are needed are loaded.
    if isinstance(table, RabbitMQSink):
        from calotype.projections.sinks.rabbitmq import RabbitMQ, Topology

        topology = Topology(table.exchange, table.durable, table.quorum)
        encoder = OsloEncoder(recorder, envelope_of(positions, table))
        return SinkParts(encoder, RabbitMQ(table.urls, topology, tls=tls))
    from calotype.projections.sinks.jetstream import JetStream, JetStreamEncoder, Stream

    stream = Stream(table.stream, table.subject, table.replicas, table.duplicate_window_seconds)
    broker = JetStream(table.urls, stream, tls=tls, credentials_file=table.credentials_file)
    return SinkParts(JetStreamEncoder(recorder, positions, table.subject), broker)


def envelope_of(positions: Positions, table: RabbitMQSink) -> OsloEnvelope:
    """What notifications of this sink are put into."""
    return OsloEnvelope(
        positions,
        publisher_id=table.publisher_id,
        topics=table.topics,
        disabled=table.disabled_notifications,
    )


async def registered_deliveries(
    settings: Settings, context: CommandContext, feed: Feed
) -> list[Delivery]:
    """This process's part in every sink, each of which has its place in the log by now."""
    check_files(settings)
    recorder, positions = context.log.recorder, await feed.positions()
    deliveries = []
    for name, table in settings.sinks.items():
        ends = ends_of(recorder, positions, name, table)
        delivery = Delivery(
            recorder,
            name,
            ends.encoder,
            ends.broker,
            holder=context.process_id,
            wait=feed.watcher.grown,
            start=table.start,
            chore=_audits(recorder, positions, name, table),
        )
        await delivery.register()
        deliveries.append(delivery)
    for name in silent_downloads(settings):
        log.warning("sink tells no image.send: audit.downloads is false", sink=name)
    return deliveries


def _audits(
    recorder: GroupCommitRecorder, positions: Positions, name: str, table: SinkSettings
) -> Existing | None:
    if not isinstance(table, RabbitMQSink) or table.exists == "never":
        return None
    return Existing(recorder, name, envelope_of(positions, table), table.exists)


def silent_downloads(settings: Settings) -> list[str]:
    """The sinks that would tell of downloads, if these were recorded."""
    if settings.audit.downloads:
        return []
    return [
        name
        for name, table in settings.sinks.items()
        if isinstance(table, RabbitMQSink)
        and not is_disabled("image.send", table.disabled_notifications)
    ]


def check_files(settings: Settings) -> None:
    """Raises SettingsError where a file that a sink needs cannot be used."""
    for name, table in settings.sinks.items():
        _tls(name, table)
        if isinstance(table, NatsSink) and table.credentials_file:
            try:
                Path(table.credentials_file).read_bytes()
            except OSError as error:
                raise SettingsError(
                    f"sinks.{name}.credentials_file: cannot be read: {error.strerror}"
                ) from None


def _tls(name: str, table: SinkSettings) -> ssl.SSLContext | None:
    if not any(url.startswith(("amqps:", "tls:")) for url in table.urls):
        return None
    try:
        return table.tls()
    except OSError as error:
        raise SettingsError(
            f"sinks.{name}: certificates cannot be used: {error.strerror or error}"
        ) from None
