"""TLS to Keystone: whom it is asked from, whom it lets in, and what the log says of trouble."""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from calotype.ops.settings.settings import SettingsError

pytestmark = pytest.mark.slow


@pytest.fixture
def log_url(tmp_path: Path) -> str:
    """These stories are about Keystone and not about the log: one kind is enough."""
    return f"sqlite:///{tmp_path / 'log.sqlite'}"


class Authority:
    """A certificate authority of our own, which writes its certificates into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = self._signed(self._name, self._key, x509.BasicConstraints(True, None))
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(own.public_bytes(Encoding.PEM))

    def certificate(self, host: str) -> tuple[Path, Path]:
        """The files of a new certificate for a host, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            general: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            general = x509.DNSName(host)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        made = self._signed(name, key, x509.SubjectAlternativeName([general]))
        certificate, secret = (self._folder / f"{host}.{end}" for end in ("crt", "key"))
        certificate.write_bytes(made.public_bytes(Encoding.PEM))
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, secret

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(extension, critical=True)
            .sign(self._key, hashes.SHA256())
        )


@dataclass(frozen=True)
class Front:
    """Where Keystone is reached over TLS."""

    url: str


@asynccontextmanager
async def front(
    keystone: Any, authority: Authority, *, host: str = "127.0.0.1", clients: Path | None = None
) -> AsyncIterator[Front]:
    """Ends TLS before the real Keystone, with a certificate for `host`.

    With `clients`, only those come in whose certificate is of that authority.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=clients)
    context.load_cert_chain(*authority.certificate(host))
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    behind = urlsplit(keystone.server.url).port

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_keystone, to_keystone = await asyncio.open_connection("127.0.0.1", behind)
        await asyncio.gather(pass_on(reader, to_keystone), pass_on(from_keystone, writer))

    server = await asyncio.start_server(visited, "127.0.0.1", 0, ssl=context)
    try:
        yield Front(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v3")
    finally:
        server.close()


@pytest.fixture
def ask(open_cloud: Any, keystone: Any) -> Callable[..., Any]:
    """The status of a request with a good token, at an application with such settings."""

    async def ask(url: str, **settings: Any) -> int:
        table = {**keystone.settings, "url": url, "retries": 0, **settings}
        cloud = await open_cloud(identity={"kind": "keystone"}, keystone=table)
        answer = await cloud.admin("GET", "/v2/images", X_Auth_Token=keystone.token("member"))
        assert isinstance(answer.status, int)
        return answer.status

    return ask


async def test_keystone_is_asked_where_its_certificate_is_of_the_authority(ask, keystone, tmp_path):
    authority = Authority(tmp_path, "ours")
    async with front(keystone, authority) as there:
        assert await ask(there.url, cafile=str(authority.file)) == 200


async def test_another_authority_or_host_is_503_and_a_line_that_says_so(
    ask, keystone, tmp_path, capfd
):
    authority, other = Authority(tmp_path, "ours"), Authority(tmp_path, "another")
    cafile = str(authority.file)
    async with front(keystone, other) as there:
        for settings in ({"cafile": cafile}, {}):
            assert await ask(there.url, **settings) == 503
            said = capfd.readouterr().out
            assert "keystone cannot be asked" in said
            assert "CERTIFICATE_VERIFY_FAILED" in said
        assert await ask(there.url, insecure=True) == 200
    async with front(keystone, authority, host="keystone.example.org") as there:
        assert await ask(there.url, cafile=cafile) == 503
        assert "certificate is not valid for" in capfd.readouterr().out


async def test_keystone_may_want_a_certificate_of_ours(ask, keystone, tmp_path, capfd):
    authority = Authority(tmp_path, "ours")
    cafile = str(authority.file)
    async with front(keystone, authority, clients=authority.file) as there:
        assert await ask(there.url, cafile=cafile) == 503
        said = capfd.readouterr().out
        assert "keystone cannot be asked" in said
        assert "keystone.certfile" in said
        certificate, key = authority.certificate("calotype")
        shown = {"cafile": cafile, "certfile": str(certificate)}
        assert await ask(there.url, **shown, keyfile=str(key)) == 200
        both = tmp_path / "both.pem"
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        assert await ask(there.url, cafile=cafile, certfile=str(both)) == 200
        stranger, key = Authority(tmp_path, "another").certificate("stranger")
        shown = {"cafile": cafile, "certfile": str(stranger), "keyfile": str(key)}
        assert await ask(there.url, **shown) == 503


async def test_files_that_cannot_be_used_are_named_at_start(ask, tmp_path):
    authority = Authority(tmp_path, "ours")
    certificate, _ = authority.certificate("one")
    _, key = authority.certificate("two")
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("no certificate")
    for settings in (
        {"cafile": str(tmp_path / "missing")},
        {"cafile": str(nonsense)},
        {"certfile": str(certificate), "keyfile": str(key)},
        {"certfile": str(certificate)},
    ):
        with pytest.raises(SettingsError, match="keystone.cafile, certfile, keyfile"):
            await ask("https://127.0.0.1:1/v3", **settings)
