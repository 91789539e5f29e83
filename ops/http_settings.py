"""The settings of `[http]`."""

from pydantic import BaseModel, ConfigDict, Field, field_validator


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


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
