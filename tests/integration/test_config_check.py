"""The staged check and its command against a real Postfix with SASL, STARTTLS and TLS at once."""

import json
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from pydantic import SecretStr

from schemas.smtp_config import SmtpConfig, TlsMode
from tests.services.postfix import Postfix
from tests.services.processes import wait_until
from tests.support.process import run_postbote
from worker.smtp.egress import EgressGuard
from worker.smtp.probe import Audience, Limits, Report, check
from worker.store.secrets import new_key

USER, PASSWORD = "partner@partner.test", "partner-secret"
TO = "bob@to.test"
PATIENT = Limits(stage_s=20.0)
# For a server that never says a word: only the kernel's connect has to be in time.
SILENT = Limits(stage_s=1.0)
BOTH = pytest.mark.parametrize("tls", [TlsMode.STARTTLS, TlsMode.SSL])


@pytest.fixture(scope="module")
def other() -> Iterator[Postfix]:
    """A Postfix of this module's own: its certificate is changed."""
    with Postfix.make() as instance:
        yield instance


def record(server: Postfix, tls: TlsMode, **changes) -> SmtpConfig:
    port = {TlsMode.NONE: server.port_plain, TlsMode.STARTTLS: server.port_starttls, TlsMode.SSL: server.port_ssl}[tls]
    given = {"host": "localhost", "port": port, "tls": tls, "ca_bundle": server.ca_file.read_text()}
    login = {} if tls is TlsMode.NONE else {"username": USER, "password": SecretStr(PASSWORD)}
    return SmtpConfig(**{**given, **login, **changes})


async def probe(config: SmtpConfig, **more) -> Report:
    given = {"ehlo_name": "client.test", "guard": EgressGuard(), "sender": USER, "recipient": TO, "limits": PATIENT}
    report = await check(config, **{**given, **more})
    assert PASSWORD not in json.dumps(report.to_json())
    return report


def last_disconnect(server: Postfix, count: int) -> str:
    """The `count`-th line in which Postfix says which commands a connection had."""
    found = lambda: re.findall(r"disconnect from .*", server.log())  # noqa: E731
    wait_until(lambda: len(found()) >= count, log=server.log_file, seconds=60)
    return found()[count - 1]


def disconnects(server: Postfix) -> int:
    """How many connections there have been, once all that began have ended: an earlier test's may end late."""
    begun, ended = (lambda word=word: server.log().count(f": {word} from ") for word in ("connect", "disconnect"))
    wait_until(lambda: begun() == ended(), log=server.log_file, seconds=60)
    return ended()


@pytest.mark.parametrize("tls", list(TlsMode))
async def test_a_record_that_works_passes_every_stage_and_leaves_no_mail(mailbox, tls) -> None:
    before = disconnects(mailbox)
    report = await probe(record(mailbox, tls))
    assert report.ok, report.failed
    line = last_disconnect(mailbox, before + 1)
    auth = "" if tls is TlsMode.NONE else " auth=1"
    greeted = " ehlo=2 starttls=1" if tls is TlsMode.STARTTLS else " ehlo=1"
    assert line.split("]", 1)[1].startswith(f"{greeted}{auth} mail=1 rcpt=1 rset=1 quit=1")
    assert "data" not in line
    assert mailbox.mails() == []


@BOTH
async def test_what_protects_the_connection_is_shown(postfix, tls) -> None:
    report = await probe(record(postfix, tls))
    facts = next(stage.facts for stage in report.stages if stage.name == "tls")
    assert (facts["version"], facts["verified"]) == ("TLSv1.3", True)
    assert facts["chain"][0]["names"] == ["localhost", "127.0.0.1"]
    assert "trustme" in facts["chain"][0]["issuer"]
    mechanism = next(stage.facts for stage in report.stages if stage.name == "auth")
    assert mechanism == {"mechanism": "PLAIN"}


@BOTH
async def test_a_wrong_password_is_tried_once(postfix, tls) -> None:
    before = disconnects(postfix)
    report = await probe(record(postfix, tls, password=SecretStr("not-the-secret")))
    assert report.failed is not None
    assert (report.failed.name, report.failed.code, report.failed.rule) == ("auth", 535, "credentials-refused")
    assert report.failed.hint.name == "credentials-wrong"
    assert " auth=0/1" in last_disconnect(postfix, before + 1)
    assert disconnects(postfix) == before + 1
    assert "not-the-secret" not in json.dumps(report.to_json())


@BOTH
async def test_a_ca_that_signed_nothing_is_told_with_the_chain(postfix, tls) -> None:
    report = await probe(record(postfix, tls, ca_bundle=postfix.untrusted_ca_file.read_text()))
    assert report.failed is not None
    assert (report.failed.name, report.failed.hint.name) == ("tls", "certificate-of-unknown-ca")
    assert report.failed.facts["chain"][0]["names"] == ["localhost", "127.0.0.1"]


@BOTH
@pytest.mark.parametrize(
    ("names", "days", "hint"),
    [
        (("mx.other.test",), 90, "certificate-of-another-name"),
        (("localhost",), -2, "certificate-expired"),
        (("localhost",), 5, "certificate-expires-soon"),
    ],
)
async def test_a_certificate_for_another_name_or_out_of_its_time(other, tls, names, days, hint) -> None:
    ca = _show(other, names, days)
    report = await probe(record(other, tls, ca_bundle=ca))
    stage = next(stage for stage in report.stages if stage.name == "tls")
    assert stage.hint is not None
    assert stage.hint.name == hint
    assert report.ok is (hint == "certificate-expires-soon")
    assert stage.facts["chain"][0]["names"] == list(names)


def _show(server: Postfix, names: tuple[str, ...], days: int) -> str:
    """Give the server another certificate; returns the CA that signed it."""
    ca = trustme.CA()
    certificate = ca.issue_cert(*names, not_after=datetime.now(UTC) + timedelta(days=days))
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    (server.folder / "tls/server.pem").write_bytes(chain)
    certificate.private_key_pem.write_to_path(server.folder / "tls/server.key")
    server.configure()
    return ca.cert_pem.bytes().decode()


@pytest.mark.parametrize(
    ("tls", "port", "stage", "hint"),
    [
        (TlsMode.SSL, "port_starttls", "tls", "tls-to-a-port-in-clear"),
        (TlsMode.SSL, "port_plain", "tls", "tls-to-a-port-in-clear"),
        (TlsMode.STARTTLS, "port_ssl", "banner", "silent-server"),
        (TlsMode.STARTTLS, "port_plain", "starttls", "starttls-not-offered"),
        (TlsMode.NONE, "port_ssl", "banner", "silent-server"),
    ],
)
async def test_a_port_of_the_other_kind_is_recognised(postfix, tls, port, stage, hint) -> None:
    limits = SILENT if hint == "silent-server" else PATIENT
    report = await probe(record(postfix, tls, port=getattr(postfix, port)), limits=limits)
    assert report.failed is not None
    assert (report.failed.name, report.failed.hint.name) == (stage, hint)


async def test_without_a_login_the_server_says_that_it_does_not_relay(postfix) -> None:
    report = await probe(record(postfix, TlsMode.SSL, username=None, password=None))
    assert report.failed is not None
    assert report.failed.name == "rcpt"
    assert next(stage.result for stage in report.stages if stage.name == "auth") == "skipped"


@pytest.mark.parametrize(
    ("reply", "rule", "hint"),
    [
        ("550 5.1.1 No such user", "recipient-unknown", "recipient-unknown"),
        ("450 4.2.0 Greylisted, come back", "greylisted", "greylisted"),
        ("554 5.7.1 Relay access denied", "relay-denied", "relay-denied"),
    ],
)
async def test_a_recipient_that_is_refused_is_told_and_the_rest_goes_on(mailbox, reply, rule, hint) -> None:
    mailbox.refuse(TO, reply)
    report = await probe(record(mailbox, TlsMode.SSL))
    assert report.failed is not None
    assert (report.failed.name, report.failed.rule, report.failed.hint.name) == ("rcpt", rule, hint)
    assert [str(stage.result) for stage in report.stages[-2:]] == ["ok", "ok"]


async def test_a_tenants_record_for_this_host_looks_like_one_that_nobody_answers(postfix) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    limits = Limits(stage_s=1.0, tenant_reach_s=0.3)
    guard = EgressGuard(ports=((1, 65535),))
    found = []
    for port in (postfix.port_plain, closed):
        config = record(postfix, TlsMode.NONE, partner="acme", port=port)
        report = await probe(config, audience=Audience.TENANT, guard=guard, limits=limits)
        found.append([stage.to_json() for stage in report.stages])
    assert found[0] == found[1]
    assert found[0][0]["rule"] == "unreachable"


# The command


@pytest.fixture
def env(tmp_path):
    return {
        "POSTBOTE_DATABASE_URL": f"sqlite:///{tmp_path / 'postbote.db'}",
        "POSTBOTE_SECRET_KEYS": new_key(),
        "POSTBOTE_LOG_LEVEL": "debug",
    }


def test_the_command_checks_the_stored_record_of_a_partner(mailbox, env) -> None:
    env |= {"POSTBOTE_EGRESS_ALLOW": "127.0.0.0/8,::1/128", "POSTBOTE_EGRESS_PORTS": "1-65535"}
    server = ("--host", "localhost", "--port", str(mailbox.port_starttls), "--ca-bundle", str(mailbox.ca_file))
    login = ("--username", USER, "--password-stdin")
    scope = ("--scope", "partner:acme")
    saved = run_postbote("config", "set", *scope, *server, *login, env=env, stdin=PASSWORD)
    assert saved.returncode == 0, saved.stderr
    done = run_postbote("config", "check", *scope, "--to", TO, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: every stage passed" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
    assert mailbox.mails() == []


def test_the_command_checks_an_unsaved_record_and_fails_with_one(mailbox, env) -> None:
    server = ("--host", "localhost", "--port", str(mailbox.port_ssl), "--tls", "ssl", "--ca-bundle")
    login = ("--username", USER, "--password-stdin", "--json")
    done = run_postbote("config", "check", *server, str(mailbox.ca_file), *login, env=env, stdin="wrong-secret")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["failed"]) == (False, "auth")
    assert "wrong-secret" not in done.stdout + done.stderr


def test_the_command_obeys_the_egress_rule_for_a_partners_record(mailbox, env) -> None:
    server = ("--host", "localhost", "--port", str(mailbox.port_plain), "--tls", "none")
    env |= {"POSTBOTE_EGRESS_PORTS": "1-65535"}
    done = run_postbote("config", "check", "--scope", "partner:acme", *server, env=env)
    assert done.returncode == 1
    assert "failed  egress" in done.stdout
