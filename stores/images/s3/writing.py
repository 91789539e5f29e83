"""Writing one object to S3, in one request or in parts."""

import secrets
from contextlib import suppress
from typing import cast
from xml.etree import ElementTree

from minio import Minio
from minio.error import S3Error

from calotype.stores.images.driver import (
    Chunk,
    DataExists,
    DataMissing,
    StoreError,
)
from calotype.stores.images.s3.answers import FAILURES, is_refusal, refusal_of

_MOST_PARTS = 10_000
_PARTS_A_STEP = 1_000
_MEBIBYTE = 1 << 20
_TOKEN_HEADER = "x-amz-meta-calotype-write"
_OCTETS = "application/octet-stream"
_Fields = dict[str, str | list[str] | tuple[str]]


def part_size_bytes(number: int, first_size_bytes: int, size_bytes: int | None) -> int:
    """How big part `number` (from 1) is, so that 10 000 parts suffice.

    All parts are alike when the whole size is known. Else they grow in ten steps, up to 28 times
    the first: with 8 MiB that is room for 1.1 TiB, and still 8 MiB of memory up to 7.8 GiB.
    """
    if size_bytes is None:
        return first_size_bytes * (1 + 3 * ((number - 1) // _PARTS_A_STEP))
    needed_bytes = -(-size_bytes // _MOST_PARTS)
    return max(first_size_bytes, -(-needed_bytes // _MEBIBYTE) * _MEBIBYTE)


class S3Sink:
    """Collects one part in memory and sends it when it is full.

    Every object carries a random token in its metadata. When the answer to the finishing request
    is lost, one look at the object tells whether it is ours.
    """

    def __init__(
        self,
        client: Minio,
        bucket: str,
        name: str,
        url: str,
        size_bytes: int | None,
        first_part_size_bytes: int,
    ) -> None:
        self.url = url
        self._client = client
        self._bucket = bucket
        self._name = name
        self._size_bytes = size_bytes
        self._first_part_size_bytes = first_part_size_bytes
        self._token = secrets.token_hex(16)
        self._upload: str | None = None
        self._etags: list[str] = []
        self._room = bytearray()
        self._filled_bytes = 0
        self._written_bytes = 0
        self._may_stand = False
        self._done = False
        self._new_room()

    def write(self, chunk: Chunk) -> None:
        view = memoryview(chunk)
        while view:
            if self._filled_bytes == len(self._room):
                self._send_part()
            step = min(len(view), len(self._room) - self._filled_bytes)
            self._room[self._filled_bytes : self._filled_bytes + step] = view[:step]
            self._filled_bytes += step
            self._written_bytes += step
            view = view[step:]

    def commit(self) -> None:
        if self._upload is None:
            headers: _Fields = {
                "Content-Type": _OCTETS,
                "If-None-Match": "*",
                _TOKEN_HEADER: self._token,
            }
            self._finish("PUT", self._filled(), headers, {})
        else:
            if self._filled_bytes:
                self._send_part()
            self._room = bytearray()
            # Not every server minds the condition on the finishing request.
            if self._standing() is not None:
                raise DataExists(f"{self.url} exists already.")
            headers = {"Content-Type": "application/xml", "If-None-Match": "*"}
            self._finish("POST", self._part_list(), headers, {"uploadId": self._upload})
        self._done = True

    def abort(self) -> None:
        if self._done:
            return
        self._done = True
        self._room = bytearray()
        if self._upload is not None:
            with suppress(*FAILURES):
                self._client._abort_multipart_upload(self._bucket, self._name, self._upload)
        if self._may_stand:
            with suppress(*FAILURES, StoreError):
                if self._stands():
                    self._client.remove_object(self._bucket, self._name)

    def _new_room(self) -> None:
        number = len(self._etags) + 1
        wanted = part_size_bytes(number, self._first_part_size_bytes, self._size_bytes)
        if self._size_bytes is not None:
            wanted = min(wanted, max(1, self._size_bytes - self._written_bytes))
        if len(self._room) != wanted:
            self._room = bytearray(wanted)
        self._filled_bytes = 0

    def _filled(self) -> bytes:
        """What is in the room, not copied: the SDK hashes and sends any buffer."""
        return cast(bytes, memoryview(self._room)[: self._filled_bytes])

    def _send_part(self) -> None:
        try:
            if self._upload is None:
                headers: _Fields = {_TOKEN_HEADER: self._token}
                self._upload = self._client._create_multipart_upload(
                    self._bucket, self._name, headers
                )
            try:
                etag = self._put_part()
            except FAILURES as error:
                if is_refusal(error):
                    raise
                etag = self._put_part()  # The same part twice is the same part.
        except FAILURES as error:
            refusal = refusal_of(error, f"Cannot write {self.url}")
            if isinstance(refusal, DataMissing):
                refusal = DataMissing(f"The upload to {self.url} was discarded meanwhile.")
            raise refusal from None
        self._etags.append(etag)
        self._new_room()

    def _put_part(self) -> str:
        assert self._upload is not None
        body, number = self._filled(), len(self._etags) + 1
        return _expect_label(
            self._client._upload_part(self._bucket, self._name, body, None, self._upload, number)
        )

    def _part_list(self) -> bytes:
        root = ElementTree.Element("CompleteMultipartUpload")
        for number, etag in enumerate(self._etags, 1):
            part = ElementTree.SubElement(root, "Part")
            ElementTree.SubElement(part, "PartNumber").text = str(number)
            ElementTree.SubElement(part, "ETag").text = f'"{etag}"'
        return ElementTree.tostring(root)

    def _finish(self, method: str, body: bytes, headers: _Fields, query: _Fields) -> None:
        """The request after which the object stands; one more try when the answer is lost."""
        self._may_stand = True
        try:
            self._finish_once(method, body, headers, query)
        except FAILURES as error:
            if is_refusal(error):
                self._may_stand = False
                raise refusal_of(error, f"Cannot finish {self.url}") from None
            self._finish_again(method, body, headers, query)

    def _finish_again(self, method: str, body: bytes, headers: _Fields, query: _Fields) -> None:
        if self._stands_for_sure():
            return
        try:
            self._finish_once(method, body, headers, query)
        except FAILURES as error:
            # A refusal now may mean that the first request got through after all.
            if not self._stands_for_sure():
                raise refusal_of(error, f"Cannot finish {self.url}") from None

    def _finish_once(self, method: str, body: bytes, headers: _Fields, query: _Fields) -> None:
        answer = self._client._execute(
            method, self._bucket, self._name, body, dict(headers), dict(query)
        )
        if method == "PUT":
            _expect_label(answer.headers.get("ETag"))
        else:
            # S3 may say 200 first and put the error into the body.
            root = ElementTree.fromstring(answer.data)
            if not root.tag.endswith("CompleteMultipartUploadResult") or not self._stands():
                raise ValueError("an error behind status 200")

    def _stands_for_sure(self) -> bool:
        with suppress(StoreError):
            return self._stands()
        return False

    def _stands(self) -> bool:
        """Whether the object is there, whole, and ours."""
        return self._standing() == (self._token, self._written_bytes)

    def _standing(self) -> tuple[str, int] | None:
        """Token and size of what stands under the name now."""
        try:
            thing = self._client.stat_object(self._bucket, self._name)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return None
            raise refusal_of(error, f"Cannot look at {self.url}") from None
        except FAILURES as error:
            raise refusal_of(error, f"Cannot look at {self.url}") from None
        labels = {name.lower(): value for name, value in (thing.metadata or {}).items()}
        return labels.get(_TOKEN_HEADER, ""), thing.size or 0


def _expect_label(etag: str | None) -> str:
    """Raises ValueError when there is none: something answered that is not S3, a login page say."""
    if not etag:
        raise ValueError("an answer without ETag")
    return etag
