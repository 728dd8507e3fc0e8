"""POST /v1/events and the health endpoints, over a fake intake."""

import json
from typing import Any

import httpx
import pytest
import structlog

from tests.support.events import make_event
from tests.support.gates import as_, gate
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


CHECKS = {
    "publisher": lambda: None,
    "audit": lambda: "failing since noon, 3 records wait: cannot reach https://user@audit.internal:9200",
    "configs": lambda: "config topic lost since noon (AMQPError of mq.internal); 7 records from memory",
}


@pytest.fixture
def client(intake: FakeIntake) -> httpx.AsyncClient:
    application = make_application([health_router(CHECKS), events_router(intake, gate())])
    transport = httpx.ASGITransport(application)
    return httpx.AsyncClient(transport=transport, base_url="http://postbote", headers=as_("admin@controller"))


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


@pytest.mark.parametrize("failure", [BrokerUnavailable("mq.internal is down"), PublishRefused("nack by mq.internal")])
async def test_a_broker_that_does_not_take_it_is_a_503_with_retry_after(client, intake, failure) -> None:
    intake.failure = failure
    answer = await client.post("/v1/events", content=json.dumps(make_event("a@example.com")))
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.json()["title"] == "Not published"
    assert "mq.internal" not in answer.text


def in_binary(event: dict[str, Any]) -> dict[str, Any]:
    headers = {f"ce-{name}": value for name, value in event.items() if name != "data"}
    return {"content": json.dumps(event["data"]), "headers": headers | {"content-type": "application/json"}}


def structured(event: dict[str, Any]) -> dict[str, Any]:
    return {"content": json.dumps(event), "headers": {}}


@pytest.mark.parametrize("form", [structured, in_binary])
@pytest.mark.parametrize(
    ("who", "scope", "status"),
    [
        ("admin@controller", {}, 202),
        ("admin@controller", {"partner": "acme"}, 202),
        ("admin@controller", {"partner": "acme", "org": "dev"}, 202),
        ("admin@partner:acme", {}, 403),
        ("admin@partner:acme", {"partner": "acme"}, 202),
        ("admin@partner:acme", {"partner": "acme", "org": "dev"}, 202),
        ("admin@partner:acme", {"partner": "globex"}, 403),
        ("admin@partner:acme", {"partner": "globex", "org": "dev"}, 403),
        ("admin@partner:acme", {"partner": "ACME"}, 403),
        ("admin@org:acme/dev", {}, 403),
        ("admin@org:acme/dev", {"partner": "acme"}, 403),
        ("admin@org:acme/dev", {"partner": "acme", "org": "dev"}, 202),
        ("admin@org:acme/dev", {"partner": "acme", "org": "prod"}, 403),
        ("admin@org:acme/dev", {"partner": "globex", "org": "dev"}, 403),
    ],
)
async def test_an_event_is_taken_from_whoever_reaches_its_scope(client, intake, who, scope, status, form) -> None:
    request = form(make_event("a@example.com", scope=scope))
    answer = await client.post("/v1/events", content=request["content"], headers=request["headers"] | as_(who))
    assert answer.status_code == status
    assert len(intake.submitted) == (status == 202)
    if status == 403:
        assert [error["path"] for error in answer.json()["errors"]] == ["data.scope"]
        assert "globex" not in answer.text


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({"Authorization": ""}, 401),
        (as_("nobody"), 401),
        (as_("viewer@controller"), 403),
        (as_("viewer@org:acme/dev"), 403),
    ],
)
async def test_who_may_not_publish_is_told_so_whatever_is_sent(client, intake, header, status) -> None:
    for body in (json.dumps(make_event("a@example.com", scope={"partner": "acme", "org": "dev"})), b"{"):
        assert (await client.post("/v1/events", content=body, headers=header)).status_code == status
    assert intake.submitted == []


async def test_health_tells_alive_from_ready_to_everybody(client) -> None:
    assert (await client.get("/healthz", headers={"Authorization": ""})).status_code == 200
    ready = await client.get("/readyz", headers={"Authorization": ""})
    assert ready.status_code == 503
    assert ready.json()["parts"]["publisher"] == "ok"


async def test_what_explains_a_fault_is_in_the_log_and_nowhere_else(client) -> None:
    with structlog.testing.capture_logs() as logs:
        ready = await client.get("/readyz")
        await client.get("/readyz")
    assert ready.json()["parts"] == {
        "publisher": "ok",
        "audit": "failing since noon, 3 records wait",
        "configs": "config topic lost since noon; 7 records from memory",
    }
    assert [(line["part"], line["reason"]) for line in logs] == [
        ("audit", CHECKS["audit"]()),
        ("configs", CHECKS["configs"]()),
    ]
