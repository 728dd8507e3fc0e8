"""Real RabbitMQ, OpenSearch, PostgreSQL and Postfix for the tests.

Each server is reached by the first way that is open:

1. an address in the environment (`POSTBOTE_TEST_AMQP_URL`, `POSTBOTE_TEST_OPENSEARCH_URL`, `POSTBOTE_TEST_POSTGRES_URL`),
2. Docker, through testcontainers,
3. native processes of our own, from Debian's packages and from Maven Central.

`POSTBOTE_TEST_SERVICES=docker` or `=native` forces a way. Where none is open, `ServiceUnavailable`
names the commands that open one; a test is never skipped for want of a server.

Everything started lies in a folder of its own below `POSTBOTE_TEST_RUN` (default
`/var/tmp/postbote-tests`), on free loopback ports, so that sessions side by side never meet.
"""

from tests.services.ways import ServiceUnavailable, Way

__all__ = ["ServiceUnavailable", "Way"]
