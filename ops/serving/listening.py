"""The socket that is listened on, and how many connections a process takes."""

import resource
import socket

import structlog

from calotype.http.connections import watch_peers
from calotype.ops.settings.settings import Settings, SettingsError

MOST_CONNECTIONS = 32768

log = structlog.get_logger("calotype.serving")


def raise_descriptor_limit() -> None:
    """Lets this process, and those that it starts, open as many descriptors as it ever may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:  # The kernel's own bound may be below.
            log.warning("limit of descriptors not raised", soft=soft, error=str(error))


def most_connections(settings: Settings) -> int:
    """How many connections this process holds: as set, or half of its descriptors.

    A download takes three descriptors, but never do all connections carry one.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        limit = 2 * MOST_CONNECTIONS
    return settings.http.connections or max(16, min(limit // 2, MOST_CONNECTIONS))


def listening_socket(settings: Settings, *, shared: bool = False) -> socket.socket:
    """A socket bound to `http.listen`; `shared` with other processes.

    Raises SettingsError where that cannot be.
    """
    host, _, port = settings.http.listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    watch_peers(listener)
    try:
        listener.bind((host, int(port)))
    except OSError as error:
        raise SettingsError(
            f"http.listen: cannot listen on {settings.http.listen}: {error}"
        ) from None
    return listener
