"""One attempt: what is sent, whom it reaches, and that nothing an endpoint does can hurt."""

import asyncio
import datetime
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook, WebhookVerificationError

from calotype.projections.webhooks.attempt import MOST_ANSWER_BYTES, UNREACHABLE, Result, Sender
from calotype.projections.webhooks.connecting import open_session
from calotype.projections.webhooks.destinations import Destinations
from calotype.projections.webhooks.signing import message_id, new_secret, signed_headers
from calotype.projections.webhooks.vault import Locked, Vault

LOOPBACK = Destinations(allow=["127.0.0.0/8"], plain_http=True)
BODY = b'{"specversion":"1.0"}'


@dataclass
class Endpoint:
    """A real server on loopback, and what it was sent."""

    url: str
    taken: list[tuple[str, dict[str, str], bytes]]


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Open = Callable[..., Awaitable[Endpoint]]


@pytest.fixture
async def open_endpoint() -> AsyncIterator[Open]:
    runners: list[web.AppRunner] = []

    async def start(handler: Handler, context: ssl.SSLContext | None = None) -> Endpoint:
        taken: list[tuple[str, dict[str, str], bytes]] = []

        async def take(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            taken.append(
                (request.path_qs, {k.lower(): v for k, v in request.headers.items()}, body)
            )
            return await handler(request)

        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        return Endpoint(f"{'https' if context else 'http'}://127.0.0.1:{port}", taken)

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def open_sender() -> AsyncIterator[Callable[..., Sender]]:
    sessions = []

    def start(
        destinations: Destinations = LOOPBACK, seconds: float = 10.0, cafile: str = ""
    ) -> Sender:
        context = ssl.create_default_context(cafile=cafile or None)
        session = open_session(destinations, context, seconds)
        sessions.append(session)
        return Sender(session, destinations, seconds)

    yield start
    for session in sessions:
        await session.close()


def answering(status: int, **headers: str) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(
            status=status, headers={k.replace("_", "-"): headers[k] for k in headers}
        )

    return answer


async def test_a_receiver_verifies_with_the_standards_own_library(
    open_endpoint: Open, open_sender: Any
) -> None:
    endpoint = await open_endpoint(answering(204))
    former, present, other = new_secret(), new_secret(), new_secret()
    headers = signed_headers("m-1", int(time.time()), BODY, [present, former])
    result = await open_sender().send(endpoint.url + "/hook?k=v", headers, BODY)
    assert (result.delivered, result.status) == (True, 204)
    [(path, taken, body)] = endpoint.taken
    assert (path, body) == ("/hook?k=v", BODY)
    assert taken["content-type"] == "application/cloudevents+json"
    for secret in (present, former):
        assert Webhook(secret).verify(body, taken) == {"specversion": "1.0"}
    for secret, sent in ((other, body), (present, body + b" ")):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(sent, taken)
    with pytest.raises(WebhookVerificationError):
        Webhook(present).verify(body, {**taken, "webhook-id": "m-2"})
    late = {**signed_headers("m-1", int(time.time()) - 3600, BODY, [present])}
    with pytest.raises(WebhookVerificationError):
        Webhook(present).verify(BODY, late)


def test_the_id_of_a_message_is_a_function_of_log_and_position() -> None:
    first = message_id("urn:calotype:log:0123456789ab", "p0123456789ab-1")
    assert first == message_id("urn:calotype:log:0123456789ab", "p0123456789ab-1")
    assert first != message_id("urn:calotype:log:0123456789ab", "p0123456789ab-2")
    assert first != message_id("urn:calotype:log:000000000000", "p0123456789ab-1")


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_a_delivery(status: int, open_endpoint: Open, open_sender: Any) -> None:
    endpoint = await open_endpoint(answering(status))
    assert (await open_sender().send(endpoint.url, {}, BODY)).delivered


@pytest.mark.parametrize("status", [301, 302, 303, 304, 400, 401, 404, 409, 410, 429, 500, 503])
async def test_everything_else_is_none(status: int, open_endpoint: Open, open_sender: Any) -> None:
    endpoint = await open_endpoint(answering(status, Location="/elsewhere"))
    result = await open_sender().send(endpoint.url, {}, BODY)
    assert result.error == f"answered {status}"
    assert result.gone == (status == 410)
    assert len(endpoint.taken) == 1


@pytest.mark.parametrize(
    ("status", "value", "seconds"),
    [
        (429, "7", 7.0),
        (503, "120", 120.0),
        (500, "7", None),
        (429, "soon", None),
        (429, "-3", None),
        (429, "9" * 400, None),
        (429, "", None),
        (503, "Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        (503, "Thu, 99 Jan 1970 99:00:00 +999999999999999", None),
    ],
)
async def test_retry_after_is_read_as_the_standard_writes_it(
    status: int, value: str, seconds: float | None, open_endpoint: Open, open_sender: Any
) -> None:
    endpoint = await open_endpoint(answering(status, Retry_After=value))
    result = await open_sender().send(endpoint.url, {}, BODY)
    assert result.retry_after_seconds == seconds


async def test_retry_after_may_be_a_date(open_endpoint: Open, open_sender: Any) -> None:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    text = moment.strftime("%a, %d %b %Y %H:%M:%S GMT")
    endpoint = await open_endpoint(answering(503, Retry_After=text))
    result = await open_sender().send(endpoint.url, {}, BODY)
    assert result.retry_after_seconds is not None
    assert 90 < result.retry_after_seconds <= 100


async def test_three_redirects_are_followed_with_method_body_and_headers(
    open_endpoint: Open, open_sender: Any
) -> None:
    hops = {"/0": (307, "/1"), "/1": (308, "2?x=1"), "/2": (307, "//{host}/3")}

    async def answer(request: web.Request) -> web.Response:
        status, location = hops.get(request.path, (200, ""))
        return web.Response(status=status, headers={"Location": location.format(host=request.host)})

    endpoint = await open_endpoint(answer)
    headers = signed_headers("m", 1, BODY, [new_secret()])
    assert (await open_sender().send(endpoint.url + "/0", headers, BODY)).delivered
    assert [path for path, _, _ in endpoint.taken] == ["/0", "/1", "/2?x=1", "/3"]
    assert {body for _, _, body in endpoint.taken} == {BODY}
    assert {taken["webhook-signature"] for _, taken, _ in endpoint.taken} == {
        headers["webhook-signature"]
    }
    hops["/3"] = (307, "/4")
    result = await open_sender().send(endpoint.url + "/0", headers, BODY)
    assert result.error == "more than 3 redirects"


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://127.0.0.2:{port}/", "not allowed"),
        ("http://2130706434:{port}/", "not allowed"),
        ("http://0x7f.2:{port}/", "not allowed"),
        ("http://[::ffff:127.0.0.2]:{port}/", "not allowed"),
        ("http://user:word@127.0.0.1:{port}/", "user or password"),
        ("ftp://127.0.0.1:{port}/", "must begin with"),
        ("http://[", "not a URL"),
        ("", "without a Location"),
        ("http://localhost6.invalid:{port}/", UNREACHABLE),
    ],
)
async def test_each_hop_is_checked_like_the_first(
    location: str, why: str, open_endpoint: Open, open_sender: Any
) -> None:
    other = await open_endpoint(answering(200))
    target = location.format(port=other.url.rpartition(":")[2])
    endpoint = await open_endpoint(answering(307, Location=target))
    sender = open_sender(Destinations(allow=["127.0.0.1/32"], plain_http=True))
    result = await sender.send(endpoint.url, {}, BODY)
    assert why in result.error
    assert len(endpoint.taken) == 1
    assert other.taken == []


async def test_a_name_of_an_inner_address_is_not_called(
    open_endpoint: Open, open_sender: Any
) -> None:
    endpoint = await open_endpoint(answering(200))
    url = endpoint.url.replace("127.0.0.1", "localhost")
    result = await open_sender(Destinations(plain_http=True)).send(url, {}, BODY)
    assert result.error == UNREACHABLE
    assert endpoint.taken == []
    assert (await open_sender().send(url, {}, BODY)).delivered


async def test_a_name_that_changes_its_address_reaches_only_what_was_checked(
    open_endpoint: Open, open_sender: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The DNS says a public address whenever somebody looks, and an inner one to who connects."""
    endpoint = await open_endpoint(answering(200))
    port = int(endpoint.url.rpartition(":")[2])
    answers: list[str] = []
    genuine = socket.getaddrinfo

    def rebinding(host: Any, *arguments: Any, **named: Any) -> Any:
        if host != "rebinding.example":
            return genuine(host, *arguments, **named)
        answers.append("93.184.216.34" if not answers else "127.0.0.1")
        address = (answers[-1], port)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    public = socket.getaddrinfo("rebinding.example", port)[0][4][0]
    assert public == "93.184.216.34"
    sender = open_sender(Destinations(plain_http=True))
    result = await sender.send(f"http://rebinding.example:{port}/", {}, BODY)
    assert answers == ["93.184.216.34", "127.0.0.1"]
    assert result.error == UNREACHABLE
    assert endpoint.taken == []


async def test_no_proxy_of_the_environment_sees_a_message(
    open_endpoint: Open, open_sender: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = await open_endpoint(answering(200))
    endpoint = await open_endpoint(answering(200))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    assert (await open_sender().send(endpoint.url, {}, BODY)).delivered
    assert (len(proxy.taken), len(endpoint.taken)) == (0, 1)


async def test_cookies_are_not_kept(open_endpoint: Open, open_sender: Any) -> None:
    endpoint = await open_endpoint(answering(200, Set_Cookie="who=first; Path=/"))
    sender = open_sender()
    for _ in range(2):
        await sender.send(endpoint.url, {}, BODY)
    assert all("cookie" not in taken for _, taken, _ in endpoint.taken)


async def test_an_endless_answer_is_cut_short(open_endpoint: Open, open_sender: Any) -> None:
    sent = 0

    async def pour(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Encoding": "gzip"})
        await response.prepare(request)
        try:
            while sent < 1 << 30:
                await response.write(b"\0" * 65536)
                sent += 65536
        except ConnectionError:
            ended.set()
        return response

    ended = asyncio.Event()
    endpoint = await open_endpoint(pour)
    result = await open_sender().send(endpoint.url, {}, BODY)
    assert result.delivered
    await asyncio.wait_for(ended.wait(), 20)
    # What lies in the buffers of both kernels comes on top of what was read.
    assert sent < MOST_ANSWER_BYTES + (32 << 20)


async def test_an_endpoint_that_does_not_answer_is_left(
    open_endpoint: Open, open_sender: Any
) -> None:
    release = asyncio.Event()

    async def hold(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not release.is_set():
            await response.write(b".")
            await asyncio.sleep(0.05)
        return response

    try:
        for handler in (hold, drip):
            endpoint = await open_endpoint(handler)
            started = time.monotonic()
            result = await open_sender(seconds=0.5).send(endpoint.url, {}, BODY)
            assert result == Result("no answer within 0.5 seconds")
            assert time.monotonic() - started < 5
    finally:
        release.set()


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 999999 x\r\n\r\n"])
async def test_what_is_not_http_is_a_failure(answer: bytes, open_sender: Any) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        result = await open_sender().send(f"http://127.0.0.1:{port}/", {}, BODY)
    assert result.error
    assert "127.0.0.1" not in result.error


async def test_a_closed_port_is_a_failure_that_shows_no_address(open_sender: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    result = await open_sender().send(f"http://127.0.0.1:{port}/", {}, BODY)
    assert result == Result("no connection could be made")


# ---- https ----


@dataclass
class Authority:
    """A certificate authority of our own, and a certificate of it for 127.0.0.1."""

    cafile: Path
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cafile, keyfile = folder / "ca.pem", folder / "key.pem"
    cafile.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    keyfile.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cafile, keyfile)
    return Authority(cafile, context)


async def test_https_needs_a_certificate_that_is_trusted_and_of_this_host(
    authority: Authority, open_endpoint: Open, open_sender: Any
) -> None:
    endpoint = await open_endpoint(answering(200), authority.context)
    named = endpoint.url.replace("127.0.0.1", "localhost")
    only_https = Destinations(allow=["127.0.0.0/8"])
    trusting = open_sender(only_https, cafile=str(authority.cafile))
    assert (await trusting.send(named, {}, BODY)).delivered
    for sender, url in ((open_sender(only_https), named), (trusting, endpoint.url)):
        assert "certificate" in (await sender.send(url, {}, BODY)).error
    assert len(endpoint.taken) == 1
    plain = await open_endpoint(answering(200))
    result = await trusting.send(plain.url.replace("http", "https"), {}, BODY)
    assert result.error == "no TLS connection could be made"


async def test_a_redirect_never_leads_from_https_to_http(
    authority: Authority, open_endpoint: Open, open_sender: Any
) -> None:
    plain = await open_endpoint(answering(200))
    endpoint = await open_endpoint(answering(307, Location=plain.url), authority.context)
    sender = open_sender(cafile=str(authority.cafile))
    result = await sender.send(endpoint.url.replace("127.0.0.1", "localhost"), {}, BODY)
    assert result.error == "a redirect from https to something else"
    assert plain.taken == []


# ---- secrets at rest ----


def test_secrets_are_unreadable_where_they_rest_and_keys_can_be_changed() -> None:
    from cryptography.fernet import Fernet

    first, second = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    secret = new_secret()
    stored = Vault([first]).closed(secret)
    assert secret not in stored
    assert secret.removeprefix("whsec_") not in stored
    assert Vault([second, first]).opened(stored) == secret
    assert Vault([first]).opened(Vault().closed(secret)) == secret
    for vault in (Vault(), Vault([second])):
        with pytest.raises(Locked) as locked:
            vault.opened(stored)
        assert secret not in str(locked.value)
    with pytest.raises(ValueError) as refused:
        Vault(["MARKER"])
    assert "MARKER" not in str(refused.value)
