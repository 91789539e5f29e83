"""The users of `[http_basic]`: names and bcrypt hashes of a file, with projects and roles.

The file is what `htpasswd -B` writes: a line `NAME:HASH` for each user; empty lines and lines that
begin with `#` are ignored. It is read at start, and again when it changes; one that cannot be
used changes nothing, and the users that were known stay.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import structlog

from calotype.commands.policy.actor import Actor, with_implied
from calotype.commands.policy.policy import DEFAULT_POLICY
from calotype.http.identity.basic import Login
from calotype.ops.settings.file_watching import watch
from calotype.ops.settings.identity import HttpBasic
from calotype.ops.settings.settings import SettingsError

HIGHEST_COST = 15
"""Each step doubles the time of a check, which takes seconds from here on."""

_HASH = re.compile(r"\$2[yb]\$(\d\d)\$[./A-Za-z0-9]{53}")
_OTHERS = {
    "$apr1$": "MD5",
    "{SHA}": "SHA-1",
    "$5$": "SHA-256",
    "$6$": "SHA-512",
    "$2a$": "an old form of bcrypt",
}

log = structlog.get_logger("calotype.basic")


def load_logins(settings: HttpBasic) -> dict[str, Login]:
    """The users by name. Raises SettingsError naming the line that cannot be used."""
    hashes = _hashes(Path(settings.file))
    unknown = sorted(settings.users.keys() - hashes.keys())
    if unknown:
        log.warning("no such user in the password file", file=settings.file, users=unknown)
    return {name: Login(text, _actor(settings, name)) for name, text in hashes.items()}


async def watch_logins(settings: HttpBasic, use: Callable[[Mapping[str, Login]], None]) -> None:
    """Puts a changed file to use within seconds, until cancelled."""
    await watch("users", lambda: [Path(settings.file)], partial(load_logins, settings), use)


def _actor(settings: HttpBasic, name: str) -> Actor:
    own = settings.users.get(name)
    project = settings.project if own is None or own.project is None else own.project
    roles = settings.roles if own is None or own.roles is None else own.roles
    return Actor(
        name, project, with_implied({role.strip().lower() for role in roles}), policy=DEFAULT_POLICY
    )


def _hashes(path: Path) -> dict[str, bytes]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"http_basic.file: {path}: cannot be read: {error}") from None
    hashes: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, text = line.rstrip().partition(":")
        problem = _problem(name, text) if colon else "is not of the form NAME:HASH"
        if name in hashes:
            problem = f"names {name!r} a second time"
        if problem:
            # The hash itself stays out of it: messages are read by more people than the file.
            raise SettingsError(f"http_basic.file: {path}, line {number}: {problem}")
        hashes[name] = text.encode()
    if not hashes:
        raise SettingsError(f"http_basic.file: {path}: names no user; add one with `htpasswd -B`")
    return hashes


def _problem(name: str, text: str) -> str:
    """What is wrong with a line, or nothing."""
    match = _HASH.fullmatch(text)
    if not name:
        return "has no name before the colon"
    if match is None:
        kind = next((kind for start, kind in _OTHERS.items() if text.startswith(start)), "")
        found = f"is {kind}" if kind else "is not bcrypt"
        return f"the hash of {name!r} {found}; make a new one with `htpasswd -B`"
    if not 4 <= int(match[1]) <= HIGHEST_COST:
        return f"the hash of {name!r} has cost {match[1]}; use 4 to {HIGHEST_COST}"
    return ""
