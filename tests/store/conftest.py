from __future__ import annotations

from collections.abc import Iterator

import pytest
from store_databases import forget, in_postgresql, postgresql_schema

from phalanx.store.sql import SqlEventStore


@pytest.fixture(params=["file", "memory", in_postgresql], scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of an empty database."""
    match request.param:
        case "file":
            yield f"sqlite:///{tmp_path_factory.mktemp('sql') / 'events.db'}"
        case "memory":
            yield "sqlite://"
        case _:
            yield from postgresql_schema()


@pytest.fixture(scope="module")
def shared(url: str) -> Iterator[SqlEventStore]:
    """Give a store for examples that use runs of their own."""
    with SqlEventStore(url) as store:
        yield store


@pytest.fixture
def store(shared: SqlEventStore) -> SqlEventStore:
    """Give a store without runs."""
    for run in shared.runs():
        forget(shared, run)
    return shared
