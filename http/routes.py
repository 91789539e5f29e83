"""The route table, and the application built from it."""

from aiohttp import web

from calotype.http.log import audit, catalogue, consumers, feed, history, tickets, webhooks
from calotype.http.middleware import API, BODILESS, ELSEWHERE, Api, adorn, conversation
from calotype.http.v2 import data, discovery, images, members, restorable

IMAGE = "/v2/images/{image_id}"
CONSUMER = "/log/v1/consumers/{name}"
WEBHOOK = webhooks.PATH + "/{name}"

ROUTES = (
    ("GET", "/v2/images", images.index),
    ("POST", "/v2/images", images.create),
    ("GET", IMAGE, images.show),
    ("PATCH", IMAGE, images.update),
    ("DELETE", IMAGE, images.delete),
    ("GET", IMAGE + "/file", data.download),
    ("PUT", IMAGE + "/file", data.upload),
    ("PUT", IMAGE + "/tags/{tag}", images.add_tag),
    ("DELETE", IMAGE + "/tags/{tag}", images.remove_tag),
    ("GET", IMAGE + "/members", members.index),
    ("POST", IMAGE + "/members", members.add),
    ("GET", IMAGE + "/members/{member}", members.show),
    ("PUT", IMAGE + "/members/{member}", members.set_status),
    ("DELETE", IMAGE + "/members/{member}", members.remove),
    ("POST", IMAGE + "/actions/deactivate", images.deactivate),
    ("POST", IMAGE + "/actions/reactivate", images.reactivate),
    ("GET", "/log/v1", catalogue.calls),
    ("GET", "/log/v1/events", feed.events),
    ("POST", "/log/v1/stream-tickets", tickets.issue),
    ("GET", "/log/v1/consumers", consumers.index),
    ("PUT", CONSUMER, consumers.put),
    ("GET", CONSUMER, consumers.show),
    ("DELETE", CONSUMER, consumers.delete),
    ("POST", CONSUMER + "/fetch", consumers.fetch),
    ("POST", CONSUMER + "/ack", consumers.ack),
    ("POST", CONSUMER + "/extend", consumers.extend),
    ("POST", CONSUMER + "/seek", consumers.seek),
    ("GET", CONSUMER + "/parked", consumers.parked),
    ("POST", CONSUMER + "/parked/{position}/redeliver", consumers.redeliver),
    ("POST", CONSUMER + "/parked/{position}/discard", consumers.discard),
    ("GET", "/log/v1/schemas", catalogue.index),
    ("GET", "/log/v1/schemas/{type}", catalogue.schema),
    ("GET", "/log/v1/asyncapi", catalogue.description),
    ("GET", "/log/v1/images", history.index),
    ("GET", "/log/v1/images/{image_id}", history.show),
    ("GET", "/log/v1/images/{image_id}/history", history.history),
    ("GET", "/log/v1/images/{image_id}/diff", history.diff),
    ("POST", "/log/v1/images/{image_id}/restore", restorable.restore),
    ("POST", "/log/v1/images/{image_id}/purge", restorable.purge),
    ("GET", "/log/v1/restorable", restorable.index),
    ("GET", webhooks.PATH, webhooks.index),
    ("GET", WEBHOOK, webhooks.show),
    ("PUT", WEBHOOK, webhooks.put),
    ("DELETE", WEBHOOK, webhooks.delete),
    ("POST", WEBHOOK + "/test", webhooks.test),
    ("POST", WEBHOOK + "/rotate", webhooks.rotate),
    ("GET", WEBHOOK + "/parked", webhooks.parked),
    ("POST", WEBHOOK + "/parked/{position}/redeliver", webhooks.redeliver),
    ("GET", "/log/v1/checkpoint", audit.checkpoint),
    ("GET", "/log/v1/tile/{level}/{index:.+}", audit.tile),
    ("GET", "/log/v1/proof/inclusion", audit.inclusion),
    ("GET", "/log/v1/proof/consistency", audit.consistency),
    ("GET", "/log/v1/verify_proof.py", audit.script),
    ("GET", "/v2/schemas/{name}", discovery.schema),
    ("GET", "/v2/info/import", discovery.import_methods),
    ("GET", "/v2/info/stores", discovery.stores),
    ("GET", "/v2/info/usage", discovery.usage),
    ("*", "/v2/info/usage", discovery.elsewhere),
    ("GET", "/healthcheck", discovery.healthcheck),
    ("HEAD", "/healthcheck", discovery.healthcheck),
    ("*", "/v2", discovery.redirect_to_v2),
    ("*", "/versions", discovery.versions),
    ("*", "/versions/{rest:.*}", discovery.versions),
)

MAY_HAVE_BODIES = {
    images.create, images.update, data.upload, members.add, members.set_status,
    consumers.put, consumers.fetch, consumers.ack, consumers.extend, consumers.seek,
    webhooks.put, webhooks.rotate, restorable.purge,
    images.index, discovery.usage, discovery.elsewhere, discovery.healthcheck,
    discovery.redirect_to_v2, discovery.versions,
}  # fmt: skip
"""Handlers that read a body, and those that do not mind one; all others refuse it."""


def application(api: Api) -> web.Application:
    """The whole HTTP application around what the wiring put together."""
    # aiohttp hands requests on, and our middleware makes each a Call.
    app = web.Application(
        middlewares=[conversation],  # type: ignore[list-item]
        client_max_size=api.json_body_bytes,
    )
    app[API] = api
    app[BODILESS] = frozenset(handler for _, _, handler in ROUTES if handler not in MAY_HAVE_BODIES)
    app[ELSEWHERE] = discovery.elsewhere
    app.on_response_prepare.append(adorn)
    app.on_shutdown.append(_end_streams)
    app.on_cleanup.append(_close_askers)
    for method, path, handler in ROUTES:
        # Without `allow_head`, because the Image API knows no HEAD.
        app.router.add_route(method, path, handler)  # type: ignore[arg-type]
    return app


async def _end_streams(app: web.Application) -> None:
    await app[API].feed.watcher.close()


async def _close_askers(app: web.Application) -> None:
    await app[API].identity.close()
    await app[API].context.quotas.close()
