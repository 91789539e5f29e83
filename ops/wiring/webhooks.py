"""Webhooks as the settings describe them."""

from collections.abc import Callable

from calotype.commands.context import CommandContext
from calotype.commands.policy.policy import Policy
from calotype.commands.policy.protections import readable_by
from calotype.ops.settings.settings import Settings, SettingsError
from calotype.projections.consumers.consumers import Consumers
from calotype.projections.webhooks.attempt import Outbound, Sender
from calotype.projections.webhooks.delivery import Deliverer
from calotype.projections.webhooks.destinations import Destinations
from calotype.projections.webhooks.endpoint_worker import EndpointWorker, SharedSlots
from calotype.projections.webhooks.endpoints import Endpoint, Endpoints
from calotype.projections.webhooks.health import Patience
from calotype.projections.webhooks.service import Webhooks, recipient
from calotype.projections.webhooks.vault import Vault, split_keys
from calotype.stores.log.recorder import GroupCommitRecorder


def webhooks_of(
    settings: Settings, recorder: GroupCommitRecorder, consumers: Consumers
) -> Webhooks:
    """What callers do with webhooks. Raises SettingsError for a file that cannot be used."""
    given = settings.webhooks
    destinations = Destinations(
        allow=given.allow, deny=given.deny, ports=given.ports, plain_http=given.plain_http
    )
    try:
        outbound = Outbound(destinations, given.timeout_seconds, given.cafile)
    except OSError as error:
        raise SettingsError(f"webhooks.cafile: cannot be used: {error}") from None
    endpoints = Endpoints(recorder, Vault(split_keys(given.encryption_key)), given.per_project)
    return Webhooks(endpoints, consumers, outbound, given.attempts)


def deliverer_of(
    settings: Settings, context: CommandContext, webhooks: Webhooks, policy: Callable[[], Policy]
) -> Deliverer:
    """Delivers webhooks; runs in every process, one of which leads.

    `policy` gives the rules in force, which say what of an image an endpoint may read.
    """
    given = settings.webhooks
    places = SharedSlots(given.deliveries)
    patience = Patience(
        given.first_retry_seconds, given.longest_retry_seconds, given.disable_after_seconds
    )

    def make_worker(endpoint: Endpoint, sender: Sender) -> EndpointWorker:
        return EndpointWorker(
            endpoint,
            endpoints=webhooks.endpoints,
            consumers=webhooks.consumers,
            sender=sender,
            patience=patience,
            places=places,
            most_at_once=given.deliveries_per_webhook,
            member=context.process_id,
            readable=lambda: readable_by(recipient(endpoint.project, policy())),
        )

    return Deliverer(
        context.log.recorder,
        webhooks.endpoints,
        webhooks.outbound,
        make_worker,
        holder=context.process_id,
    )
