"""A whole worker and its API over TLS and the real security plugin, with a user for each thing, through every trouble."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.integration.audit.security_site import Operator
from tests.integration.audit.tls_relay import TlsRelay
from tests.integration.conftest import Site
from tests.services.opensearch_secured import Login, SecuredOpenSearch
from tests.support.access import request
from tests.support.events import make_event
from tests.support.process import Postbote

QUESTIONS = (
    "/event/v1/auditlog?&filter.timefrom=now-1h",
    "/opsauditlogs/?timefrom=now-1h",
    "/v1/stats?&timefrom=now-1h",
)
OTHERS = "/v1/partners"
SENT, LATER = "sent@example.com", "later@example.com"
REFUSED = re.compile(r"no permissions|security_exception|does not allow|(?<![\w.])403(?!\w)")


@pytest.fixture
def operator(secured_opensearch: SecuredOpenSearch) -> Iterator[Operator]:
    found = Operator(secured_opensearch)
    found.set_up()
    found.migrate()
    yield found
    found.clear()


@pytest.fixture
def relay(secured_opensearch: SecuredOpenSearch) -> Iterator[TlsRelay]:
    with TlsRelay.running(secured_opensearch.host.port, str(secured_opensearch.ca_file)) as found:
        yield found


@pytest.fixture
def site(operator: Operator, relay: TlsRelay, amqp_url: str, tmp_path: Path) -> Site:
    return Site(amqp_url, relay.url, operator.prefix, tmp_path, env_extra=operator.three_users(relay.url))


def wait_for_line(running: Postbote, said: str | None, seconds: float = 60.0) -> None:
    """Wait until readiness says this of the audit, or that all is well."""
    deadline, line = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        _, body, _ = request("GET", f"{running.base_url}/readyz")
        line = body["parts"]["audit"]
        if line == "ok" if said is None else said in line:
            return
        time.sleep(0.1)  # polling: readiness is asked for
    msg = f"readiness does not say {said!r} of the audit: {line}"
    raise AssertionError(msg)


def wait_for_reason(running: Postbote, said: str) -> None:
    """Wait until the log gives this reason."""
    for count in range(1, 100):
        if said in running.wait_for("OpenSearch is away: what needs it waits", count=count)["reason"]:
            return


def test_a_worker_goes_on_by_itself_once_each_trouble_is_mended_and_nothing_is_lost(
    site: Site, operator: Operator, relay: TlsRelay, mailbox: Any
) -> None:
    good = operator.server.authority.ca
    relay.show(good.issue_cert("localhost"))
    site.configure("controller", "localhost", mailbox.port_plain, "--tls", "none", "--from", "noreply@example.com")
    writer = operator.login("postbote_writer")
    another = Login(writer.user, "Another-4-Now!-x")
    with site.worker() as running:
        running.wait_for("consuming")
        for number, trouble in enumerate(("another CA", "another host", "another password", "no role")):
            match trouble:
                case "another CA":
                    relay.leave()
                    relay.show(trustme.CA().issue_cert("localhost"))
                    relay.listen()
                    shown, reason = "certificate is not trusted", "POSTBOTE_OPENSEARCH_CA_FILE"
                case "another host":
                    relay.show(good.issue_cert("elsewhere.example"))
                    shown, reason = "certificate is for another host", "Hostname mismatch"
                case "another password":
                    operator.server.let_in(another)
                    relay.show(good.issue_cert("localhost"))
                    shown, reason = "does not accept the user and password", "see POSTBOTE_OPENSEARCH_USER"
                case _:
                    operator.take_role("postbote_writer")
                    operator.server.let_in(writer)
                    shown, reason = "does not allow this user", "no permissions for"
            site.publish(make_event(f"{number}@example.com", id=f"during-{number}"))
            wait_for_line(running, shown)
            wait_for_reason(running, reason)
        operator.apply("roles_mapping")
        wait_for_line(running, None)
        records = site.reader(running).wait_for(4)
        assert {record["event_id"] for record in records} == {f"during-{n}" for n in range(4)}
        assert {record["outcome"] for record in records} == {"accepted"}
        shown_nowhere(running, operator)
        assert running.terminate() == 0


def shown_nowhere(running: Postbote, operator: Operator) -> None:
    command = Path(f"/proc/{running.process.pid}/cmdline").read_text()
    for secret in (*operator.passwords.values(), "Another-4-Now!-x"):
        assert secret not in command
        assert not [line for line in running.lines if secret in line]


def test_questions_are_a_503_that_says_why_while_the_other_parts_go_on(
    site: Site, operator: Operator, relay: TlsRelay
) -> None:
    relay.show(operator.server.authority.ca.issue_cert("localhost"))
    with Postbote("api", env=site.env) as running:
        ask = lambda path: request("GET", running.base_url + path, site.token)  # noqa: E731
        assert {path: ask(path)[0] for path in QUESTIONS} == dict.fromkeys(QUESTIONS, 200)
        operator.take_role("postbote_reader")
        for path in QUESTIONS:
            status, body, headers = ask(path)
            assert (status, headers["Retry-After"]) == (503, "5"), path
            assert "POSTBOTE_OPENSEARCH_READER_USER" in body["detail"]
            assert "security_exception" not in str(body)
        operator.apply("roles_mapping")
        assert ask(QUESTIONS[0])[0] == 200
        relay.leave()
        for path in QUESTIONS:
            status, body, headers = ask(path)
            assert (status, headers["Retry-After"], body["title"]) == (503, "5", "Audit unavailable"), path
        assert ask(OTHERS)[0] == 200
        relay.listen()
        assert ask(QUESTIONS[0])[0] == 200
        shown_nowhere(running, operator)
        assert running.terminate() == 0


def writes_of_claims(operator: Operator) -> int:
    """How often something was claimed or renewed; a claim itself goes with what it was for."""
    found = operator.server.done("GET", f"/{operator.prefix}-claims/_stats/indexing")
    return int(found["_all"]["primaries"]["indexing"]["index_total"])


def test_a_killed_workers_event_is_looked_up_and_claimed_and_nobody_gets_a_second_mail(
    operator: Operator, amqp_url: str, mailbox: Any, tmp_path: Path
) -> None:
    site = Site(amqp_url, operator.server.url, operator.prefix, tmp_path, env_extra=operator.three_users())
    site.env_extra["POSTBOTE_RETRY_FIRST_WAIT_S"] = "20"
    site.configure("controller", "localhost", mailbox.port_plain, "--tls", "none", "--from", "noreply@example.com")
    mailbox.refuse(LATER, "450 4.2.0 Greylisted")
    before = writes_of_claims(operator)  # a command had its turn
    with site.worker() as first:
        first.wait_for("consuming")
        site.publish(make_event(SENT, LATER, id="taken-up"))
        for outcome in ("accepted", "deferred"):
            site.reader(first).wait_for(1, eventid="taken-up", outcome=outcome)
        first.kill()
    mailbox.refuse(LATER, None)
    with site.worker() as second:
        second.wait_for("consuming")
        records = site.reader(second).wait_for(2, eventid="taken-up", outcome="accepted")
        assert second.terminate() == 0
    assert {record["recipient"]: record["possible_duplicate"] for record in records} == {SENT: False, LATER: True}
    for each in (SENT, LATER):
        mailbox.wait_for(1, recipient=each)  # the 250 came before Postfix put it there
    assert [len(mailbox.to(each)) for each in (SENT, LATER)] == [1, 1]
    assert writes_of_claims(operator) > before, "the event was not claimed"
    assert [line for running in (first, second) for line in running.lines if REFUSED.search(line)] == []
