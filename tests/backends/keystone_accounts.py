"""What an administrator does in Keystone: projects, users, roles, endpoints, tokens."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

DOMAIN = "default"


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and what Keystone says of it."""

    id: str
    facts: dict[str, Any]


class Accounts:
    """Speaks to the Keystone at `url` as its user `admin`. Refusals raise urllib's HTTPError."""

    def __init__(self, url: str, admin_password: str) -> None:
        self._url = url
        self._admin = ("admin", admin_password, "admin")
        self._token = ""
        self._roles: dict[str, str] = {}

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        **headers: str,
    ) -> Any:
        """One request as the administrator, or with another token; the answer's JSON."""
        if token is None and not self._token:
            name, password, project = self._admin
            self._token = self.token(name, password, project=project).id
        sent = {"X-Auth-Token": self._token if token is None else token}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self._send(method, path, body, sent)[1]

    def project(self, name: str) -> str:
        """A new project's id."""
        return self._make("project", {"name": name, "domain_id": DOMAIN})

    def user(self, name: str, password: str, grants: dict[str, list[str]]) -> str:
        """A new user's id; `grants` are the names of roles by the id of a project."""
        user = self._make("user", {"name": name, "password": password, "domain_id": DOMAIN})
        for project, roles in grants.items():
            for role in roles:
                self.grant(f"/projects/{project}", user, role)
        return user

    def grant(self, scope: str, user: str, role: str) -> None:
        """Gives a user a role on `/projects/ID`, `/domains/ID` or `/system`."""
        if not self._roles:
            found = self.call("GET", "/roles")["roles"]
            self._roles = {each["name"]: each["id"] for each in found}
        self.call("PUT", f"{scope}/users/{user}/roles/{self._roles[role]}")

    def endpoint(self, url: str, kind: str = "image", name: str = "glance") -> str:
        """Registers a service with this URL in the catalogue; the service's id."""
        service = self._make("service", {"type": kind, "name": name})
        for interface in ("public", "internal", "admin"):
            place = {"interface": interface, "service_id": service, "region_id": "RegionOne"}
            self._make("endpoint", {**place, "url": url})
        return service

    def token(
        self, user: str, password: str, *, project: str | None = None, scope: Any = None
    ) -> Token:
        """A token of a user of the default domain, for a project or another scope, or unscoped."""
        who = {"name": user, "domain": {"id": DOMAIN}, "password": password}
        identity = {"methods": ["password"], "password": {"user": who}}
        if project is not None:
            scope = {"project": {"name": project, "domain": {"id": DOMAIN}}}
        return self.authenticate(identity, scope)

    def authenticate(self, identity: dict[str, Any], scope: Any = None) -> Token:
        """A token for any way of identification."""
        auth = {"identity": identity, **({"scope": scope} if scope else {})}
        headers, body = self._send("POST", "/auth/tokens", {"auth": auth}, {})
        return Token(headers["X-Subject-Token"], body["token"])

    def revoke(self, token: str) -> None:
        self.call("DELETE", "/auth/tokens", X_Subject_Token=token)

    def _make(self, kind: str, fields: dict[str, Any]) -> str:
        made: str = self.call("POST", f"/{kind}s", {kind: fields})[kind]["id"]
        return made

    def _send(
        self, method: str, path: str, body: object, headers: dict[str, str]
    ) -> tuple[Any, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
            return answer.headers, json.loads(content) if content else None
