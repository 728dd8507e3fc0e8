"""POST /v1/events and the health endpoints, over a fake intake."""

import json
from typing import Any

import httpx
import pytest

from tests.support.events import make_event
from worker.api.events import MAX_BODY_BYTES, events_router
from worker.api.health import health_router
from worker.api.server import make_application
from worker.delivery.ports import Lane
from worker.errors import BrokerUnavailable, PublishRefused


class FakeIntake:
    """Keeps what is submitted, or fails as told."""

    def __init__(self) -> None:
        self.submitted: list[dict[str, Any]] = []
        self.failure: Exception | None = None

    async def submit(self, body: bytes, **rest: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.submitted.append({"body": body, **rest})


@pytest.fixture
def intake() -> FakeIntake:
    return FakeIntake()


@pytest.fixture
def client(intake: FakeIntake) -> httpx.AsyncClient:
    checks = {"publisher": lambda: None, "audit": lambda: "failing since noon"}
    application = make_application([health_router(checks), events_router(intake)])
    return httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://postbote")


async def test_a_structured_event_is_published_and_answered_with_its_audit_url(client, intake) -> None:
    event = make_event("a@example.com", id="e 1")
    answer = await client.post("/v1/events", content=json.dumps(event))
    assert answer.status_code == 202
    assert answer.json()["id"] == "e 1"
    assert "filter.eventid=e+1" in answer.json()["audit"]
    [submitted] = intake.submitted
    assert json.loads(submitted["body"]) == event
    assert (submitted["lane"], submitted["kind"]) == (Lane.TRANSACTIONAL, "email.requested.v1")


async def test_a_binary_event_becomes_the_amqp_bindings_headers(client, intake) -> None:
    event = make_event("a@example.com", id="e2")
    headers = {f"ce-{k}": v for k, v in event.items() if k != "data"} | {"content-type": "application/json"}
    answer = await client.post("/v1/events?lane=bulk", content=json.dumps(event["data"]), headers=headers)
    assert answer.status_code == 202
    [submitted] = intake.submitted
    assert submitted["headers"]["cloudEvents:id"] == "e2"
    assert submitted["lane"] is Lane.BULK


@pytest.mark.parametrize(
    ("name", "content", "status", "path"),
    [
        ("no JSON", b"{", 400, "body"),
        ("a misspelt field", json.dumps(make_event("a@example.com", expire_at="x")), 400, "data.expire_at"),
        ("no recipient", json.dumps(make_event()), 400, "data.to"),
        ("an unknown kind", json.dumps(make_event("a@example.com", type="x.v1")), 400, "type"),
        ("larger than a message may be", b"x" * (MAX_BODY_BYTES + 1), 413, None),
    ],
)
async def test_what_cannot_be_mailed_is_not_published(client, intake, name, content, status, path) -> None:
    answer = await client.post("/v1/events", content=content)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert path is None or path in [e["path"] for e in answer.json()["errors"]]
    assert intake.submitted == []


@pytest.mark.parametrize("failure", [BrokerUnavailable("the connection is down"), PublishRefused("nack")])
async def test_a_broker_that_does_not_take_it_is_a_503_with_retry_after(client, intake, failure) -> None:
    intake.failure = failure
    answer = await client.post("/v1/events", content=json.dumps(make_event("a@example.com")))
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert str(failure) in answer.json()["detail"]


async def test_health_tells_alive_from_ready(client) -> None:
    assert (await client.get("/healthz")).status_code == 200
    ready = await client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["parts"] == {"publisher": "ok", "audit": "failing since noon"}
