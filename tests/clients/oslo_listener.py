"""A consumer of notifications as OpenStack's services are: oslo.messaging, told by a line each.

usage: oslo_listener.py URL EXCHANGE TOPIC
"""

import json
import sys
import threading
from typing import Any

import oslo_messaging
from oslo_config import cfg
from oslo_messaging import server


class Endpoint:
    """Takes what comes with the priorities that are used."""

    def info(self, context: Any, publisher: str, kind: str, payload: Any, metadata: Any) -> str:
        return self._tell("INFO", context, publisher, kind, payload, metadata)

    def error(self, context: Any, publisher: str, kind: str, payload: Any, metadata: Any) -> str:
        return self._tell("ERROR", context, publisher, kind, payload, metadata)

    def _tell(self, priority: str, context: Any, publisher: str, kind: str, *rest: Any) -> str:
        payload, metadata = rest
        told = {
            "priority": priority,
            "context": context,
            "publisher_id": publisher,
            "event_type": kind,
            "payload": payload,
            "metadata": metadata,
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        return oslo_messaging.NotificationResult.HANDLED


url, exchange, topic = sys.argv[1:]
configuration = cfg.ConfigOpts()
configuration([])
# One at a time, so that what it tells is in the order in which it reads.
configuration.register_opts(server._pool_opts)
configuration.set_override("executor_thread_pool_size", 1)
transport = oslo_messaging.get_notification_transport(configuration, url=url)
target = oslo_messaging.Target(topic=topic, exchange=exchange)
listener = oslo_messaging.get_notification_listener(
    transport, [target], [Endpoint()], executor="threading"
)
listener.start()
threading.Event().wait()
