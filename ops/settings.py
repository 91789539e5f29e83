"""Settings: one TOML file plus environment variables, validated at start.

A variable's name is `CALOTYPE_` and the key in capitals, with `__` between table and key:
`[log] url` is `CALOTYPE_LOG__URL`. The environment wins over the file, options over both.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from calotype.ops.limit_settings import Limits
from calotype.ops.sink_settings import SinkName, SinkSettings, check_sinks
from calotype.ops.webhook_settings import Webhooks


class SettingsError(Exception):
    """The settings cannot be used; the message names each key and the fix."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Log(_Table):
    """`[log]`: the event log."""

    url: str = ""
    """sqlite:///path or postgresql://...; empty = SQLite in the data directory."""
    queue_limit: int = Field(4096, ge=1)
    """Changes waiting to be written; more are refused with 503."""

    @field_validator("url")
    @classmethod
    def _known(cls, url: str) -> str:
        if url and not url.startswith(("sqlite:///", "postgresql://", "postgres://")):
            raise ValueError("use sqlite:///path or postgresql://user:password@host/database")
        return url


class Store(_Table):
    """`[store]`: where image data goes."""

    name: str = "default"
    """The name of the store, as locations show it."""
    kind: Literal["file", "s3"] = "file"
    """file: a directory; s3: a bucket."""
    directory: str = ""
    """file: the directory; empty = `images` in the data directory."""
    endpoint: str = ""
    """s3: URL of the service, such as https://s3.example.org."""
    bucket: str = ""
    """s3: the bucket."""
    access_key: str = ""
    """s3: who we are there."""
    secret_key: str = Field("", repr=False)
    """s3: the secret; better given in the environment."""
    region: str = "us-east-1"
    """s3: the region, which requests are signed for."""
    prefix: str = ""
    """s3: put before every key, such as `images/`."""
    part_size_bytes: int = Field(8 << 20, ge=5 << 20)
    """s3: size of the parts of a multipart upload; each upload holds one in memory."""
    create_bucket: bool = False
    """s3: make the bucket at start if it is not there."""
    timeout_seconds: float = Field(30.0, gt=0)
    """s3: how long one answer may take."""
    connections: int = Field(32, ge=1)
    """s3: how many connections a process keeps."""

    @model_validator(mode="after")
    def _complete(self) -> "Store":
        if self.kind == "s3":
            for key in ("endpoint", "bucket", "access_key", "secret_key"):
                if not getattr(self, key):
                    raise ValueError(f"kind = 's3' needs '{key}'; set it in [store]")
        return self


class Identity(_Table):
    """`[identity]`: who asks."""

    kind: Literal["none", "headers", "http_basic", "keystone"] = "none"
    """none: everybody is the user below, an administrator. headers: X-User-Id, X-Project-Id and
    X-Roles are believed; only for a listener that nobody but a trusted proxy reaches. http_basic:
    names and passwords of an htpasswd file. keystone: tokens, which Keystone is asked about."""
    user: str = "admin"
    """none: the user that everybody is."""
    project: str = "default"
    """none: the project that everybody acts in, and that owns new images."""


class Account(_Table):
    """`[http_basic.users.NAME]`: what one user is, where that differs from all others."""

    project: str | None = None
    """The project that the user acts in, and that owns new images."""
    roles: list[str] | None = None
    """The user's roles; admin implies manager, that member, and that reader."""


class HttpBasic(_Table):
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


class Keystone(_Table):
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
    cafile: str = ""
    """File with the authorities whose certificates are trusted; empty = those of the system."""
    certfile: str = ""
    """File with the certificate that we show, if Keystone wants one."""
    keyfile: str = ""
    """File with its key; empty = the key is in the same file."""
    insecure: bool = False
    """Trust any certificate: only for trying things out."""

    @field_validator("url", "public_url")
    @classmethod
    def _plain(cls, url: str) -> str:
        if url and (not url.startswith(("http://", "https://")) or "@" in url):
            raise ValueError("use http(s)://HOST:PORT/v3, without a user or password")
        return url.rstrip("/")


class Policy(_Table):
    """`[policy]`: who may do what, in the language of oslo.policy."""

    file: str = ""
    """YAML or JSON file with the rules that differ from the defaults; empty = none do."""
    directories: list[str] = []
    """Directories with more such files; read after the file in order of names, later ones win."""
    enforce_new_defaults: bool = True
    """false: what held before the personas reader and member holds too, for who may own."""


class PropertyProtections(_Table):
    """`[property_protections]`: which custom properties who may create, read, update, delete."""

    file: str = ""
    """File with a section for each pattern of names; empty = no property is protected."""
    format: Literal["roles", "policies"] = "roles"
    """What the file names: roles, or rules of the policy."""


class Deletion(_Table):
    """`[deletion]`: how long what was deleted can be had back."""

    retention_seconds: float = Field(0.0, ge=0, le=100 * 365 * 86400)
    """How long a deleted image can be restored, with its data; 0 = its data goes at once."""


class Formats(_Table):
    """`[formats]`: how strictly the content of uploads is judged (container format `bare`)."""

    require_match: bool = True
    """Refuse content that is not of the claimed disk format. Unsafe content always is refused."""
    gpt_safety_checks_nonfatal: list[str] = []
    """Names of partition table checks that may fail, such as `mbr`."""


class Audit(_Table):
    """`[audit]`: tamper evidence."""

    seal: bool = True
    """Keep a Merkle tree over the events, and sign checkpoints of it where there is a key."""
    key_file: str = ""
    """File with the key that signs; empty = `audit.key` in the data directory."""
    signing_key: str = Field("", repr=False)
    """The key itself instead of a file; better given in the environment."""
    downloads: bool = False
    """Record every download as an event: who got how many bytes of which image."""


class Followers(_Table):
    """`[followers]`: what is made of the log in the background. It costs a share of the CPU."""

    versions: bool = True
    """Keep the versions of every image, for lists and images as of a moment."""
    audience: bool = True
    """Keep who may be told of every event, for the feed."""


class Http(_Table):
    """`[http]`: the listener and what it shows."""

    listen: str = "127.0.0.1:9292"
    """HOST:PORT; port 0 takes a free one."""
    public_endpoint: str = ""
    """Base URL for the versions document, where a proxy stands in front."""
    default_limit: int = Field(25, ge=0)
    """Images on a page when the client names no limit."""
    max_limit: int = Field(1000, ge=1)
    """Images on a page at most."""
    show_image_direct_url: bool = False
    """Show direct_url in images."""
    show_multiple_locations: bool = False
    """Show locations in images and let clients change them."""
    disable_file: str = ""
    """While this file exists, /healthcheck answers 503."""
    drain_seconds: float = Field(0.0, ge=0)
    """After SIGTERM: how long /healthcheck says 503 while new requests are still taken."""
    grace_seconds: float = Field(30.0, ge=0)
    """After that: how long running requests may take to finish."""
    access_log: bool = False
    """Log a line for every request."""

    @field_validator("listen")
    @classmethod
    def _address(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError("use HOST:PORT, such as 127.0.0.1:9292")
        return listen


class Settings(BaseSettings):
    """All settings of one Calotype installation."""

    model_config = SettingsConfigDict(
        env_prefix="CALOTYPE_", env_nested_delimiter="__", extra="forbid"
    )

    data: str = "./calotype-data"
    """Directory for the embedded log and file store."""
    workers: int = Field(1, ge=1, le=256)
    """Processes that share the port."""
    hashing_algorithm: Literal["sha512", "sha256", "sha384", "sha224", "sha1"] = "sha512"
    """What os_hash_value is made with, besides the md5 of checksum."""
    log: Log = Log()
    store: Store = Store()
    identity: Identity = Identity()
    http_basic: HttpBasic = HttpBasic()
    keystone: Keystone = Keystone()
    policy: Policy = Policy()
    property_protections: PropertyProtections = PropertyProtections()
    limits: Limits = Limits()
    deletion: Deletion = Deletion()
    formats: Formats = Formats()
    audit: Audit = Audit()
    followers: Followers = Followers()
    webhooks: Webhooks = Webhooks()
    http: Http = Http()
    sinks: dict[SinkName, SinkSettings] = {}
    """Where the log is delivered to."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @model_validator(mode="after")
    def _identifiable(self) -> "Settings":
        keystone = self.keystone
        if self.identity.kind == "http_basic" and not self.http_basic.file:
            raise ValueError("identity.kind = 'http_basic' needs http_basic.file; set it")
        by_password = keystone.username and keystone.password
        if self.limits.system_scope and (keystone.application_credential_id or not by_password):
            raise ValueError(
                "limits.system_scope = true needs keystone.username and keystone.password: "
                "application credentials are of a project"
            )
        asks_keystone = {
            "identity.kind = 'keystone'": self.identity.kind == "keystone",
            "limits.keystone = true": self.limits.keystone,
        }
        for name in [name for name, asks in asks_keystone.items() if asks]:
            if not keystone.url:
                raise ValueError(f"{name} needs keystone.url; set it")
            if not by_password and not (
                keystone.application_credential_id and keystone.application_credential_secret
            ):
                raise ValueError(
                    f"{name} needs keystone.username and keystone.password, or "
                    "keystone.application_credential_id and keystone.application_credential_secret"
                )
        return self

    @model_validator(mode="after")
    def _deliverable(self) -> "Settings":
        check_sinks(self.sinks, versions_kept=self.followers.versions)
        return self

    def log_url(self) -> str:
        """The log's URL, with the embedded default filled in."""
        return self.log.url or f"sqlite:///{Path(self.data).absolute() / 'log.sqlite'}"

    def store_options(self) -> dict[str, Any]:
        """The options of the store's driver, with the embedded default filled in."""
        if self.store.kind == "file":
            directory = self.store.directory or str(Path(self.data).absolute() / "images")
            return {"directory": directory}
        return self.store.model_dump(exclude={"name", "kind", "directory"})


def load_settings(file: Path | None = None, **options: Any) -> Settings:
    """Settings from the file, the environment and `options` (None = not given).

    Raises SettingsError naming each key that is wrong.
    """
    given: dict[str, Any] = {}
    for path, value in options.items():
        if value is not None:
            table, _, key = path.rpartition("__")
            (given.setdefault(table, {}) if table else given)[key] = value
    if file is not None:
        _check_readable(file)

    class Here(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        return Here(**given)
    except ValidationError as error:
        raise SettingsError("\n".join(_line(detail) for detail in error.errors())) from None


def _check_readable(file: Path) -> None:
    try:
        tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: is not valid TOML: {error}") from None


def _line(detail: Any) -> str:
    where = list(detail["loc"])
    if where[:1] == ["sinks"] and where[2:3] and where[2] in ("rabbitmq", "nats"):
        del where[2]  # The kind, which is no part of the key.
    key = ".".join(map(str, where)) or "settings"
    if detail["type"] == "extra_forbidden":
        return f"{key}: there is no such setting; remove it or check its spelling"
    return f"{key}: {detail['msg'].removeprefix('Value error, ')}"
