"""A worker on real servers: the environment it runs in, its SMTP records, and readers of its audit."""

import asyncio
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.support.access import bearer, token_for
from tests.support.events import body_of
from tests.support.process import Postbote, run_postbote
from worker.delivery.ports import Lane
from worker.rabbit import topology
from worker.rabbit.publisher import open_publisher
from worker.store.secrets import new_key

PATIENCE_S = 40.0


@dataclass
class Site:
    """Everything that one deployment of Postbote needs, on servers that it shares with other tests."""

    amqp_url: str
    opensearch_url: str
    index_prefix: str
    folder: Path
    key: str = field(default_factory=new_key)
    env_extra: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        return {
            "POSTBOTE_AMQP_URL": self.amqp_url,
            "POSTBOTE_OPENSEARCH_URL": self.opensearch_url,
            "POSTBOTE_AUDIT_INDEX_PREFIX": self.index_prefix,
            "POSTBOTE_DATABASE_URL": f"sqlite:///{self.folder / 'postbote.db'}",
            "POSTBOTE_SECRET_KEYS": self.key,
            "POSTBOTE_JOURNAL_DIR": str(self.folder / "journal"),
            "POSTBOTE_CONFIG_CACHE_S": "0",
            "POSTBOTE_RETRY_FIRST_WAIT_S": "0.1",
            # The tenants' servers are Postfixes on free ports of this host.
            "POSTBOTE_EGRESS_ALLOW": "127.0.0.0/8,::1/128",
            "POSTBOTE_EGRESS_PORTS": "1-65535",
            **self.env_extra,
        }

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a command that must succeed; returns what it printed."""
        done = run_postbote(*arguments, env=self.env, stdin=stdin)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def configure(self, scope: str, host: str, port: int, *options: str, password: str | None = None) -> None:
        secret = ("--password-stdin",) if password else ()
        self.run(
            "config", "set", "--scope", scope, "--host", host, "--port", str(port), *secret, *options, stdin=password
        )

    def worker(self) -> Postbote:
        return Postbote("run", env=self.env)

    @cached_property
    def token(self) -> str:
        """The controller's admin's."""
        return token_for(self.env["POSTBOTE_DATABASE_URL"])

    def reader(self, running: Postbote) -> "AuditReader":
        """The audit, as the controller's admin asks for it."""
        return AuditReader(running.base_url, self.token)

    def publish(self, *events: dict[str, Any] | bytes, lane: Lane = Lane.TRANSACTIONAL) -> None:
        """Publish with confirm, without the check that the command would make."""

        async def all_of_them() -> None:
            async with open_publisher(self.amqp_url) as publisher, asyncio.TaskGroup() as group:
                for event in events:
                    body = event if isinstance(event, bytes) else body_of(event)
                    group.create_task(
                        publisher.publish(
                            topology.EVENTS_EXCHANGE,
                            topology.routing_key(lane, "test"),
                            body,
                            content_type="application/cloudevents+json",
                            headers={},
                        )
                    )

        asyncio.run(all_of_them())


class AuditReader:
    """Asks the worker's own API, as ops would."""

    def __init__(self, base_url: str, token: str) -> None:
        self._base = base_url
        self._headers = bearer(token)

    def get(self, **filters: str) -> dict[str, Any]:
        named = {"filter.timefrom": "now-1h", "filter.limit": "1000", "filter.category": "SYSTEMAUDIT"}
        named["filter.type"] = "email.delivery"  # what a command changed is there, too
        query = urllib.parse.urlencode(named | {f"filter.{k}": v for k, v in filters.items()})
        asked = urllib.request.Request(f"{self._base}/event/v1/auditlog?&{query}", headers=self._headers)
        with urllib.request.urlopen(asked, timeout=60) as response:
            return json.load(response)

    def _get_or_told_to_wait(self, **filters: str) -> dict[str, Any]:
        try:
            return self.get(**filters)
        except urllib.error.HTTPError as error:
            if error.code != 503 or not error.headers["Retry-After"]:
                raise
            return {"total": 0, "records": [json.load(error)]}

    def wait_for(self, count: int, timeout: float = PATIENCE_S, **filters: str) -> list[dict[str, Any]]:
        """Wait until at least `count` records are found; OpenSearch shows them within its refresh interval."""
        deadline = time.monotonic() + timeout
        while True:
            found = self._get_or_told_to_wait(**filters)
            if found["total"] >= count:
                return found["records"]
            if time.monotonic() > deadline:
                msg = f"{found['total']} of {count} records: {json.dumps(found['records'], indent=1)}"
                raise AssertionError(msg)
            time.sleep(0.1)  # polling: a search index announces nothing


@pytest.fixture
def site(amqp_url: str, opensearch, index_prefix: str, tmp_path: Path) -> Site:
    return Site(amqp_url, opensearch.url, index_prefix, tmp_path)


@pytest.fixture
def mailbox(postfix) -> Iterator[Any]:
    postfix.clear()
    yield postfix
    postfix.clear()
