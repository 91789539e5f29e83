"""The settings of `[identity]`, `[http_basic]` and `[keystone]`."""

from typing import Literal

from pydantic import Field, field_validator

from calotype.ops.settings.table import Table, TlsClient


class Identity(Table):
    """`[identity]`: who asks."""

    kind: Literal["none", "headers", "http_basic", "keystone"] = "none"
    """none: everybody is the user below, an administrator. headers: X-User-Id, X-Project-Id and
    X-Roles are believed; only for a listener that nobody but a trusted proxy reaches. http_basic:
    names and passwords of an htpasswd file. keystone: tokens, which Keystone is asked about."""
    user: str = "admin"
    """none: the user that everybody is."""
    project: str = "default"
    """none: the project that everybody acts in, and that owns new images."""


class Account(Table):
    """`[http_basic.users.NAME]`: what one user is, where that differs from all others."""

    project: str | None = None
    """The project that the user acts in, and that owns new images."""
    roles: list[str] | None = None
    """The user's roles; admin implies manager, that member, and that reader."""


class HttpBasic(Table):
    """`[http_basic]`: users with passwords in a file, where there is no Keystone."""

    file: str = ""
    """htpasswd file with bcrypt hashes (`htpasswd -B`); read again when it changes."""
    project: str = "default"
    """The project of users that have none of their own below."""
    roles: list[str] = ["member"]
    """The roles of users that have none of their own below."""
    users: dict[str, Account] = {}
    """Projects and roles of single users: `[http_basic.users.NAME]` with `project` and `roles`."""
    cache_seconds: float = Field(3600.0, ge=0)
    """How long a right password is not checked again; a change of the file ends that at once."""
    cache_entries: int = Field(10_000, ge=1)
    """How many passwords a process remembers, as keyed digests."""


class Keystone(TlsClient):
    """`[keystone]`: the identity service that tokens are of."""

    url: str = ""
    """URL of its API, such as https://keystone.example.org:5000/v3."""
    public_url: str = ""
    """Where clients get tokens, for WWW-Authenticate; empty = the URL above."""
    username: str = ""
    """Who we are there, with the role service; or use an application credential."""
    password: str = Field("", repr=False)
    """Our password; better given in the environment."""
    user_domain: str = "Default"
    """Name of the domain of our user."""
    project: str = "service"
    """Name of the project that we act in."""
    project_domain: str = "Default"
    """Name of the domain of that project."""
    application_credential_id: str = ""
    """Application credential to use instead of name and password."""
    application_credential_secret: str = Field("", repr=False)
    """Its secret; better given in the environment."""
    service_type: str = "image"
    """Our type of service, which access rules of application credentials name."""
    service_token_roles: list[str] = ["service"]
    """Roles that let a service go on after the end of a user's token."""
    service_token_roles_required: bool = True
    """Refuse service tokens without such a role."""
    cache_seconds: float = Field(300.0, ge=0)
    """How long a valid token is not asked about again; so long a revoked one may still be used."""
    cache_entries: int = Field(10_000, ge=1)
    """How many tokens a process remembers."""
    timeout_seconds: float = Field(10.0, gt=0)
    """How long one answer may take."""
    retries: int = Field(2, ge=0, le=10)
    """How often a question is repeated that got no answer, before clients get 503."""

    @field_validator("url", "public_url")
    @classmethod
    def _plain(cls, url: str) -> str:
        if url and (not url.startswith(("http://", "https://")) or "@" in url):
            raise ValueError("use http(s)://HOST:PORT/v3, without a user or password")
        return url.rstrip("/")
