"""pytest fixtures over the real servers; each starts when the first test asks for it, and ends with the session.

A conftest takes them with `pytest_plugins = ["tests.services.fixtures"]`, or by importing the names.
"""

import uuid
from collections.abc import Iterator

import pytest

from tests.services import opensearch as opensearch_service
from tests.services import postgres as postgres_service
from tests.services import rabbitmq as rabbitmq_service
from tests.services import sessions
from tests.services.opensearch import OpenSearchServer
from tests.services.postfix import Postfix
from tests.services.postgres import PostgresServer
from tests.services.rabbitmq import Broker
from tests.services.ways import Way

__all__ = ["amqp_url", "index_prefix", "opensearch", "postfix", "postgres", "postgres_url", "rabbitmq", "smtp"]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """End this process's servers: of several processes (pytest-xdist), each has its own."""
    sessions.end_current()


@pytest.fixture(scope="session")
def rabbitmq() -> Broker:
    """The session's broker, started."""
    broker = rabbitmq_service.broker()
    broker.start()
    return broker


@pytest.fixture(scope="session")
def opensearch() -> OpenSearchServer:
    """The session's OpenSearch, started."""
    server = opensearch_service.server()
    server.start()
    return server


@pytest.fixture(scope="session")
def postfix() -> Iterator[Postfix]:
    """The session's Postfix, started. Mail of earlier tests may lie in its mailbox: see `smtp`."""
    with Postfix.make() as instance:
        yield instance


@pytest.fixture
def amqp_url(rabbitmq: Broker) -> Iterator[str]:
    """A virtual host of the test's own."""
    # A test that stopped the broker and then failed must not take the next ones with it.
    if not rabbitmq.healthy():
        rabbitmq.start()
    url = rabbitmq.fresh_vhost()
    yield url
    if not rabbitmq.healthy():
        rabbitmq.start()
    rabbitmq.drop_vhost(url)


@pytest.fixture
def index_prefix(opensearch: OpenSearchServer) -> Iterator[str]:
    """A prefix for the names of the test's indices and templates, which are deleted after it."""
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    _revive(opensearch)
    yield prefix
    _revive(opensearch)
    opensearch.delete_indices(f"{prefix}*")


def _revive(server: OpenSearchServer) -> None:
    server.resume()
    if not server.healthy():
        server.start()


@pytest.fixture
def smtp(postfix: Postfix) -> Postfix:
    """The session's Postfix with an empty mailbox and no refusals."""
    postfix.clear()
    return postfix


@pytest.fixture(scope="session")
def postgres() -> PostgresServer:
    """The session's PostgreSQL, started."""
    server = postgres_service.server()
    server.start()
    return server


@pytest.fixture(scope="session")
def _spare_databases(postgres: PostgresServer) -> Iterator[list[str]]:
    """Empty databases that nobody uses now; deleted at the end, as the server may be somebody else's."""
    spare: list[str] = []
    yield spare
    for url in spare:
        postgres.drop_database(url)


@pytest.fixture
def postgres_url(postgres: PostgresServer, _spare_databases: list[str]) -> Iterator[str]:
    """An empty database that no other test uses meanwhile."""
    _recover(postgres)
    url = _spare_databases.pop() if _spare_databases else postgres.fresh_database()
    yield url
    _recover(postgres)
    postgres.empty_database(url)
    _spare_databases.append(url)


def _recover(server: PostgresServer) -> None:
    # A test that stopped or froze the server and then failed must not take the next ones with it.
    if server.way is not Way.URL:
        server.resume()
    if not server.healthy():
        server.start()
