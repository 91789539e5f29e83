"""Which pages of other origins may call the service from a browser: oslo.middleware's rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SIMPLE_HEADERS = (
    "Accept", "Accept-Language", "Content-Type", "Cache-Control", "Content-Language", "Expires",
    "Last-Modified", "Pragma",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cors:
    """The options of `[cors]`, and what answers say by them."""

    allowed_origin: Sequence[str]
    """Origins such as https://horizon.example.org; `*` is any."""
    allow_credentials: bool
    expose_headers: Sequence[str]
    max_age: int
    allow_methods: Sequence[str]
    allow_headers: Sequence[str]

    def headers(self, method: str, asked: Mapping[str, str]) -> dict[str, str]:
        """The headers that an answer gets: none where the request's origin is not allowed."""
        origin = asked.get("Origin", "")
        if origin not in self.allowed_origin:
            if not origin or "*" not in self.allowed_origin:
                return {}
            origin = "*"
        if method == "OPTIONS":
            return self._preflight(origin, asked)
        answer = self._origin(origin)
        if self.expose_headers:
            answer["Access-Control-Expose-Headers"] = ",".join(self.expose_headers)
        return answer

    def _preflight(self, origin: str, asked: Mapping[str, str]) -> dict[str, str]:
        """What a browser asks before it calls: all that it wants, or nothing at all."""
        method = asked.get("Access-Control-Request-Method")
        listed = asked.get("Access-Control-Request-Headers", "").split(",")
        wanted = [name.strip() for name in listed if name.strip()]
        permitted = {name.upper() for name in (*self.allow_headers, *_SIMPLE_HEADERS)}
        if method not in self.allow_methods or any(n.upper() not in permitted for n in wanted):
            return {}
        answer = self._origin(origin)
        if self.max_age:
            answer["Access-Control-Max-Age"] = str(self.max_age)
        answer["Access-Control-Allow-Methods"] = str(method)
        if wanted:
            answer["Access-Control-Allow-Headers"] = ",".join(wanted)
        return answer

    def _origin(self, origin: str) -> dict[str, str]:
        answer = {"Access-Control-Allow-Origin": origin}
        if self.allow_credentials:
            answer["Access-Control-Allow-Credentials"] = "true"
        return answer
