"""What a process does at its start when something is missing, wrong, or comes later."""

from typing import Any

from tests.integration.conftest import Site
from tests.support.access import request
from tests.support.events import body_of, make_event
from worker.store.secrets import new_key


def ask(url: str, body: bytes | None = None, token: str | None = None) -> tuple[int, Any]:
    return request("GET" if body is None else "POST", url, token, body)[:2]


def test_a_worker_that_cannot_read_a_stored_password_does_not_start(site: Site) -> None:
    site.configure("partner:acme", "localhost", 587, "--username", "u@acme.example", password="geheim")
    site.key = new_key()
    with site.worker() as running:
        assert running.process.wait(30) == 2
        running._reader.join()
        [line] = [line for line in running.lines if "SECRET_KEYS" in line]
    assert "'default' of partner:acme" in line
    assert "geheim" not in line


def test_a_worker_whose_broker_is_away_lives_says_so_and_begins_when_it_is_there(
    site: Site, mailbox: Any, rabbitmq: Any
) -> None:
    site.configure("controller", "localhost", mailbox.port_plain, "--tls", "none", "--from", "noreply@example.com")
    rabbitmq.stop()
    try:
        with site.worker() as running:
            base = running.base_url
            assert ask(f"{base}/healthz")[0] == 200
            status, body = ask(f"{base}/readyz")
            assert status == 503
            assert body["parts"]["publisher"] == "the connection to RabbitMQ is down"
            status, problem = ask(f"{base}/v1/events", body_of(make_event("a@example.com")), site.token)
            assert (status, problem["title"]) == (503, "Not published")
            rabbitmq.start()
            running.wait_for("consuming", count=2)  # both lanes: readiness wants them
            running.wait_for("publisher is connected")
            parts = dict.fromkeys(("publisher", "consumer", "audit", "journal", "configs"), "ok")
            assert ask(f"{base}/readyz") == (200, {"status": "ready", "parts": parts})
            assert ask(f"{base}/v1/events", body_of(make_event("a@example.com", id="late")), site.token)[0] == 202
            [record] = site.reader(running).wait_for(1, eventid="late")
            assert record["outcome"] == "accepted"
            assert running.terminate() == 0
    finally:
        if not rabbitmq.healthy():
            rabbitmq.start()


def test_a_worker_whose_audit_is_away_from_the_start_says_so_and_sends(
    site: Site, mailbox: Any, opensearch: Any
) -> None:
    site.configure("controller", "localhost", mailbox.port_plain, "--tls", "none", "--from", "noreply@example.com")
    opensearch.stop()
    try:
        with site.worker() as running:
            assert ask(f"{running.base_url}/healthz")[0] == 200
            running.wait_for("consuming")
            site.publish(make_event("early@example.com", id="early"))
            assert [mail["Delivered-To"] for mail in mailbox.wait_for(1)] == ["early@example.com"]
            assert ask(f"{running.base_url}/event/v1/auditlog?filter.limit=1", token=site.token)[0] == 503
            status, body = ask(f"{running.base_url}/readyz")
            assert status == 503
            assert "OpenSearch failing since" in body["parts"]["audit"]
            opensearch.start()
            [record] = site.reader(running).wait_for(1, eventid="early")
            assert record["outcome"] == "accepted"
            assert running.terminate(timeout=10) == 0
    finally:
        if not opensearch.healthy():
            opensearch.start()
