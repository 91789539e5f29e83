"""Image data as objects in one bucket of a server that speaks S3."""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

import urllib3
from minio import Minio

from calotype.stores.images.driver import (
    DataExists,
    DataMissing,
    Sink,
    Source,
    StoredObject,
    StoreError,
    StoreForbidden,
    StoreUnavailable,
)
from calotype.stores.images.keys import MARKER, checked_key, is_key, key_in
from calotype.stores.images.s3.answers import FAILURES, refusal_of
from calotype.stores.images.s3.reading import S3Source
from calotype.stores.images.s3.writing import S3Sink

LEAST_PART_SIZE_BYTES = 5 << 20
"""S3 refuses smaller parts, except for the last one."""
MOST_PART_SIZE_BYTES = 1 << 30
"""A part is held in memory."""
_LONGEST_MARKER_BYTES = 1 << 16
_DEFAULTS: dict[str, Any] = {
    "region": "us-east-1",
    "prefix": "",
    "part_size_bytes": 8 << 20,
    "create_bucket": False,
    "timeout_seconds": 30.0,
    "connections": 32,
}
_NEEDED = ("endpoint", "bucket", "access_key", "secret_key")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)
_PREFIX = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)*(?:[A-Za-z0-9][A-Za-z0-9._-]*)?", re.ASCII)


def open_s3(options: Mapping[str, Any]) -> "S3Driver":
    """The driver for these options, those of `S3Driver`. Raises ValueError for a wrong one."""
    strange = set(options) - set(_DEFAULTS) - set(_NEEDED)
    if strange:
        known = ", ".join((*_NEEDED, *_DEFAULTS))
        raise ValueError(f"{min(strange)}: an S3 store has no such option; it has {known}.")
    chosen = {**_DEFAULTS, **options}
    _check_texts(chosen)
    for name, kinds, least, most in (
        ("part_size_bytes", int, LEAST_PART_SIZE_BYTES, MOST_PART_SIZE_BYTES),
        ("timeout_seconds", (int, float), 0.1, 3600),
        ("connections", int, 1, 1000),
    ):
        value = chosen[name]
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            raise ValueError(f"{name}: {value!r} must be a number from {least} to {most}.")
    if not isinstance(chosen["create_bucket"], bool):
        raise ValueError("create_bucket: use true or false.")
    return S3Driver(**chosen)


def _check_texts(options: Mapping[str, Any]) -> None:
    """Values are not repeated in these errors: a secret may stand in the wrong place."""
    for name in _NEEDED:
        if not isinstance(options.get(name), str) or not options[name]:
            raise ValueError(f"{name}: an S3 store needs this option, as text.")
    if not isinstance(options["region"], str) or not _REGION.fullmatch(options["region"]):
        raise ValueError("region: give the server's region like us-east-1, or leave it out.")
    if not _BUCKET.fullmatch(options["bucket"]):
        raise ValueError("bucket: use 3 to 63 of a-z, 0-9, '.' and '-', not '.' or '-' at an end.")
    if not isinstance(options["prefix"], str) or not _PREFIX.fullmatch(options["prefix"]):
        raise ValueError("prefix: use names of letters, digits, '.', '_' and '-', each with a '/'.")


class S3Driver:
    """A bucket, or the part of it whose keys begin with a prefix."""

    kind = "s3"

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        region: str,
        prefix: str,
        part_size_bytes: int,
        create_bucket: bool,
        timeout_seconds: float,
        connections: int,
    ) -> None:
        """Speaks to the server at `endpoint`, `http://host:port` or https. Asks it nothing yet.

        `timeout_seconds` bounds a connect and each wait for an answer; `connections` are kept
        open, more are made when needed. Raises ValueError when `endpoint` is not understood.
        """
        address = _address(endpoint)
        self._bucket = bucket
        self._prefix = prefix
        self._region = region
        self._part_size_bytes = part_size_bytes
        self._create_bucket = create_bucket
        self.base_url = f"s3+{endpoint.rstrip('/')}/{bucket}/{quote(prefix)}"
        self._pool = _connection_pool(timeout_seconds, connections)
        self._client = Minio(
            address,
            access_key,
            secret_key,
            secure=endpoint.startswith("https://"),
            region=region,
            http_client=self._pool,
        )

    def url_of(self, key: str) -> str:
        return self.base_url + checked_key(key)

    def create(self, key: str, size_bytes: int | None) -> Sink:
        url = self.url_of(key)
        if self.exists(url):
            raise DataExists(f"{url} exists already.")
        return S3Sink(
            self._client, self._bucket, self._name(url), url, size_bytes, self._part_size_bytes
        )

    def open(self, url: str, start: int = 0, length: int | None = None) -> Source:
        name = self._name(url)
        if length == 0 or start:
            size_bytes = self.size(url)
            length = size_bytes - start if length is None else length
            if start < 0 or length < 0 or start + length > size_bytes:
                raise StoreUnavailable(
                    f"{url} has {size_bytes} bytes; bytes {start} to {start + length} were wanted."
                )
        return S3Source(self._client, self._bucket, name, url, start, length)

    def size(self, url: str) -> int:
        name = self._name(url)
        try:
            return self._client.stat_object(self._bucket, name).size or 0
        except FAILURES as error:
            refusal = refusal_of(error, f"Cannot look at {url}")
        if isinstance(refusal, DataMissing):
            # The answer to HEAD has no body, so that a lost bucket looks like a lost object.
            self._expect_bucket()
        raise refusal

    def exists(self, url: str) -> bool:
        try:
            self.size(url)
        except DataMissing:
            return False
        return True

    def delete(self, url: str) -> None:
        # S3 deletes what is not there without a word, so look first.
        self.size(url)
        try:
            self._client.remove_object(self._bucket, self._name(url))
        except FAILURES as error:
            raise refusal_of(error, f"Cannot delete {url}") from None

    def break_off(self, url: str) -> None:
        name = self._name(url)
        try:
            for upload in list(self._uploads(name)):
                if upload.url == url:
                    self.discard(upload)
        except FAILURES as error:
            raise refusal_of(error, f"Cannot look for uploads to {url}") from None

    def found(self) -> Iterator[StoredObject]:
        try:
            yield from self._uploads(self._prefix)
            yield from self._found_objects()
        except FAILURES as error:
            raise refusal_of(error, f"Cannot list {self.base_url}") from None

    def discard(self, thing: StoredObject) -> None:
        name = self._name(thing.url)
        if not thing.unfinished:
            raise StoreForbidden("Only an unfinished upload of this store can be discarded.")
        try:
            self._client._abort_multipart_upload(self._bucket, name, thing.handle)
        except FAILURES as error:
            refusal = refusal_of(error, f"Cannot discard an upload to {thing.url}")
            if not isinstance(refusal, DataMissing):
                raise refusal from None

    def read_marker(self) -> bytes | None:
        doing = f"Cannot read the marker of {self.base_url}"
        try:
            answer = self._client.get_object(self._bucket, self._prefix + MARKER)
            try:
                return bytes(answer.read(_LONGEST_MARKER_BYTES))
            finally:
                answer.close()
                answer.release_conn()
        except FAILURES as error:
            refusal = refusal_of(error, doing)
            if isinstance(refusal, DataMissing):
                return None
            raise refusal from None

    def write_marker(self, content: bytes) -> None:
        name = self._prefix + MARKER
        try:
            self._client.put_object(self._bucket, name, io.BytesIO(content), len(content))
        except FAILURES as error:
            raise refusal_of(error, f"Cannot write the marker of {self.base_url}") from None

    def check(self) -> None:
        if self._create_bucket:
            with suppress(StoreError):
                self._expect_bucket()
                return
            try:
                self._client.make_bucket(self._bucket, self._region)
            except FAILURES as error:
                refusal = refusal_of(error, f"Cannot make the bucket of {self.base_url}")
                if not isinstance(refusal, DataExists):
                    raise refusal from None
        self._expect_bucket()

    def close(self) -> None:
        self._pool.clear()

    def _name(self, url: str) -> str:
        return self._prefix + key_in(url, self.base_url)

    def _expect_bucket(self) -> None:
        try:
            there = self._client.bucket_exists(self._bucket)
        except FAILURES as error:
            raise refusal_of(error, f"Cannot use {self.base_url}") from None
        if not there:
            raise StoreUnavailable(
                f"{self.base_url}: no bucket {self._bucket!r}; make it or set create_bucket."
            )

    def _found_objects(self) -> Iterator[StoredObject]:
        for thing in self._client.list_objects(self._bucket, self._prefix, recursive=True):
            key = (thing.object_name or "").removeprefix(self._prefix)
            if not is_key(key) or thing.last_modified is None:
                continue
            modified_at = thing.last_modified.timestamp()
            yield StoredObject(self.base_url + key, thing.size or 0, modified_at, False, key)

    def _uploads(self, prefix: str) -> Iterator[StoredObject]:
        marker: tuple[str | None, str | None] = (None, None)
        while True:
            page = self._client._list_multipart_uploads(
                self._bucket,
                prefix=prefix,
                key_marker=marker[0],
                upload_id_marker=marker[1],
            )
            for upload in page.uploads:
                key = (upload.object_name or "").removeprefix(self._prefix)
                if not is_key(key) or upload.upload_id is None or upload.initiated_time is None:
                    continue
                began_at = upload.initiated_time.timestamp()
                yield StoredObject(self.base_url + key, 0, began_at, True, upload.upload_id)
            # The SDK (7.2) files this marker under a name that is not its own.
            upload_marker = vars(page).get("self._next_upload_id_marker")
            following = (page.next_key_marker, upload_marker or page.next_upload_id_marker)
            if not page.is_truncated or following in (marker, (None, None)):
                return
            marker = following


def _connection_pool(timeout_seconds: float, connections: int) -> urllib3.PoolManager:
    """Gives up soon, where the SDK's own pool would wait for minutes, and follows nobody."""
    return urllib3.PoolManager(
        maxsize=connections,
        timeout=urllib3.Timeout(connect=min(5.0, timeout_seconds), read=timeout_seconds),
        # A write is not repeated blindly: its first attempt may have succeeded.
        retries=urllib3.Retry(
            total=2,
            connect=1,
            read=1,
            redirect=0,
            status=0,
            other=0,
            backoff_factor=0.1,
            allowed_methods=("GET", "HEAD", "DELETE"),
            raise_on_redirect=False,
            respect_retry_after_header=False,
        ),
    )


def _address(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    try:
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        port_is_right = False
    if (
        not port_is_right
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or "@" in parts.netloc
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        # It is not repeated here: somebody may have put a password into it.
        raise ValueError("endpoint: give only scheme, host and port, like http://host:9000 .")
    return parts.netloc
