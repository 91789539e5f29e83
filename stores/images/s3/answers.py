"""What an S3 server's answers, or its silence, mean in terms of the store's promises."""

from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError

from calotype.stores.images.driver import (
    DataExists,
    DataMissing,
    StoreError,
    StoreForbidden,
    StoreFull,
    StoreUnavailable,
)

# A server may answer with XML that is broken or lacks what the SDK reads from it: ParseError and
# ValueError (its kinds of decoding errors are kinds of that).
FAILURES = (MinioException, HTTPError, OSError, ParseError, ValueError)
"""Everything that a call of the SDK raises when the server or the network is at fault."""

_MEANINGS: dict[str, type[StoreError]] = {
    "NoSuchKey": DataMissing,
    "NoSuchUpload": DataMissing,
    "PreconditionFailed": DataExists,
    "ConditionalRequestConflict": DataExists,
    "BucketAlreadyOwnedByYou": DataExists,
    "BucketAlreadyExists": DataExists,
    "InsufficientStorage": StoreFull,
    "InsufficientCapacity": StoreFull,
    "QuotaExceeded": StoreFull,
    "ServiceQuotaExceeded": StoreFull,
    "TooManyObjects": StoreFull,
    "XMinioStorageFull": StoreFull,
    "XMinioAdminBucketQuotaExceeded": StoreFull,
    "AccessDenied": StoreForbidden,
    "AccountProblem": StoreForbidden,
    "AllAccessDisabled": StoreForbidden,
    "ExpiredToken": StoreForbidden,
    "InvalidAccessKeyId": StoreForbidden,
    "InvalidToken": StoreForbidden,
    "RequestTimeTooSkewed": StoreForbidden,
    "SignatureDoesNotMatch": StoreForbidden,
}
_FIXES: dict[str, str] = {
    "AccessDenied": " Let this access key read, write, list and delete in the bucket.",
    "InvalidAccessKeyId": " Check access_key.",
    "SignatureDoesNotMatch": " Check secret_key and region.",
    "RequestTimeTooSkewed": " Set this machine's clock.",
    "NoSuchBucket": " Make the bucket, or set create_bucket.",
}
_STATUS_MEANINGS: dict[int, type[StoreError]] = {
    401: StoreForbidden,
    403: StoreForbidden,
    412: DataExists,
    507: StoreFull,
}


def refusal_of(error: BaseException, doing: str) -> StoreError:
    """The promise's error for a failed call.

    It repeats no text of the server: that may echo a signature or a key. So raise it `from None`.
    """
    if isinstance(error, S3Error):
        code, status = _plain(error.code), error.response.status if error.response else 0
        kind = _MEANINGS.get(code) or _STATUS_MEANINGS.get(status, StoreUnavailable)
        return kind(f"{doing}: the server answered {status} {code}.{_FIXES.get(code, '')}")
    status = _bare_status(error)
    if status:
        kind = _STATUS_MEANINGS.get(status, StoreUnavailable)
        return kind(f"{doing}: the server answered {status} and not in S3's form.")
    return StoreUnavailable(f"{doing}: the server did not answer ({type(error).__name__}).")


def is_refusal(error: BaseException) -> bool:
    """Whether the server itself said no, so that the call certainly had no effect."""
    status = error.response.status if isinstance(error, S3Error) and error.response else 0
    return 400 <= (status or _bare_status(error)) < 500


def _bare_status(error: BaseException) -> int:
    if isinstance(error, ServerError):
        return error.status_code
    if isinstance(error, InvalidResponseError):
        code: int = error._code
        return code
    return 0


def _plain(code: str | None) -> str:
    """The error code, unless the server put something else in its place."""
    return code if code and code.isascii() and code.isalnum() and len(code) < 64 else "unknown"
