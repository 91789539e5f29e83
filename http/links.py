"""Where a caller reached the service, for the links in answers: also behind proxies."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

from aiohttp import web

from calotype.commands.errors import Invalid

HOST = re.compile(r"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
"""What `Host` may be: a name or an address, and a port."""
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")
_LONGEST_PREFIX = 1024


class Proxies:
    """Proxies whose forwarding headers are believed; `networks` empty: whoever sends them.

    As oslo.middleware's `enable_proxy_headers_parsing`: `Forwarded` (RFC 7239), and without it
    X-Forwarded-Proto and X-Forwarded-Host, the first value of each; and X-Forwarded-Prefix.
    """

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network] = ()) -> None:
        self._networks = tuple(networks)

    def trusts(self, address: str | None) -> bool:
        """Whether headers of this peer are believed."""
        if not self._networks:
            return True
        try:
            peer = ip_address(address or "")
        except ValueError:
            return False
        return any(peer in network for network in self._networks)


def base_url(request: web.Request, proxies: Proxies | None) -> str:
    """The URL of the service as this caller reached it, without a slash at the end.

    Raises Invalid for a host, or for a trusted proxy's headers, that cannot be part of a URL.
    """
    scheme, host, prefix = request.scheme, request.host or _own_address(request), ""
    if proxies is not None and proxies.trusts(request.remote):
        headers = request.headers
        forwarded = _forwarded(headers.get("Forwarded", ""))
        if not forwarded:
            forwarded = {
                "proto": headers.get("X-Forwarded-Proto", "").partition(",")[0].strip(),
                "host": headers.get("X-Forwarded-Host", "").partition(",")[0].strip(),
            }
        scheme = forwarded.get("proto", "").lower() or scheme
        host = forwarded.get("host") or host
        prefix = headers.get("X-Forwarded-Prefix", "").strip()
    if scheme not in ("http", "https"):
        raise Invalid("The forwarded scheme must be http or https.")
    if not HOST.fullmatch(host):
        raise Invalid("The service's host must be a name or an address, and a port.")
    if len(prefix) > _LONGEST_PREFIX or not _PREFIX.fullmatch(prefix):
        raise Invalid("The forwarded prefix must be a path.")
    return f"{scheme}://{host}{prefix.rstrip('/')}"


def _own_address(request: web.Request) -> str:
    """Where the connection ended, for requests that name no host."""
    address = request.transport and request.transport.get_extra_info("sockname")
    if not isinstance(address, tuple):
        return ""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def _forwarded(header: str) -> dict[str, str]:
    """The parameters of the first proxy in a `Forwarded` header."""
    parameters = {}
    for pair in header.partition(",")[0].split(";"):
        name, equals, value = pair.partition("=")
        if equals:
            parameters[name.strip().lower()] = value.strip().strip('"')
    return parameters
