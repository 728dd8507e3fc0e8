"""The main job on real servers: one event in RabbitMQ becomes one mail in Postfix and one SYSTEMAUDIT record."""

import json
import time
from typing import Any

import pika
import pytest

from tests.integration.conftest import PATIENCE_S, Site
from tests.integration.test_rabbit import drained
from tests.support.access import request
from tests.support.events import body_of, make_event, mixed_events
from worker.delivery.ports import Lane, Tier
from worker.rabbit import topology

CONTROLLER, PARTNER, ORG = "controller@controller.test", "partner@partner.test", "org@org.test"


def three_tenants(site: Site, postfix: Any) -> None:
    """Controller by the environment (STARTTLS), partner by STARTTLS, org by TLS at once; an account each."""
    ca = str(postfix.ca_file)
    site.env_extra |= {
        "FW_EVENT_SMTP_SERVER_ADDR": "localhost",
        "FW_EVENT_SMTP_SERVER_PORT": str(postfix.port_starttls),
        "FW_EVENT_SMTP_SERVER_USERNAME": CONTROLLER,
        "FW_EVENT_SMTP_SERVER_PASSWORD": postfix.users[CONTROLLER],
        "FW_EVENT_SMTP_SERVER_USE_TLS": "true",
        "POSTBOTE_CONTROLLER_CA_FILE": ca,
    }
    site.configure(
        "partner:acme", "localhost", postfix.port_starttls,
        "--username", PARTNER, "--tls", "starttls", "--ca-bundle", ca, password=postfix.users[PARTNER],
    )  # fmt: skip
    site.configure(
        "org:acme/dev", "localhost", postfix.port_ssl,
        "--username", ORG, "--tls", "ssl", "--ca-bundle", ca, password=postfix.users[ORG],
    )  # fmt: skip
    site.run("config", "feature", "--scope", "org:acme/dev", "--on")


def test_each_tenants_mail_goes_out_with_its_own_account_over_verified_tls(site: Site, mailbox: Any) -> None:
    three_tenants(site, mailbox)
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(
            make_event("c@example.com", id="c"),
            make_event("p@example.com", id="p", scope={"partner": "acme"}),
            make_event("o@example.com", id="o", scope={"partner": "acme", "org": "dev"}),
            make_event("q@example.com", id="q", scope={"partner": "acme", "org": "qa"}),
        )
        records = site.reader(running).wait_for(4)
        assert running.terminate() == 0
    assert {r["recipient"]: r["config"]["scope"] for r in records} == {
        "c@example.com": "controller",
        "p@example.com": "partner:acme",
        "o@example.com": "org:acme/dev",
        "q@example.com": "partner:acme",
    }
    assert {r["outcome"] for r in records} == {"accepted"}
    assert all(r["tls"]["verified"] and r["tls"]["version"].startswith("TLSv1") for r in records)
    assert all(r["reply"]["code"] == 250 and r["remote_queue_id"] for r in records)
    senders = {mail["Delivered-To"]: mail["From"] for mail in mailbox.wait_for(4)}
    assert {to: f.addresses[0].addr_spec for to, f in ((k, v) for k, v in senders.items())} == {
        "c@example.com": CONTROLLER,
        "p@example.com": PARTNER,
        "o@example.com": ORG,
        "q@example.com": PARTNER,
    }
    for account in (CONTROLLER, PARTNER, ORG):
        assert f"sasl_username={account}" in mailbox.log()


def test_three_recipients_of_whom_one_is_refused_leave_three_records(site: Site, mailbox: Any) -> None:
    three_tenants(site, mailbox)
    mailbox.refuse("gone@example.com", "550 5.1.1 No such user here")
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(make_event("a@example.com", "gone@example.com", "b@example.com", id="three"))
        records = site.reader(running).wait_for(3, eventid="three")
        assert running.terminate() == 0
    by_recipient = {r["recipient"]: r for r in records}
    assert {r: v["outcome"] for r, v in by_recipient.items()} == {
        "a@example.com": "accepted",
        "b@example.com": "accepted",
        "gone@example.com": "refused",
    }
    refused = by_recipient["gone@example.com"]["reply"]
    assert (refused["code"], refused["enhanced"], refused["phase"]) == (550, "5.1.1", "rcpt")
    assert len(mailbox.wait_for(2)) == 2


def test_the_same_event_published_twice_gives_one_mail(site: Site, mailbox: Any) -> None:
    three_tenants(site, mailbox)
    event = make_event("once@example.com", id="twice")
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(event, event)
        site.reader(running).wait_for(1, eventid="twice")
        site.publish(event)
        running.wait_for("event is recorded already: nothing left to send")
        assert running.terminate() == 0
    assert len(mailbox.to("once@example.com")) == 1


def test_a_transient_refusal_is_tried_again_until_it_is_accepted(site: Site, mailbox: Any) -> None:
    three_tenants(site, mailbox)
    site.env_extra["POSTBOTE_RETRY_FIRST_WAIT_S"] = "0.5"
    mailbox.refuse("slow@example.com", "450 4.2.0 Greylisted")
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(make_event("slow@example.com", id="slow"))
        reader = site.reader(running)
        reader.wait_for(1, eventid="slow", outcome="deferred")
        mailbox.refuse("slow@example.com", None)
        [accepted] = reader.wait_for(1, eventid="slow", outcome="accepted")
        assert running.terminate() == 0
    assert accepted["attempt"] > 1


FAULTS = {
    "a wrong password": (lambda s, p: configure_faulty(s, p, p.port_starttls, "starttls", password="wrong"), 535),
    "an untrusted certificate": (
        lambda s, p: configure_faulty(s, p, p.port_starttls, "starttls", ca=p.untrusted_ca_file),
        None,
    ),
    "an untrusted certificate on a TLS port": (
        lambda s, p: configure_faulty(s, p, p.port_ssl, "ssl", ca=p.untrusted_ca_file),
        None,
    ),
    "a certificate for another name": (
        lambda s, p: configure_faulty(s, p, p.port_starttls, "starttls", host="localhost.localdomain"),
        None,
    ),
    "a server without STARTTLS": (lambda s, p: configure_faulty(s, p, p.port_plain, "starttls"), None),
}


def configure_faulty(
    site: Site,
    postfix: Any,
    port: int,
    tls: str,
    *,
    host: str = "localhost",
    ca: Any = None,
    password: str | None = None,
) -> None:
    site.configure(
        "partner:acme", host, port, "--tls", tls, "--username", PARTNER, "--ca-bundle", str(ca or postfix.ca_file),
        password=password or postfix.users[PARTNER],
    )  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_record_that_cannot_work_sends_no_mail_and_the_audit_says_why(fault: str, site: Site, mailbox: Any) -> None:
    configure, code = FAULTS[fault]
    configure(site, mailbox)
    before = len(mailbox.log())
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(make_event("a@example.com", id="f", scope={"partner": "acme"}))
        [record] = site.reader(running).wait_for(1, eventid="f")
        assert running.terminate() == 0
    assert record["outcome"] == "config_fault"
    assert record["reason"]
    assert record.get("reply", {}).get("code") == code
    assert not mailbox.mails()
    seen = mailbox.log()[before:]
    logins = seen.count(" auth=")
    assert logins == (1 if code == 535 else 0), seen
    # It waits for the record to work: by itself, no operator has to replay it.
    assert left_resting(site)["x-postbote-attempt"] == 1
    assert record["next_attempt_at"]


def left_resting(site: Site) -> dict[str, Any]:
    """The headers of the one event that rests, or has rested by now and is back in its lane."""
    tier = topology.retry_queue(Lane.TRANSACTIONAL, Tier.TEN_SECONDS)
    resting: list[pika.BasicProperties] = []
    rested: list[pika.BasicProperties] = []
    deadline = time.monotonic() + PATIENCE_S
    while not resting + rested and time.monotonic() < deadline:  # on its way from the one to the other it is in none
        resting += [properties for properties, _ in drained(site.amqp_url, tier)]
        rested += [properties for properties, _ in drained(site.amqp_url, topology.lane_queue(Lane.TRANSACTIONAL))]
    assert all(properties.headers["x-death"][0]["queue"] == tier for properties in rested), "it never rested"
    [found] = resting + rested
    return dict(found.headers)


INJECTIONS = {
    "a line break in a subject": ({"subject": "Hi\r\nBcc: x@example.com"}, "data.subject"),
    "a bare line feed in a subject": ({"subject": "Hi\nBcc: x@example.com"}, "data.subject"),
    "a folded subject": ({"subject": "Hi\r\n folded"}, "data.subject"),
    "a NUL in a subject": ({"subject": "Hi\x00there"}, "data.subject"),
    "a line separator in a name": ({"to": [{"email": "a@example.com", "name": "A\u2028B"}]}, "data.to.0.name"),
    "a line break in a name": ({"cc": [{"email": "a@example.com", "name": "A\r\nX: y"}]}, "data.cc.0.name"),
    "a line break in an address": ({"to": ["a@example.com>\r\nRCPT TO:<x@example.com"]}, "data.to.0"),
    "a line break in a custom header": ({"headers": {"X-Note": "a\r\nBcc: x@example.com"}}, "data.headers.X-Note"),
    "a line break in a header's name": ({"headers": {"X-A\r\nBcc": "x@example.com"}}, "data.headers.X-A"),
    "a header that the worker writes": ({"headers": {"Bcc": "x@example.com"}}, "data.headers.Bcc"),
    "a line break in a sender": ({"from": "a@example.com\r\nX: y"}, "data.from"),
    "a line break in a file name": (
        {"attachments": [{"filename": "a\r\nX: y", "content": "aGk="}]},
        "data.attachments.0.filename",
    ),
    "a line break in a content type": (
        {"attachments": [{"filename": "a", "content": "aGk=", "content_type": "text/plain\r\nX: y"}]},
        "data.attachments.0.content_type",
    ),
}


def test_injections_are_refused_as_invalid_with_the_fields_path(site: Site, mailbox: Any) -> None:
    three_tenants(site, mailbox)
    events = {name: make_event("a@example.com", id=name) for name in INJECTIONS}
    for name, (data, _) in INJECTIONS.items():
        events[name]["data"] |= data
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(*events.values())
        records = site.reader(running).wait_for(len(INJECTIONS), outcome="invalid")
        assert running.terminate() == 0
    reasons = {r["event_id"]: r["reason"] for r in records}
    assert set(reasons) == set(INJECTIONS)
    assert {n: p for n, (_, p) in INJECTIONS.items() if p not in reasons[n]} == {}, reasons
    assert not mailbox.mails()
    assert len(drained(site.amqp_url, topology.PARKED_QUEUE)) == len(INJECTIONS)


def test_text_beyond_ascii_arrives_readable(site: Site, mailbox: Any) -> None:
    three_tenants(site, mailbox)
    event = make_event(
        "Jörg Müller <joerg@bücher.example>",
        id="unicode",
        subject="Grüße aus Köln – 你好 🎉",
        text="Zeile eins\n.Punkt am Anfang\nnaïve café\n",
        html="<p>naïve café</p>",
        attachments=[{"filename": "Übersicht – März.txt", "content_type": "text/plain", "content": "aGFsbG8="}],
        headers={"X-Note": "Ärger"},
    )
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(event)
        [record] = site.reader(running).wait_for(1, eventid="unicode")
        assert running.terminate() == 0
    assert (record["outcome"], record["recipient"]) == ("accepted", "joerg@xn--bcher-kva.example")
    [mail] = mailbox.wait_for(1)
    assert mail["Subject"] == "Grüße aus Köln – 你好 🎉"
    assert mail["To"].addresses[0].display_name == "Jörg Müller"
    assert mail["X-Note"] == "Ärger"
    assert mail.get_body(("plain",)).get_content().splitlines() == ["Zeile eins", ".Punkt am Anfang", "naïve café"]
    assert "naïve café" in mail.get_body(("html",)).get_content()
    [attachment] = mail.iter_attachments()
    assert attachment.get_filename() == "Übersicht – März.txt"
    assert attachment.get_content() == "hallo"


def test_a_binary_event_is_understood(site: Site, mailbox: Any) -> None:
    three_tenants(site, mailbox)
    event = make_event("b@example.com", id="binary")
    headers = {f"ce-{k}": v for k, v in event.items() if k != "data"}
    with site.worker() as running:
        running.wait_for("consuming")
        url, body = f"{running.base_url}/v1/events", json.dumps(event["data"]).encode()
        status, told, _ = request("POST", url, site.token, body, {**headers, "Content-Type": "application/json"})
        assert status == 202
        [record] = site.reader(running).wait_for(1, eventid="binary")
        assert record["outcome"] == "accepted"
        assert request("GET", running.base_url + told["audit"], site.token)[1]["total"] == 1
        assert running.terminate() == 0


def test_an_invalid_event_over_http_is_answered_with_the_field_and_not_published(site: Site, mailbox: Any) -> None:
    three_tenants(site, mailbox)
    with site.worker() as running:
        running.wait_for("consuming")
        event = make_event("nobody", id="bad", expire_at="2027-01-01T00:00:00Z")
        status, problem, headers = request("POST", f"{running.base_url}/v1/events", site.token, body_of(event))
        assert (status, headers["Content-Type"]) == (400, "application/problem+json")
        assert {e["path"] for e in problem["errors"]} == {
            "data.to.0.email",
            "data.to",
            "data.expire_at",
        }
        assert running.terminate() == 0


def test_without_any_record_events_are_parked_as_unconfigured(site: Site) -> None:
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(make_event("a@example.com", id="u", scope={"partner": "nobody"}))
        [record] = site.reader(running).wait_for(1, eventid="u")
        assert running.terminate() == 0
    assert record["outcome"] == "unconfigured"
    [(properties, _)] = drained(site.amqp_url, topology.PARKED_QUEUE)
    assert properties.headers["x-postbote-reason"] == "unconfigured"


def test_500_events_with_opensearch_away_in_the_middle_flow_on_and_lose_nothing(
    site: Site, mailbox: Any, opensearch: Any
) -> None:
    three_tenants(site, mailbox)
    events = mixed_events(500, "bulk")
    with site.worker() as running:
        running.wait_for("consuming")
        reader = site.reader(running)
        site.publish(*events[:200])
        reader.wait_for(50)
        opensearch.stop()
        try:
            site.publish(*events[200:])
            # Mail does not wait for OpenSearch: its records do, in the outbox.
            delivered = [mail["Delivered-To"] for mail in mailbox.wait_for(500, timeout=60)]
        finally:
            opensearch.start()
        records = reader.wait_for(500, timeout=90)
        assert running.terminate() == 0
    assert {r["recipient"] for r in records} == {e["data"]["to"][0] for e in events}
    assert {r["outcome"] for r in records} == {"accepted"}
    assert sorted(delivered) == sorted(e["data"]["to"][0] for e in events), "each mail once"
    for queue in (topology.lane_queue(Lane.TRANSACTIONAL), topology.PARKED_QUEUE, topology.AUDIT_OUTBOX_QUEUE):
        assert not drained(site.amqp_url, queue), queue


def test_sigterm_finishes_what_is_sent_and_returns_the_rest(site: Site, mailbox: Any) -> None:
    three_tenants(site, mailbox)
    site.env_extra["POSTBOTE_RETRY_FIRST_WAIT_S"] = "20"
    mailbox.refuse("later@example.com", "450 4.2.0 Greylisted")
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(make_event("now@example.com", id="now"), make_event("later@example.com", id="later"))
        reader = site.reader(running)
        reader.wait_for(1, eventid="now", outcome="accepted")
        reader.wait_for(1, eventid="later", outcome="deferred")
        assert running.terminate(timeout=10) == 0
    left = [json.loads(body)["id"] for _, body in drained(site.amqp_url, topology.lane_queue(Lane.TRANSACTIONAL))]
    assert left == ["later"]


def test_a_killed_workers_events_are_taken_up_by_the_next_one(site: Site, mailbox: Any) -> None:
    three_tenants(site, mailbox)
    site.env_extra["POSTBOTE_RETRY_FIRST_WAIT_S"] = "20"
    mailbox.refuse("kept@example.com", "450 4.2.0 Greylisted")
    with site.worker() as first:
        first.wait_for("consuming")
        site.publish(make_event("kept@example.com", id="kept"))
        site.reader(first).wait_for(1, eventid="kept", outcome="deferred")
        first.kill()
    mailbox.refuse("kept@example.com", None)
    with site.worker() as second:
        second.wait_for("consuming")
        [record] = site.reader(second).wait_for(1, eventid="kept", outcome="accepted")
        assert second.terminate() == 0
    assert record["possible_duplicate"]
    assert len(mailbox.to("kept@example.com")) == 1


def test_no_secret_and_no_body_in_the_logs_at_debug_level(site: Site, mailbox: Any) -> None:
    three_tenants(site, mailbox)
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(make_event("a@example.com", id="quiet", text="the-body-of-the-mail"))
        site.reader(running).wait_for(1, eventid="quiet")
        assert running.terminate() == 0
        logged = "\n".join(running.lines)
    for secret in (*mailbox.users.values(), site.key, "the-body-of-the-mail", "guest:guest"):
        assert secret not in logged
