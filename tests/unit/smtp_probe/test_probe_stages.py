"""The staged check against a scripted server: each stage's failure, told apart, and never a mail."""

import asyncio
import json
import socket
import ssl

import pytest
import trustme
from pydantic import SecretStr

from schemas.smtp_config import TlsMode
from tests.unit.smtp.scripted_server import CLOSE, OFFER, SILENCE, ScriptedServer
from tests.unit.smtp_probe.conftest import Authority
from worker.delivery.outcome import decide
from worker.delivery.ports import Phase
from worker.smtp.dial import DialFailed, dial
from worker.smtp.egress import EgressGuard
from worker.smtp.probe import Limits, check
from worker.smtp.probe_stages import Audience, StageName, StageResult, plan
from worker.smtp.tls import tls_context

PASSWORD = "geheim-42-nie"
LOGIN = {"username": "ann@from.test", "password": SecretStr(PASSWORD)}
STARTTLS = (*OFFER, "STARTTLS", "AUTH PLAIN")
SENDER, RECIPIENT = "ann@from.test", "bob@to.test"
QUICK = Limits(stage_s=0.5, overall_s=5.0, tenant_reach_s=0.3)


async def probe(config, *, limits=Limits(), **more):  # noqa: B008
    given = {"ehlo_name": "client.test", "guard": EgressGuard(), "recipient": RECIPIENT, "sender": SENDER, **more}
    return await check(config, limits=limits, **given)


def results(report):
    return {str(stage.name): str(stage.result) for stage in report.stages}


def said(server):
    return [command for session in server.sessions for command in session.commands]


def clean_of_secrets(report, server):
    assert PASSWORD not in json.dumps(report.to_json())
    assert PASSWORD not in repr(report)
    assert not [c for c in said(server) if c.upper().startswith(("DATA", "BDAT"))]
    assert server.mails == []


def failing(at, says):
    return lambda _session, command: says if command.split(" ")[0].split(":")[0] == at else None


def starttls_server(authority, script=None, offer=STARTTLS):
    return ScriptedServer(script, offer=offer, context=authority.server())


async def test_a_record_that_works_passes_every_stage_once_and_no_mail_is_sent(authority) -> None:
    async with starttls_server(authority) as server:
        config = server.config(tls=TlsMode.STARTTLS, ca_bundle=authority.bundle, **LOGIN)
        report = await probe(config)
        await server.sessions[0].ended.wait()
    assert report.ok
    assert [stage.name for stage in report.stages] == list(plan(config, Audience.OPERATOR))
    assert {stage.result for stage in report.stages} == {StageResult.OK}
    verbs = [command.split(" ")[0] for command in said(server)]
    assert verbs == ["", "EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "RSET", "QUIT"]
    clean_of_secrets(report, server)


async def test_what_the_stages_saw_is_in_their_facts(authority) -> None:
    async with starttls_server(authority) as server:
        report = await probe(server.config(tls=TlsMode.STARTTLS, ca_bundle=authority.bundle, **LOGIN))
    facts = {stage.name: stage.facts for stage in report.stages}
    assert facts[StageName.DNS] == {"addresses": ["127.0.0.1"]}
    assert facts[StageName.TCP] == {"address": "127.0.0.1"}
    assert facts[StageName.EHLO_TLS]["keywords"] == list(STARTTLS)
    assert facts[StageName.AUTH] == {"mechanism": "PLAIN"}
    tls = facts[StageName.TLS]
    assert (tls["version"], tls["verified"], tls["why_not"]) == ("TLSv1.3", True, None)
    assert tls["chain"][0]["names"] == ["127.0.0.1"]
    assert "trustme" in tls["chain"][0]["issuer"]
    assert tls["chain"][0]["not_after"].startswith("3000-01-01")
    assert all(stage.ms >= 0 for stage in report.stages)
    assert sum(stage.ms for stage in report.stages) <= report.total_ms


@pytest.mark.parametrize(
    ("at", "says", "stage", "rule", "hint"),
    [
        ("", "554 No SMTP service here", "banner", "no-service", None),
        ("", "421 4.7.0 Too many connections", "banner", "throttled-by-policy", "too-many-connections"),
        ("", "HTTP/1.1 400 Bad Request", "banner", "not-smtp", "not-smtp"),
        ("", CLOSE, "banner", "connection-lost", None),
        ("", SILENCE, "banner", "timed-out", "silent-server"),
        ("EHLO", "502 no", "ehlo", "no-service", None),
        ("EHLO", SILENCE, "ehlo", "timed-out", "silent-server"),
        ("STARTTLS", "454 4.7.0 TLS not available", "starttls", "starttls-not-now", None),
        ("STARTTLS", "502 5.5.1 what?", "starttls", "starttls-refused", None),
        ("STARTTLS", CLOSE, "starttls", "connection-lost", None),
        ("STARTTLS", b"220 go\r\n250 injected\r\n", "starttls", "tls-failed", None),
        ("AUTH", "534 5.7.9 Application-specific password required", "auth", "credentials-refused", "gmail-app-password"),
        ("AUTH", "535 5.7.139 SmtpClientAuthentication is disabled", "auth", "credentials-refused", "m365-smtp-auth-disabled"),
        ("AUTH", "535 5.7.8 no", "auth", "credentials-refused", "credentials-wrong"),
        ("AUTH", "454 4.7.0 Temporary authentication failure", "auth", "login-deferred", "login-not-now"),
        ("AUTH", SILENCE, "auth", "timed-out", None),
        ("MAIL", "530 5.7.0 Must issue a STARTTLS command first", "mail", "tls-demanded-for-good", "tls-demanded"),
        ("MAIL", "553 5.7.1 not owned by user ann", "mail", "sender-not-granted", "sender-not-granted"),
        ("MAIL", "354 go ahead", "mail", "out-of-step", None),
        ("MAIL", SILENCE, "mail", "timed-out", None),
        ("RCPT", "554 Email address is not verified.", "rcpt", "sender-not-granted", "ses-sandbox"),
        ("RCPT", "550 5.1.1 User unknown", "rcpt", "recipient-unknown", "recipient-unknown"),
        ("RCPT", "554 5.7.1 Relay access denied", "rcpt", "relay-denied", "relay-denied"),
        ("RCPT", CLOSE, "rcpt", "connection-lost", None),
        ("RSET", "500 what?", "rset", "command-out-of-step", None),
        ("QUIT", SILENCE, "quit", "timed-out", None),
    ],
)  # fmt: skip
async def test_each_failure_stands_at_its_stage_with_its_rule_and_hint(authority, at, says, stage, rule, hint) -> None:
    async with starttls_server(authority, failing(at, says)) as server:
        config = server.config(tls=TlsMode.STARTTLS, ca_bundle=authority.bundle, **LOGIN)
        report = await probe(config, limits=QUICK)
        for session in server.sessions:
            await asyncio.wait_for(session.ended.wait(), 10)  # nothing is left open
    failed = report.failed
    assert failed is not None
    assert (failed.name, failed.rule) == (stage, rule)
    assert (failed.hint.name if failed.hint else None) == hint
    assert failed.words
    assert len(report.stages) == len(plan(config, Audience.OPERATOR))
    order = [str(each.result) for each in report.stages]
    before = order[: order.index("failed")]
    assert set(before) <= {"ok"}
    assert len([c for c in said(server) if c.startswith("AUTH")]) <= 1
    assert len(server.sessions) == 1
    clean_of_secrets(report, server)


@pytest.mark.parametrize(
    ("at", "says", "after"),
    [
        ("MAIL", "550 5.7.1 no", {"rcpt": "skipped", "rset": "ok", "quit": "ok"}),
        ("RCPT", "550 5.1.1 no", {"rset": "ok", "quit": "ok"}),
        ("RCPT", "421 4.3.2 bye", {"rset": "skipped", "quit": "skipped"}),
        ("MAIL", CLOSE, {"rcpt": "skipped", "rset": "skipped", "quit": "skipped"}),
        ("AUTH", "535 no", {"mail": "skipped", "rcpt": "skipped", "rset": "skipped", "quit": "skipped"}),
        ("QUIT", CLOSE, {"quit": "ok"}),
    ],
)
async def test_after_a_refusal_it_says_goodbye_and_after_a_loss_nothing(authority, at, says, after) -> None:
    async with starttls_server(authority, failing(at, says)) as server:
        report = await probe(server.config(tls=TlsMode.STARTTLS, ca_bundle=authority.bundle, **LOGIN))
    assert {name: results(report)[name] for name in after} == after


@pytest.mark.parametrize(
    ("changes", "stage", "words"),
    [
        ({"recipient": None}, "rcpt", "no recipient was given"),
        ({"sender": None}, "mail", "no sender is known: the record has no from_address"),
        ({"sender": None}, "rcpt", "no sender is known"),
        ({}, "auth", "the record has no credentials"),
    ],
)
async def test_what_is_not_asked_for_is_skipped_and_no_failure(changes, stage, words) -> None:
    async with ScriptedServer() as server:
        report = await probe(server.config(), **changes)
    found = next(each for each in report.stages if each.name == stage)
    assert report.ok
    assert (found.result, found.words) == (StageResult.SKIPPED, words)
    assert results(report)["quit"] == "ok"


@pytest.mark.parametrize("address", ["bob@to.test>\r\nDATA", "a b@to.test", "bob@to.test\0"])
async def test_an_address_that_would_forge_commands_is_never_sent(address) -> None:
    async with ScriptedServer() as server:
        report = await probe(server.config(), recipient=address)
    assert report.failed is not None
    assert report.failed.name == "rcpt"
    assert not [c for c in said(server) if c.startswith(("RCPT", "DATA"))]
    assert results(report)["quit"] == "ok"


async def test_a_server_without_auth_is_told_apart_from_a_wrong_password(authority) -> None:
    async with starttls_server(authority, offer=(*OFFER, "STARTTLS")) as server:
        report = await probe(server.config(tls=TlsMode.STARTTLS, ca_bundle=authority.bundle, **LOGIN))
    assert report.failed is not None
    assert (report.failed.name, report.failed.hint.name) == ("auth", "login-not-offered")
    assert results(report)["ehlo_tls"] == "ok"


async def test_starttls_that_is_not_offered_fails_there_and_nothing_goes_without() -> None:
    async with ScriptedServer() as server:
        report = await probe(server.config(tls=TlsMode.STARTTLS, **LOGIN))
    assert report.failed is not None
    assert (report.failed.name, report.failed.hint.name) == ("starttls", "starttls-not-offered")
    assert results(report)["ehlo"] == "ok"
    assert [c.split(" ")[0] for c in said(server)] == ["", "EHLO"]


@pytest.mark.parametrize("mode", [TlsMode.SSL, TlsMode.STARTTLS])
@pytest.mark.parametrize(
    ("shown", "trusted", "hint", "why"),
    [
        (("127.0.0.1", None), False, "certificate-of-unknown-ca", "unable to get local issuer certificate"),
        (("other.test", None), True, "certificate-of-another-name", "IP address mismatch"),
        (("127.0.0.1", -1), True, "certificate-expired", "certificate has expired"),
    ],
)
async def test_a_certificate_that_is_refused_is_shown_with_the_reason(
    authority, mode, shown, trusted, hint, why
) -> None:
    name, days = shown
    context = authority.server(name, days=days)
    async with ScriptedServer(offer=STARTTLS, context=context, tls_at_once=mode is TlsMode.SSL) as server:
        report = await probe(server.config(tls=mode, ca_bundle=authority.bundle if trusted else None, **LOGIN))
    failed = report.failed
    assert failed is not None
    assert (failed.name, failed.rule, failed.hint.name) == ("tls", "certificate-untrusted", hint)
    assert failed.facts["verified"] is False
    assert failed.facts["why_not"].startswith(why)
    assert failed.facts["chain"][0]["names"] == [name]
    assert not [c for c in said(server) if c.startswith("AUTH")]


async def test_a_self_signed_certificate_is_named_as_one(authority, tmp_path) -> None:
    ca, context = trustme.CA(), authority.server()
    (tmp_path / "cert").write_bytes(ca.cert_pem.bytes())
    (tmp_path / "key").write_bytes(ca.private_key_pem.bytes())
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    async with ScriptedServer(offer=STARTTLS, context=context, tls_at_once=True) as server:
        report = await probe(server.config(tls=TlsMode.SSL, **LOGIN))
    assert report.failed is not None
    assert (report.failed.name, report.failed.hint.name) == ("tls", "certificate-self-signed")


async def test_an_unverified_certificate_passes_and_says_so() -> None:
    stranger = Authority(trustme.CA())
    async with ScriptedServer(offer=STARTTLS, context=stranger.server("x.test"), tls_at_once=True) as server:
        report = await probe(server.config(tls=TlsMode.SSL, verify_tls=False, **LOGIN))
    tls = next(stage for stage in report.stages if stage.name == "tls")
    assert report.ok
    assert (tls.facts["verified"], tls.facts["why_not"]) == (False, "verify_tls is off")
    assert tls.facts["chain"][0]["names"] == ["x.test"]
    assert report.subject.warnings


async def test_a_certificate_that_ends_soon_is_hinted_at_while_it_still_passes(authority) -> None:
    context = authority.server(days=3)
    async with ScriptedServer(offer=STARTTLS, context=context, tls_at_once=True) as server:
        report = await probe(server.config(tls=TlsMode.SSL, ca_bundle=authority.bundle, **LOGIN))
    assert report.ok
    assert [stage.hint.name for stage in report.stages if stage.hint] == ["certificate-expires-soon"]


async def test_a_refusal_in_place_of_the_banner_is_not_blamed_on_tls(authority) -> None:
    script = failing("", "554 No SMTP service here")
    async with ScriptedServer(script, context=authority.server(), tls_at_once=True) as server:
        report = await probe(server.config(tls=TlsMode.SSL, ca_bundle=authority.bundle, **LOGIN))
    assert report.failed is not None
    assert (report.failed.name, report.failed.rule, report.failed.code) == ("banner", "no-service", 554)
    assert results(report)["tls"] == "ok"


@pytest.mark.parametrize("audience", list(Audience))
@pytest.mark.parametrize("mode", [TlsMode.SSL, TlsMode.STARTTLS])
async def test_a_ca_bundle_that_is_none_is_a_failure_of_tls(authority, mode, audience) -> None:
    async with ScriptedServer(offer=STARTTLS, context=authority.server(), tls_at_once=mode is TlsMode.SSL) as server:
        report = await probe(server.config(tls=mode, ca_bundle="no PEM at all"), audience=audience)
    assert report.failed is not None
    assert (report.failed.name, report.failed.hint.name) == ("tls", "ca-bundle-unreadable")
    assert str(report.stages[0].result) == "ok"


async def test_for_mail_too_a_refusal_in_place_of_the_banner_is_one_of_the_greeting(authority) -> None:
    script = failing("", "554 No SMTP service here")
    async with ScriptedServer(script, context=authority.server(), tls_at_once=True) as server:
        with pytest.raises(DialFailed) as failed:
            await dial(server.config(tls=TlsMode.SSL, ca_bundle=authority.bundle), "client.test")
    assert decide(failed.value.answer).rule == "no-service"  # and not: STARTTLS refused, never to be tried again


async def test_an_address_that_refuses_is_not_named_to_who_may_not_know_it() -> None:
    server = ScriptedServer()
    server.port = 1
    with pytest.raises(DialFailed) as failed:
        await dial(server.config(), "client.test")
    assert failed.value.answer.detail == "Connection refused"


async def test_tls_at_once_to_a_port_in_clear_and_the_reverse_are_told_apart(authority) -> None:
    async with ScriptedServer() as server:
        one = await probe(server.config(tls=TlsMode.SSL, **LOGIN), limits=QUICK)
    async with ScriptedServer(context=authority.server(), tls_at_once=True) as server:
        other = await probe(server.config(tls=TlsMode.STARTTLS, **LOGIN), limits=QUICK)
    assert one.failed is not None
    assert other.failed is not None
    assert (one.failed.name, one.failed.hint.name) == ("tls", "tls-to-a-port-in-clear")
    assert (other.failed.name, other.failed.hint.name) == ("banner", "silent-server")


async def test_a_refused_connection_and_an_unknown_name() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ScriptedServer()
    server.port = port
    refused = await probe(server.config())

    async def nowhere(_host, _port):
        raise socket.gaierror(socket.EAI_NONAME, "no")

    unknown = await probe(server.config(host="no.test"), resolve=nowhere)
    assert refused.failed is not None
    assert unknown.failed is not None
    assert (refused.failed.name, refused.failed.hint.name) == ("tcp", "nobody-listens")
    assert (unknown.failed.name, unknown.failed.rule, unknown.failed.hint.name) == (
        "dns",
        "host-not-found",
        "host-unknown",
    )


@pytest.mark.parametrize(
    ("port", "hint", "dns"), [(587, "address-not-permitted", "ok"), (8080, "port-not-permitted", "skipped")]
)
async def test_an_operator_is_told_why_a_tenants_record_may_not_go_there(port, hint, dns) -> None:
    server = ScriptedServer()
    server.port = port
    report = await probe(server.config(partner="acme"))
    assert report.failed is not None
    assert (report.failed.name, report.failed.rule, report.failed.hint.name) == ("egress", "egress-denied", hint)
    assert results(report)["dns"] == dns
    assert results(report)["tcp"] == "skipped"


async def test_a_password_that_the_server_repeats_is_masked_wherever_it_says_it(authority) -> None:
    def script(_session, command):
        verb = command.split(" ")[0]
        if verb == "":
            return f"220 {PASSWORD}"
        return f"250 {PASSWORD} ok" if verb in {"MAIL", "RCPT", "RSET"} else None

    offer = (*STARTTLS, f"X-{PASSWORD}")
    async with starttls_server(authority, script, offer) as server:
        report = await probe(server.config(tls=TlsMode.STARTTLS, ca_bundle=authority.bundle, **LOGIN))
    assert report.ok
    assert "[redacted]" in json.dumps(report.to_json())
    clean_of_secrets(report, server)


async def test_replies_are_cleaned() -> None:
    async with ScriptedServer(failing("RCPT", "550 5.1.1 \x1b[31m<script>\x00 no")) as server:
        report = await probe(server.config())
    assert report.failed is not None
    assert report.failed.words == "5.1.1 [31m<script> no"


async def test_the_observer_sees_each_stage_as_it_ends_in_order() -> None:
    seen = []
    async with ScriptedServer(failing("MAIL", "550 no")) as server:
        report = await probe(server.config(), observe=seen.append)
    assert seen == list(report.stages)


async def test_everything_together_takes_no_longer_than_its_limit() -> None:
    async with ScriptedServer(failing("RCPT", SILENCE)) as server:
        report = await probe(server.config(timeout_s=60), limits=Limits(stage_s=60, overall_s=2.0))
        await asyncio.wait_for(server.sessions[0].ended.wait(), 10)
    assert report.failed is not None
    assert (report.failed.name, report.failed.rule) == ("rcpt", "timed-out")
    assert report.total_ms < 15_000


async def test_a_server_that_drips_its_reply_is_cut_off() -> None:
    async def drip(session):
        while True:
            session.writer.write(b"2")
            await asyncio.sleep(0.02)

    def script(session, command):
        return drip(session) if command.startswith("MAIL") else None

    async with ScriptedServer(script) as server:
        report = await probe(server.config(), limits=Limits(stage_s=1.0, overall_s=30))
    assert report.failed is not None
    assert (report.failed.name, report.failed.rule) == ("mail", "timed-out")
    assert report.total_ms < 15_000


async def test_a_cancelled_check_leaves_no_connection() -> None:
    arrived = asyncio.Event()

    async def wait(_session):
        arrived.set()
        await asyncio.Event().wait()

    async with ScriptedServer(lambda s, c: wait(s) if c.startswith("MAIL") else None) as server:
        task = asyncio.create_task(probe(server.config()))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.sessions[0].task.cancel()
        await asyncio.wait_for(server.sessions[0].ended.wait(), 10)


def test_the_phases_of_the_stages_are_those_of_the_rules() -> None:
    from worker.smtp.probe_watch import _PHASES

    assert set(_PHASES) == set(StageName)
    assert not set(_PHASES.values()) & {Phase.DATA, Phase.BODY, Phase.FINAL}


async def test_the_context_that_mail_goes_by_is_not_the_one_that_is_watched(authority) -> None:
    async with starttls_server(authority) as server:
        config = server.config(tls=TlsMode.STARTTLS, ca_bundle=authority.bundle, **LOGIN)
        assert (await probe(config)).ok
    shared = await tls_context(config)
    assert shared.sslobject_class is ssl.SSLObject
    assert await tls_context(config) is shared


def test_on_uvloop_the_handshake_is_seen_just_as_well(authority) -> None:
    import uvloop

    async def both():
        async with starttls_server(authority) as server:
            login = {"tls": TlsMode.STARTTLS, **LOGIN}
            return await probe(server.config(ca_bundle=authority.bundle, **login)), await probe(server.config(**login))

    well, refused = uvloop.run(both())
    assert well.ok
    assert refused.failed is not None
    assert (refused.failed.name, refused.failed.hint.name) == ("tls", "certificate-of-unknown-ca")
    for report in (well, refused):
        tls = next(stage for stage in report.stages if stage.name == "tls")
        assert tls.facts["chain"][0]["names"] == ["127.0.0.1"]
