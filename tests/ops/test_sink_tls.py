"""Sinks speak TLS with real brokers, and only with those whose certificate they trust."""

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from calotype.ops.settings.settings import Settings, SettingsError
from calotype.ops.settings.sinks import NatsSink, RabbitMQSink, SinkSettings
from calotype.ops.wiring.composition import migrate
from calotype.ops.wiring.sinks import check_files, ends_of
from calotype.projections.engine.positions import Positions
from calotype.projections.sinks.contract import Broker, Message, TryLater
from calotype.stores.log.opening import open_log
from tests.backends.nats import Nats
from tests.backends.rabbitmq import RabbitMQ

pytestmark = pytest.mark.slow

MESSAGE = Message(id="1", ordering_key="l", route="calotype.info", kind="k", body=b"{}")


def make_certificates(folder: Path) -> None:
    """An authority, and a certificate of it for 127.0.0.1 that a client may show as well."""
    folder.mkdir(parents=True)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    for name, who, public in (
        ("ca", authority, authority_key.public_key()),
        ("cert", subject, key.public_key()),
    ):
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(who)
            .issuer_name(authority)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (folder / f"{name}.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Any]:
    recorder = open_log(f"sqlite:///{tmp_path / 'log.sqlite'}")
    migrate(recorder)
    yield recorder
    recorder.close_now()


def broker_of(recorder: Any, table: SinkSettings) -> Broker:
    return ends_of(recorder, Positions("0a1b2c3d4e5f"), "s", table).broker


async def check(recorder: Any, table: SinkSettings, folder: Path) -> None:
    """With the authority it works, without it does not, and with any it does again."""
    trusting = broker_of(recorder, table.model_copy(update={"cafile": str(folder / "ca.pem")}))
    await trusting.open()
    await trusting.publish(MESSAGE)
    await trusting.close()
    strange = broker_of(recorder, table)
    with pytest.raises(TryLater, match="(?i)certificate"):
        await strange.open()
    await strange.close()
    careless = broker_of(recorder, table.model_copy(update={"insecure": True}))
    await careless.open()
    await careless.publish(MESSAGE)
    await careless.close()
    showing = {"cafile": str(folder / "ca.pem"), "certfile": str(folder / "cert.pem")}
    showing["keyfile"] = str(folder / "key.pem")
    shown = broker_of(recorder, table.model_copy(update=showing))
    await shown.open()
    await shown.close()


async def test_rabbitmq(recorder: Any, tmp_path: Path) -> None:
    folder = tmp_path / "rabbitmq"
    make_certificates(folder)
    with RabbitMQ(folder) as server:
        await check(recorder, RabbitMQSink(kind="rabbitmq", urls=[server.tls_url]), folder)


async def test_nats(recorder: Any, tmp_path: Path) -> None:
    folder = tmp_path / "nats"
    make_certificates(folder)
    with Nats(folder) as server:
        url = server.url.replace("nats://", "tls://")
        await check(recorder, NatsSink(kind="nats", urls=[url]), folder)


def test_certificates_that_cannot_be_used_are_a_setting_that_is_wrong(recorder: Any) -> None:
    table = NatsSink(kind="nats", urls=["tls://h:4222"], cafile="/nowhere/ca.pem")
    with pytest.raises(SettingsError, match=r"sinks\.s: certificates cannot be used"):
        broker_of(recorder, table)


@pytest.mark.parametrize(
    ("key", "text"),
    [("cafile", "sinks.s: certificates cannot be used"), ("credentials_file", "cannot be read")],
)
def test_files_that_are_not_there_are_found_before_serving(key: str, text: str) -> None:
    sink = {"kind": "nats", "urls": ["tls://h:4222"], key: "/nowhere/file"}
    with pytest.raises(SettingsError, match=text):
        check_files(Settings(sinks={"s": sink}))
