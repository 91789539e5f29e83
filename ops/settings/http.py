"""The settings of `[http]` and `[cors]`."""

from pydantic import Field, field_validator

from calotype.ops.settings.table import Networks, Table


class Http(Table):
    """`[http]`: the listener and what it shows."""

    listen: str = "127.0.0.1:9292"
    """HOST:PORT; port 0 takes a free one."""
    public_endpoint: str = ""
    """Base URL for the versions document, where a proxy stands in front."""
    enable_proxy_headers_parsing: bool = False
    """Believe Forwarded, X-Forwarded-Proto, -Host, -Prefix: links are then those of the proxy."""
    trusted_proxies: Networks = []
    """Networks whose hosts may send these headers, such as 10.0.0.0/8; empty = all hosts."""
    connections: int = Field(0, ge=0)
    """Connections that a process holds; beyond, those idle longest are closed. 0 = half of the
    descriptors that it may open, 32768 at most."""
    body_stall_seconds: float = Field(900.0, gt=0)
    """How long a client may send nothing of a body (then 408), or take nothing of image data."""
    json_body_bytes: int = Field(4 << 20, ge=1 << 10)
    """Bytes of a JSON body at most; longer ones get 413."""
    default_limit: int = Field(25, ge=0)
    """Images on a page when the client names no limit."""
    max_limit: int = Field(1000, ge=1)
    """Images on a page at most."""
    page_bytes: int = Field(16 << 20, ge=1 << 20)
    """A page of a list ends, with a link to the next one, before its images together are larger."""
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


class CrossOrigin(Table):
    """`[cors]`: what pages of other origins may do in a browser; as oslo.middleware's options."""

    allowed_origin: list[str] = []
    """Origins such as https://horizon.example.org; `*` = any; empty = none."""
    allow_credentials: bool = True
    """Let pages send cookies and the browser's own authentication."""
    expose_headers: list[str] = [
        "X-Image-Meta-Checksum", "X-Auth-Token", "X-Subject-Token", "X-Service-Token",
        "X-OpenStack-Request-ID",
    ]  # fmt: skip
    """Headers of answers that pages may read."""
    max_age: int = Field(3600, ge=0)
    """Seconds that browsers remember what is allowed."""
    allow_methods: list[str] = ["GET", "PUT", "POST", "DELETE", "PATCH"]
    """Methods that pages may use."""
    allow_headers: list[str] = [
        "Content-MD5", "X-Image-Meta-Checksum", "X-Storage-Token", "Accept-Encoding",
        "X-Auth-Token", "X-Identity-Status", "X-Roles", "X-Service-Catalog", "X-User-Id",
        "X-Tenant-Id", "X-OpenStack-Request-ID",
    ]  # fmt: skip
    """Headers that pages may send."""
