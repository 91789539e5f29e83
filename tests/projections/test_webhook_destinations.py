"""No webhook leads into the operator's network, however its address is spelled."""

import socket
from ipaddress import ip_address

import pytest

from calotype.commands.errors import Invalid
from calotype.projections.webhooks.destinations import (
    LONGEST_URL,
    Destinations,
    RefusedAddress,
    is_public,
)

LOOPBACK_SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7F.1",
    "017700000001",
    "0177.0.0.1",
    "127.0.0.0x1",
    "00000177.1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::127.0.0.1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[2600::5efe:127.0.0.1]",
    "[fe80::1%25eth0]",
    "１２７.０.０.１",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
]
NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255",
    "127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8",
    "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1", "ff02::1", "100::1",
    "2001::1", "2001:db8::1", "2002:c000:204::1", "3fff::1", "5f00::1", "64:ff9b:1::1",
    "2606:4700::5efe:808:808", "2606:4700::200:5efe:808:808",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
    "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.167.255.255", "223.255.255.255",
    "2606:4700:4700::1111", "2a00:1450::1", "2003::1",
]  # fmt: skip


def _refused(destinations: Destinations, url: str) -> str:
    with pytest.raises(Invalid) as refused:
        destinations.checked_url(url)
    assert refused.value.field == "url"
    return refused.value.explanation


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
def test_no_spelling_of_an_inner_address_is_taken(host: str) -> None:
    assert "not allowed" in _refused(Destinations(), f"https://{host}/hook")


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_special_purpose_addresses_are_not_called(text: str) -> None:
    address = ip_address(text)
    assert not is_public(address)
    assert not Destinations().permits(address)
    if address.version == 4:
        assert not Destinations().permits(ip_address(f"::ffff:{text}"))
        assert not Destinations().permits(ip_address(f"64:ff9b::{text}"))


@pytest.mark.parametrize("text", PUBLIC)
def test_the_public_internet_is_called(text: str) -> None:
    assert Destinations().permits(ip_address(text))
    if ":" not in text:
        assert Destinations().permits(ip_address(f"::ffff:{text}"))
        assert Destinations().permits(ip_address(f"64:ff9b::{text}"))
    else:
        text = f"[{text}]"
    assert str(Destinations().checked_url(f"https://{text}/x")) == f"https://{text}/x"


def test_an_operator_allows_networks_and_denies_others() -> None:
    some = Destinations(allow=["10.1.0.0/16", "::1/128"], deny=["10.1.2.0/24", "8.8.8.0/24"])
    verdicts = {
        "10.1.0.1": True,
        "::ffff:10.1.0.1": True,
        "10.1.2.1": False,
        "::ffff:10.1.2.1": False,
        "10.2.0.1": False,
        "::1": True,
        "127.0.0.1": False,
        "8.8.8.8": False,
        "64:ff9b::808:808": False,
        "8.8.4.4": True,
    }
    assert {text: some.permits(ip_address(text)) for text in verdicts} == verdicts


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.org/", "must begin with https://HOST"),
        ("ftp://example.org/", "must begin with"),
        ("file:///etc/passwd", "must begin with"),
        ("gopher://example.org/", "must begin with"),
        ("//example.org/", "must begin with"),
        ("example.org", "must begin with"),
        ("https://", "not a URL|must begin with"),
        ("https:///path", "not a URL|must begin with"),
        ("https://user@example.org/", "user or password"),
        ("https://user:word@example.org/", "user or password"),
        ("https://:word@example.org/", "user or password"),
        ("https://example.org/#part", "fragment"),
        ("https://example.org:99999/", "not a URL"),
        ("https://example.org:0/", "port"),
        ("https://example.org\\@127.0.0.1/", "characters"),
        ("https://example.org/a b", "characters"),
        ("https://example.org/\r\nX: y", "characters"),
        ("https://example.org/\x00", "characters"),
        ("https://[::1", "not a URL"),
        ("https://example.org/" + "x" * LONGEST_URL, "characters"),
    ],
)
def test_urls_that_are_not_plain_are_refused_with_the_reason(url: str, why: str) -> None:
    text = _refused(Destinations(), url)
    assert any(part in text for part in why.split("|")), text


def test_ports_and_plain_http_are_the_operators_choice() -> None:
    assert Destinations(plain_http=True).checked_url("http://example.org/").port == 80
    some = Destinations(ports=[443, 8443])
    assert some.checked_url("https://example.org:8443/").port == 8443
    assert some.checked_url("https://example.org/").port == 443
    assert "port" in _refused(some, "https://example.org:22/")


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "localhost"])
def test_the_socket_is_refused_whatever_led_to_the_address(host: str) -> None:
    infos = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    assert infos
    for info in infos:
        with pytest.raises(RefusedAddress):
            Destinations().socket_for(info)
    Destinations(allow=["127.0.0.0/8"]).socket_for(
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443))
    ).close()
