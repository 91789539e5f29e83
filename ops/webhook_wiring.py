"""Webhooks as the settings describe them."""

from calotype.commands.parts import Parts
from calotype.ops.settings import Settings
from calotype.projections.consumers import Consumers
from calotype.projections.webhooks.calls import Webhooks
from calotype.projections.webhooks.delivering import Deliverer
from calotype.projections.webhooks.endpoints import Endpoint
from calotype.projections.webhooks.health import Patience
from calotype.projections.webhooks.line import Line, Places
from calotype.projections.webhooks.sending import Sender
from calotype.stores.log.recorder import GroupCommitRecorder


def webhooks_of(
    settings: Settings, recorder: GroupCommitRecorder, consumers: Consumers
) -> Webhooks:
    """What callers do with webhooks."""
    endpoints = endpoints_of(settings, recorder)
    return Webhooks(endpoints, consumers, outbound_of(settings), settings.webhooks.attempts)


def deliverer_of(settings: Settings, parts: Parts, consumers: Consumers) -> Deliverer:
    """Delivers webhooks; runs in every process, one of which leads."""
    given = settings.webhooks
    recorder = parts.log.recorder
    endpoints = endpoints_of(settings, recorder)
    places = Places(given.deliveries)
    patience = Patience(
        given.first_retry_seconds, given.longest_retry_seconds, given.disable_after_seconds
    )

    def lay(endpoint: Endpoint, sender: Sender) -> Line:
        return Line(
            endpoint,
            endpoints=endpoints,
            consumers=consumers,
            sender=sender,
            patience=patience,
            places=places,
            most_at_once=given.deliveries_per_webhook,
            member=parts.process_id,
        )

    return Deliverer(recorder, endpoints, outbound_of(settings), lay, holder=parts.process_id)
