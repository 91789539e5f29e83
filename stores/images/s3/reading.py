"""Reading one object, or a range of it, from S3."""

import re

from minio import Minio
from urllib3 import BaseHTTPResponse

from calotype.stores.images.closing import LateRelease
from calotype.stores.images.driver import StoreUnavailable
from calotype.stores.images.s3.answers import FAILURES, refusal_of

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)")


class S3Source:
    """A streaming answer: nothing is held but what the last `read` gave."""

    def __init__(
        self, client: Minio, bucket: str, name: str, url: str, start: int, length: int | None
    ) -> None:
        """Asks for `length` bytes (None: all) from `start`. Raises as `Driver.open` does."""
        self.offset_bytes = start
        self.length_bytes = length or 0
        self._url = url
        self._answer: BaseHTTPResponse | None = None
        if length != 0:
            try:
                # To the SDK a length of 0 means up to the end.
                self._answer = client.get_object(bucket, name, start, length or 0)
            except FAILURES as error:
                raise refusal_of(error, f"Cannot read {url}") from None
            self.length_bytes = self._checked_length(self._answer, start, length)
        self._left_bytes = self.length_bytes
        self._life = LateRelease(self._release)

    def read(self, size_bytes: int) -> bytes:
        wanted_bytes = min(size_bytes, self._left_bytes)
        with self._life.use():
            if not wanted_bytes or self._answer is None:
                return b""
            try:
                block = self._answer.read(wanted_bytes, decode_content=False)
            except FAILURES as error:
                raise refusal_of(error, f"Cannot read on in {self._url}") from None
        if not block:
            raise StoreUnavailable(
                f"{self._url} ended early: {self._left_bytes} bytes of {self.length_bytes} missing."
            )
        self._left_bytes -= len(block)
        return block

    def close(self) -> None:
        self._life.close()

    def fileno(self) -> int | None:
        return None

    def _checked_length(self, answer: BaseHTTPResponse, start: int, length: int | None) -> int:
        """What the server is about to send; it must be what was asked for."""
        announced = answer.headers.get("Content-Length", "")
        count = int(announced) if announced.isdigit() else -1
        place = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        first = int(place[1]) if place and answer.status == 206 else 0
        if count < 0 or first != start or (length is not None and count != length):
            answer.close()
            raise StoreUnavailable(
                f"{self._url}: the server sends {announced or 'an unknown number of'} bytes from "
                f"byte {first}; wanted were {'all' if length is None else length} from {start}."
            )
        return count

    def _release(self) -> None:
        if self._answer is None:
            return
        if self._left_bytes:
            # The rest is still on its way, so the connection is of no use to anybody else.
            self._answer.close()
        self._answer.release_conn()
