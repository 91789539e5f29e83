"""From settings to the part that finds out who calls."""

import ssl
from typing import Any

from calotype.http.identity.basic import BasicIdentity
from calotype.http.identity.identity import Everybody, Identity, TrustedHeaders
from calotype.http.identity.keystone import KeystoneIdentity
from calotype.http.identity.keystone_calls import Keystone
from calotype.ops.settings import identity as tables
from calotype.ops.settings.htpasswd import load_logins
from calotype.ops.settings.settings import Settings, SettingsError


def identity_of(settings: Settings) -> Identity:
    """What `[identity] kind` names. Raises SettingsError when a file that it needs is unusable."""
    kind = settings.identity.kind
    if kind == "headers":
        return TrustedHeaders()
    if kind == "http_basic":
        return BasicIdentity(load_logins(settings.http_basic), settings.http_basic)
    if kind == "keystone":
        return _keystone_identity(settings.keystone)
    return Everybody(settings.identity.user, settings.identity.project)


def keystone_of(table: tables.Keystone, *, system_scope: bool = False) -> Keystone:
    """Who speaks to the Keystone of `[keystone]`, with a token for its project or the system.

    Raises SettingsError for certificates that cannot be used.
    """
    url = table.url if table.url.endswith("/v3") else f"{table.url}/v3"
    return Keystone(
        url,
        _authentication(table, system_scope),
        timeout_seconds=table.timeout_seconds,
        retries=table.retries,
        tls=_tls(table),
    )


def _keystone_identity(table: tables.Keystone) -> KeystoneIdentity:
    keystone = keystone_of(table)
    return KeystoneIdentity(keystone, table, challenge_url=table.public_url or keystone.url)


def _authentication(table: tables.Keystone, system_scope: bool) -> dict[str, Any]:
    """The body of the request for our own token; an application credential goes first."""
    if table.application_credential_id:
        credential = {
            "id": table.application_credential_id,
            "secret": table.application_credential_secret,
        }
        identity = {"methods": ["application_credential"], "application_credential": credential}
        return {"auth": {"identity": identity}}
    user = {
        "name": table.username,
        "password": table.password,
        "domain": {"name": table.user_domain},
    }
    project = {"name": table.project, "domain": {"name": table.project_domain}}
    scope = {"system": {"all": True}} if system_scope else {"project": project}
    identity = {"methods": ["password"], "password": {"user": user}}
    return {"auth": {"identity": identity, "scope": scope}}


def _tls(table: tables.Keystone) -> ssl.SSLContext | None:
    if not table.url.startswith("https://"):
        return None
    try:
        return table.tls()
    except OSError as error:
        raise SettingsError(
            f"keystone.cafile, certfile, keyfile: cannot be used: {error}"
        ) from None
