"""The real components that tests share: one PostgreSQL and one SeaweedFS a run."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a database server's `postgres` database: CALOTYPE_TEST_POSTGRES or one of our own."""
    given = os.environ.get("CALOTYPE_TEST_POSTGRES")
    if given:
        yield given
        return
    from calotype.ops.backends.postgres import Postgres

    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server.url()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of a fresh, empty database that is dropped after the test."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield (
        psycopg.conninfo.make_conninfo(postgres_server, dbname=name)
        if "://" not in (postgres_server)
        else postgres_server.rsplit("/", 1)[0] + f"/{name}"
    )
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator["SeaweedFS"]:  # noqa: F821
    """A running S3 server."""
    from calotype.ops.backends.seaweedfs import SeaweedFS

    with SeaweedFS(Path(tmp_path_factory.mktemp("seaweedfs"))) as server:
        yield server
