"""What tables of settings share: no unknown keys, and how networks, URLs and TLS are given."""

import ssl
from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Table(BaseModel):
    """A table of settings, which refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid")


class TlsClient(Table):
    """A table of a service that this process may call by TLS."""

    cafile: str = ""
    """File with the authorities whose certificates are trusted; empty = those of the system."""
    certfile: str = ""
    """File with the certificate that we show, if the other side wants one."""
    keyfile: str = ""
    """File with its key; empty = the key is in the same file."""
    insecure: bool = False
    """Trust any certificate: only for trying things out."""

    def tls(self) -> ssl.SSLContext:
        """The context for connections. Raises OSError for a file that cannot be used."""
        context = ssl.create_default_context(cafile=self.cafile or None)
        if self.certfile:
            context.load_cert_chain(self.certfile, self.keyfile or None)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _checked_networks(texts: list[str]) -> list[str]:
    for text in texts:
        try:
            ip_network(text)
        except ValueError:
            raise ValueError(f"'{text}' is no network such as 10.1.0.0/16") from None
    return texts


Networks = Annotated[list[str], AfterValidator(_checked_networks)]
"""IP networks, as text."""


def url_of(*starts: str, form: str) -> AfterValidator:
    """Refuses text, unless empty, that begins with none of `starts`; `form` is what to write."""

    def checked(url: str) -> str:
        if url and not url.startswith(starts):
            raise ValueError(f"use {form}")
        return url

    return AfterValidator(checked)
