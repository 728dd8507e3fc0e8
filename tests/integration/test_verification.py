"""Test mails to a real Postfix with SASL and TLS, and what `config explain` then knows of it on real servers."""

import asyncio
import json
import re
import time
import urllib.request
from typing import Any

import pytest
from pydantic import SecretStr

from schemas.audit import Outcome
from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig, TlsMode
from tests.integration.conftest import Site
from tests.services.postfix import Postfix
from worker.control.trials import TestMail
from worker.delivery.breakers import BreakerKey, Breakers
from worker.delivery.ports import Answer, Phase, SmtpReply
from worker.rabbit.breaker_stream import BreakerStream
from worker.rabbit.publisher import Publisher
from worker.smtp.egress import EgressGuard
from worker.testing import MemoryAudit
from worker.trials import Limits, Trials

USER, PASSWORD = "partner@partner.test", "partner-secret"
TO = "bob@to.test"
MAIL = TestMail(USER, TO, "Räksmörgås", "One line.\n.A dot.\n")
BOTH = pytest.mark.parametrize("tls", [TlsMode.STARTTLS, TlsMode.SSL])


def record(server: Postfix, tls: TlsMode, **changes) -> SmtpConfig:
    port = {TlsMode.STARTTLS: server.port_starttls, TlsMode.SSL: server.port_ssl}[tls]
    given = {"host": "localhost", "port": port, "tls": tls, "ca_bundle": server.ca_file.read_text()}
    return SmtpConfig(**{**given, "username": USER, "password": SecretStr(PASSWORD), **changes})


@pytest.fixture
def audit() -> MemoryAudit:
    return MemoryAudit()


@pytest.fixture
def trials(audit) -> Trials:
    return Trials(audit, EgressGuard(), ehlo_name="client.test", worker_id="w1", limits=Limits(overall_s=20.0))


@BOTH
async def test_the_mail_arrives_with_the_askers_from_and_return_path(mailbox, trials, audit, tls) -> None:
    found = await trials.verify(record(mailbox, tls), CONTROLLER, MAIL)
    assert found.accepted, found
    (mail,) = mailbox.wait_for(1, recipient=TO)
    assert (mail["From"], mail["Return-Path"], mail["Subject"]) == (USER, f"<{USER}>", "Räksmörgås")
    assert mail["Message-ID"] == found.message_id
    assert mail.get_content() == "One line.\n.A dot.\n"
    (noted,) = audit.records.values()
    assert (noted.outcome, noted.tls.version, noted.tls.verified) == (Outcome.ACCEPTED, "TLSv1.3", True)
    assert noted.remote_queue_id in found.reply["text"]


def refused_logins(mailbox: Postfix) -> int:
    return len(re.findall(r"SASL \w+ authentication failed", mailbox.log()))


@BOTH
async def test_a_wrong_password_is_tried_once_and_is_a_config_fault(mailbox, trials, tls) -> None:
    before = refused_logins(mailbox)
    found = await trials.verify(record(mailbox, tls, password=SecretStr("not-the-secret")), CONTROLLER, MAIL)
    assert (found.outcome, found.reply["code"], found.reply["phase"]) == (Outcome.CONFIG_FAULT, 535, "auth")
    assert found.hint.startswith("The server refuses username or password")
    assert "not-the-secret" not in repr(found)
    async with asyncio.timeout(10):
        while refused_logins(mailbox) == before:
            await asyncio.sleep(0.02)  # Postfix answers first, and has it logged by another process
    assert refused_logins(mailbox) == before + 1
    assert mailbox.mails() == []


@pytest.mark.parametrize(
    ("reply", "outcome", "code"),
    [("550 5.1.1 No such user", "refused", 550), ("450 4.2.0 Greylisted, come back", "exhausted", 450)],
)
async def test_a_recipient_that_is_not_taken_is_told(mailbox, trials, reply, outcome, code) -> None:
    mailbox.refuse(TO, reply)
    found = await trials.verify(record(mailbox, TlsMode.SSL), CONTROLLER, MAIL)
    assert (found.outcome, found.accepted, found.reply["code"]) == (outcome, False, code)
    assert mailbox.mails() == []


@BOTH
async def test_a_ca_that_signed_nothing_is_a_config_fault_and_no_login_is_tried(mailbox, trials, tls) -> None:
    found = await trials.verify(record(mailbox, tls, ca_bundle=mailbox.untrusted_ca_file.read_text()), CONTROLLER, MAIL)
    assert (found.outcome, found.reason.split(":")[0]) == (Outcome.CONFIG_FAULT, "certificate-untrusted")


async def test_a_tenants_record_for_this_host_is_out_of_reach(mailbox, audit) -> None:
    trials = Trials(audit, EgressGuard(ports=((1, 65535),)), ehlo_name="c.test", worker_id="w", limits=Limits(5, 0.2))
    found = await trials.verify(record(mailbox, TlsMode.SSL, partner="acme"), Scope("acme"), MAIL)
    assert (found.outcome, found.reason) == (Outcome.EXHAUSTED, "unreachable: The server cannot be reached.")
    assert mailbox.mails() == []


# The commands on real servers


async def open_breaker(url: str, key: BreakerKey) -> None:
    """Tell the replicas, as a worker does, that the record's login is refused."""
    publisher = await Publisher(url, "test breakers").start(declare=True)
    breakers = Breakers()
    stream = BreakerStream(url, publisher, breakers.apply, name="test breakers")
    stream.start()
    assert await stream.caught_up()
    change = breakers.learned(key, [Answer(Phase.AUTH, SmtpReply(535, "5.7.8 no"))], time.time())
    assert change is not None
    stream.share(change)
    await stream.close()
    await publisher.close()


def explained_with_all_that_is_known(site: Site) -> dict[str, Any]:
    """What the command says once breakers and audit answered it in time: it asks each for two seconds."""
    deadline = time.monotonic() + 60
    while True:
        told: dict[str, Any] = json.loads(site.run("config", "explain", "--scope", "partner:acme", "--json"))
        known = told["applies"]["breaker"] is not None and told["applies"]["last"] is not None
        if known or time.monotonic() > deadline:
            return told


def test_explain_knows_the_replicas_breaker_and_the_test_mails_end(
    mailbox, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.rabbit.breaker_stream.CLOSE_S", 30.0)  # what is not sent by then is dropped
    options = ("--tls", "ssl", "--ca-bundle", str(mailbox.ca_file), "--username", USER)
    site.configure("controller", "localhost", mailbox.port_ssl, *options, password=PASSWORD)
    asyncio.run(open_breaker(site.amqp_url, BreakerKey(CONTROLLER, "default", 1)))

    told = json.loads(site.run("config", "verify", "--scope", "partner:acme", "--to", TO, "--json"))
    assert (told["accepted"], told["outcome"]) == (True, "accepted")
    assert told["audit_id"] is not None
    mailbox.wait_for(1, recipient=TO)

    refresh = urllib.request.Request(f"{site.opensearch_url}/{site.index_prefix}-*/_refresh", method="POST")
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(refresh, timeout=30).close()
    explained = explained_with_all_that_is_known(site)
    applies = explained["applies"]
    assert (applies["breaker"]["state"], applies["breaker"]["reason"]) == ("open", "credentials-refused")
    assert applies["last"]["success"]["code"] == 250
    assert applies["last"]["failure"] is None
    assert PASSWORD not in json.dumps(explained)
