"""Where a webhook may lead: checked when it is made, and again for every connection.

A caller who names a URL makes this service send requests from inside the operator's network. So
only addresses of the public Internet are called, and networks that the operator allows. What
counts is the address that a socket is about to be connected to: names may resolve to anything, and
to something else a moment later, and numbers have many spellings.
"""

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from yarl import URL

from calotype.commands.errors import Invalid

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL = 2048

_NOT_PUBLIC = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # between a carrier and its customers
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, where clouds have their metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "2001::/23",  # Teredo among others
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
)
"""What the IANA registries of special-purpose addresses keep from the public Internet."""
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_CARRIES_IPV4 = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
"""Mapped addresses, which the kernel takes for IPv4, and NAT64, which a gateway does."""
_ISATAP = (0x00005EFE, 0x02005EFE)


class RefusedAddress(OSError):
    """No connection is made to this address."""


class Destinations:
    """What may be called.

    `allow` names networks that may be called besides the public Internet, `deny` networks that
    may not be, whatever else holds. `ports` are the only ones, if there are any; without
    `plain_http` only https is spoken.
    """

    def __init__(
        self,
        *,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        ports: Sequence[int] = (),
        plain_http: bool = False,
    ) -> None:
        self._allow = [ip_network(text) for text in allow]
        self._deny = [ip_network(text) for text in deny]
        self._ports = frozenset(ports)
        self._schemes = ("https", "http") if plain_http else ("https",)

    def checked_url(self, text: str) -> URL:
        """The URL. Raises Invalid naming what is wrong with it.

        Whether a name may be called shows only when it is resolved, so that is looked at for
        every connection, by `socket_for`.
        """
        if len(text) > LONGEST_URL:
            raise Invalid(f"'url' has at most {LONGEST_URL} characters.", "url")
        if any(c.isspace() or not c.isprintable() or c == "\\" for c in text):
            raise Invalid("'url' holds characters that no URL has.", "url")
        try:
            url = URL(text)
            host, port = url.raw_host, url.port
        except ValueError:
            raise Invalid("'url' is not a URL.", "url") from None
        if url.scheme not in self._schemes or not host:
            raise Invalid(f"'url' must begin with {' or '.join(self._schemes)}://HOST.", "url")
        if url.raw_user is not None or url.raw_password is not None:
            raise Invalid("'url' must not hold a user or password.", "url")
        if url.raw_fragment:
            raise Invalid("'url' must not have a fragment.", "url")
        if not port or (self._ports and port not in self._ports):
            raise Invalid("'url' names a port that is not allowed here.", "url")
        address = literal_address(host)
        if address is not None and not self.permits(address):
            raise Invalid("'url' names an address that is not allowed here.", "url")
        return url

    def permits(self, address: Address) -> bool:
        """Whether the address may be called."""
        meant = _meant(address)
        if _within(address, self._deny) or _within(meant, self._deny):
            return False
        return _within(address, self._allow) or _within(meant, self._allow) or is_public(meant)

    def socket_for(self, info: tuple[Any, ...]) -> socket.socket:
        """A socket for an entry of `getaddrinfo`, about to be connected to its address.

        Raises RefusedAddress. This is the last moment before the connection, and it sees the
        very address that is connected to, however it was spelled and whoever resolved it.
        """
        family, kind, protocol, _, address = info
        if not self.permits(ip_address(address[0])):
            # Always in the same words, so that several of them remain one kind of error.
            raise RefusedAddress("this address is not allowed")
        return socket.socket(family, kind, protocol)


def is_public(address: Address) -> bool:
    """Whether the address is one of the public Internet."""
    if isinstance(address, IPv6Address) and (
        address not in _GLOBAL_UNICAST or int(address) >> 32 & 0xFFFFFFFF in _ISATAP
    ):
        return False
    return not _within(address, _NOT_PUBLIC)


def literal_address(host: str) -> Address | None:
    """The address that a host is, in any spelling that resolvers understand; None for names.

    `127.1`, `0x7f000001`, `017700000001` and `2130706433` are all 127.0.0.1.
    """
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _meant(address: Address) -> Address:
    """The address that packets arrive at in the end."""
    if isinstance(address, IPv6Address) and _within(address, _CARRIES_IPV4):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
