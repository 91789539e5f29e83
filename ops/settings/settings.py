"""Settings: one TOML file plus environment variables, validated at start.

A variable's name is `CALOTYPE_` and the key in capitals, with `__` between table and key:
`[log] url` is `CALOTYPE_LOG__URL`. The environment wins over the file, options over both.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from calotype.ops.settings.extras import lacking
from calotype.ops.settings.http import CrossOrigin, Http
from calotype.ops.settings.identity import HttpBasic, Identity, Keystone
from calotype.ops.settings.leases import Leases
from calotype.ops.settings.limits import Limits
from calotype.ops.settings.log import Log
from calotype.ops.settings.sinks import SinkName, SinkSettings, check_sinks
from calotype.ops.settings.table import Table
from calotype.ops.settings.webhooks import Webhooks

FormatName = Annotated[str, Field(pattern="^[a-z0-9._-]{1,20}$")]
"""The name of a format, as a column of Glance's database takes it."""


class SettingsError(Exception):
    """The settings cannot be used; the message names each key and the fix."""


class Store(Table):
    """`[store]`: where image data goes."""

    name: str = "default"
    """The name of the store, as locations show it."""
    kind: Literal["file", "s3"] = "file"
    """file: a directory; s3: a bucket."""
    deadline_seconds: float = Field(60.0, ge=1.0)
    """How long the store may make no progress before requests get 503; a large step gets more."""
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


class Policy(Table):
    """`[policy]`: who may do what, in the language of oslo.policy."""

    file: str = ""
    """YAML or JSON file with the rules that differ from the defaults; empty = none do."""
    directories: list[str] = []
    """Directories with more such files; read after the file in order of names, later ones win."""
    enforce_new_defaults: bool = True
    """false: what held before the personas reader and member holds too, for who may own."""


class PropertyProtections(Table):
    """`[property_protections]`: which custom properties who may create, read, update, delete."""

    file: str = ""
    """File with a section for each pattern of names; empty = no property is protected."""
    format: Literal["roles", "policies"] = "roles"
    """What the file names: roles, or rules of the policy."""


class Deletion(Table):
    """`[deletion]`: how long what was deleted can be had back."""

    retention_seconds: float = Field(0.0, ge=0, le=100 * 365 * 86400)
    """How long a deleted image can be restored, with its data; 0 = its data goes at once."""


class Formats(Table):
    """`[formats]`: formats of images, and how strictly content is judged (container `bare`)."""

    disk_formats: list[FormatName] = [
        "ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop",
    ]  # fmt: skip
    """The disk_format that images may have; `gpt` and `luks` are recognised too."""
    container_formats: list[FormatName] = [
        "ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed",
    ]  # fmt: skip
    """The container_format that images may have."""
    require_match: bool = True
    """Refuse content that is not of the claimed disk format. Unsafe content always is refused."""
    gpt_safety_checks_nonfatal: list[str] = []
    """Names of partition table checks that may fail, such as `mbr`."""


class Audit(Table):
    """`[audit]`: tamper evidence."""

    seal: bool = True
    """Keep a Merkle tree over the events, and sign checkpoints of it where there is a key."""
    key_file: str = ""
    """File with the key that signs; empty = `audit.key` in the data directory."""
    signing_key: str = Field("", repr=False)
    """The key itself instead of a file; better given in the environment."""
    downloads: bool = False
    """Record every download as an event: who got how many bytes of which image."""


class Followers(Table):
    """`[followers]`: what is made of the log in the background. It costs a share of the CPU."""

    versions: bool = True
    """Keep the versions of every image, for lists and images as of a moment."""
    audience: bool = True
    """Keep who may be told of every event, for the feed."""


class Settings(BaseSettings):
    """All settings of one Calotype installation."""

    model_config = SettingsConfigDict(
        env_prefix="CALOTYPE_", env_nested_delimiter="__", extra="forbid"
    )

    data: str = "./calotype-data"
    """Directory for the embedded log and file store."""
    workers: int = Field(1, ge=1, le=256)
    """Processes that share the port."""
    worker_stall_seconds: float = Field(30.0, ge=0)
    """One of several processes that gives no sign of life for so long is replaced; 0 = never."""
    hashing_algorithm: Literal["sha512", "sha256", "sha384", "sha224", "sha1"] = "sha512"
    """What os_hash_value is made with, besides the md5 of checksum."""
    log: Log = Log()
    leases: Leases = Leases()
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
    cors: CrossOrigin = CrossOrigin()
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
        return self.store.model_dump(exclude={"name", "kind", "directory", "deadline_seconds"})


def load_settings(file: Path | None = None, **options: Any) -> Settings:
    """Settings from the file, the environment and `options` (None = not given).

    Raises SettingsError naming each key that is wrong, or whose library is not installed.
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
        settings = Here(**given)
    except ValidationError as error:
        raise SettingsError("\n".join(_line(detail) for detail in error.errors())) from None
    sinks = {name: sink.kind for name, sink in settings.sinks.items()}
    if missing := lacking(settings.log_url(), settings.store.kind, sinks):
        raise SettingsError("\n".join(missing))
    return settings


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
