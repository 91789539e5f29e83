"""The libraries of stores, databases and brokers, each of which an extra of the package brings."""

from collections.abc import Mapping
from importlib.util import find_spec

LIBRARIES = {"s3": "minio", "postgres": "psycopg", "rabbitmq": "aio_pika", "nats": "nats"}
"""The module that each extra brings."""


def lacking(log_url: str, store: str, sinks: Mapping[str, str]) -> list[str]:
    """A sentence for each setting whose library is not installed, with the extra that brings it.

    `store` is the kind of the store, `sinks` has the kind of each sink.
    """
    needed = {f"sinks.{name}.kind": kind for name, kind in sinks.items()}
    needed["store.kind"] = store
    if log_url.startswith("postgres"):
        needed["log.url"] = "postgres"
    return [
        f"{key}: the library '{LIBRARIES[extra]}' is not installed: pip install 'calotype[{extra}]'"
        for key, extra in needed.items()
        if extra in LIBRARIES and find_spec(LIBRARIES[extra]) is None
    ]
