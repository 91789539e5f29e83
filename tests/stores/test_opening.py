"""Options of a store, and what is said about wrong ones."""

from pathlib import Path

import pytest

from calotype.stores.images.driver import StoreError
from calotype.stores.images.opening import open_driver

S3 = {
    "endpoint": "http://127.0.0.1:9000",
    "bucket": "images",
    "access_key": "key",
    "secret_key": "secret",
}


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("tape", {}, "kind"),
        ("file", {}, "directory"),
        ("file", {"directory": ""}, "directory"),
        ("file", {"directory": 5}, "directory"),
        ("file", {"directory": "relative/path"}, "directory"),
        ("file", {"directory": "/tmp/x", "bucket": "b"}, "bucket"),
        *[("s3", {k: v for k, v in S3.items() if k != name}, name) for name in S3],
        ("s3", S3 | {"color": "red"}, "color"),
        ("s3", S3 | {"endpoint": "127.0.0.1:9000"}, "endpoint"),
        ("s3", S3 | {"endpoint": "ftp://host"}, "endpoint"),
        ("s3", S3 | {"endpoint": "http://user:password@host:1"}, "endpoint"),
        ("s3", S3 | {"endpoint": "http://host:1/path"}, "endpoint"),
        ("s3", S3 | {"endpoint": "http://host:port"}, "endpoint"),
        ("s3", S3 | {"bucket": "no/slash"}, "bucket"),
        ("s3", S3 | {"bucket": "../up"}, "bucket"),
        ("s3", S3 | {"prefix": "/from-root"}, "prefix"),
        ("s3", S3 | {"prefix": "a/../b"}, "prefix"),
        ("s3", S3 | {"prefix": "a//b"}, "prefix"),
        ("s3", S3 | {"region": 1}, "region"),
        ("s3", S3 | {"part_size_bytes": 1000}, "part_size_bytes"),
        ("s3", S3 | {"part_size_bytes": 1 << 40}, "part_size_bytes"),
        ("s3", S3 | {"part_size_bytes": "8 MiB"}, "part_size_bytes"),
        ("s3", S3 | {"timeout_seconds": 0}, "timeout_seconds"),
        ("s3", S3 | {"connections": True}, "connections"),
        ("s3", S3 | {"create_bucket": "yes"}, "create_bucket"),
    ],
)
def test_a_wrong_option_is_named(kind, options, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        open_driver(kind, options)


def test_the_defaults_are_enough(tmp_path: Path):
    assert open_driver("file", {"directory": tmp_path}).kind == "file"
    driver = open_driver("s3", S3 | {"prefix": "a/b-"})
    assert driver.kind == "s3"
    assert driver.url_of("k") == "s3+http://127.0.0.1:9000/images/a/b-k"
    assert open_driver("s3", S3 | {"endpoint": "https://h/"}).url_of("k") == "s3+https://h/images/k"


def test_a_directory_that_cannot_be_made_is_an_error_of_the_store(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        open_driver("file", {"directory": str(tmp_path / "file" / "below")})
