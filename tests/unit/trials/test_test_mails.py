"""A test mail by the real engine to a scripted server: what arrives, what is said of it, what the audit keeps."""

import asyncio
import dataclasses
import json
import socket
import time
from datetime import UTC, datetime
from ipaddress import ip_network

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from schemas.audit import Outcome
from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig, TlsMode
from tests.peers.scripted import PASSWORD, USER, Act, End, Offers, Point, Script, ScriptedPeer
from tests.unit.smtp.scripted_server import ScriptedServer
from tests.unit.trials.conftest import REACH_S
from worker.control.trials import TestMail
from worker.delivery.outcome_rules import Blame, Retry, Verdict
from worker.delivery.verification import event_of, only_outcome, sender_of
from worker.errors import AuditUnavailable
from worker.message import render
from worker.smtp.egress import EgressGuard
from worker.trials import Limits, Trials

MAIL = TestMail("ann@from.test", "bob@to.test", "Is anybody there?", "First line\n.second line\n")
ACME, WEB = Scope("acme"), Scope("acme", "web")


def record(peer, **changes):
    given = {"host": "127.0.0.1", "port": peer.port, "tls": TlsMode.NONE, "timeout_s": 5.0}
    return SmtpConfig(**{**given, **changes})


def at(point, **act):
    return Script({point: Act(**act)})


class TestArrival:
    async def test_the_mail_arrives_once_byte_for_byte_with_the_askers_from(self, make_trials, audit) -> None:
        async with ScriptedPeer() as peer:
            config = record(peer, from_address="noreply@record.test")
            found = await make_trials().verify(config, CONTROLLER, MAIL)
        (kept,) = peer.kept
        (noted,) = audit.records.values()
        event = event_of(MAIL, CONTROLLER, noted.event_id, noted.event_time)
        assert kept.content == render(event, sender_of(event, config)).message.content
        assert kept.content.startswith(b"From: ann@from.test\r\nTo: bob@to.test\r\nSubject: Is anybody there?\r\n")
        assert kept.content.endswith(b"\r\n\r\nFirst line\r\n.second line\r\n")
        assert (kept.recipient, kept.message_id) == ("bob@to.test", found.message_id)
        assert (found.accepted, found.outcome, found.hint) == (True, Outcome.ACCEPTED, None)
        assert found.reply["code"] == 250
        assert peer.commands == ["ehlo", "mail", "rcpt", "data", "quit"]
        assert peer.violations == []

    async def test_the_reverse_path_is_the_askers_too(self, make_trials) -> None:
        async with ScriptedPeer(at(Point.MAIL, say=b"550 5.1.0 no\r\n")) as peer:
            await make_trials().verify(record(peer, from_address="noreply@record.test"), CONTROLLER, MAIL)
            lines = bytes(peer.sessions[0].wire.clear).split(b"\r\n")
        assert any(line.startswith(b"MAIL FROM:<ann@from.test>") for line in lines)

    async def test_over_tls_and_with_a_login(self, make_trials, authority) -> None:
        async with ScriptedPeer(offers=Offers(starttls=True, auth=True), tls=authority.server()) as peer:
            config = record(peer, tls=TlsMode.STARTTLS, username=USER, password=PASSWORD, ca_bundle=authority.bundle)
            found = await make_trials().verify(config, CONTROLLER, MAIL)
        assert found.accepted, found
        assert peer.kept[0].encrypted

    async def test_a_record_that_signs_signs_test_mails_too(self, make_trials) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
        signing = {"dkim_domain": "from.test", "dkim_selector": "m1", "dkim_key": pem}
        async with ScriptedPeer() as peer:
            assert (await make_trials().verify(record(peer, **signing), CONTROLLER, MAIL)).accepted
            broken = await make_trials().verify(record(peer, **signing | {"dkim_key": "no key"}), CONTROLLER, MAIL)
        assert peer.kept[0].content.startswith(b"DKIM-Signature: ")
        assert (broken.outcome, broken.message_id) == (Outcome.CONFIG_FAULT, None)
        assert len(peer.kept) == 1


class TestOutcomes:
    @pytest.mark.parametrize(
        ("script", "outcome", "rule", "reply"),
        [
            (at(Point.RCPT, say=b"550 5.1.1 No such user\r\n"), "refused", "recipient-unknown", (550, "rcpt")),
            (at(Point.RCPT, say=b"450 4.2.0 Greylisted\r\n"), "exhausted", "greylisted", (450, "rcpt")),
            (at(Point.CONNECT, say=b"421 4.7.0 Too many connections from your IP\r\n", end=End.FIN),
             "exhausted", "throttled-by-policy", (421, "greeting")),
            (at(Point.DOT, say=b"554 5.7.1 Message rejected\r\n"), "refused", "message-refused", (554, "final")),
            (at(Point.DOT, say=b"354 what\r\n", holds=True), "in_doubt", "lost-after-dot", (None, "final")),
            (at(Point.DOT, end=End.FIN), "in_doubt", "lost-after-dot", (None, "final")),
            (at(Point.DOT, end=End.FIN, holds=True), "in_doubt", "lost-after-dot", (None, "final")),
            (at(Point.MAIL, end=End.FIN), "exhausted", "connection-lost", (None, "mail")),
            (at(Point.RCPT, say=b"530 5.7.0 Authentication required\r\n"),
             "config_fault", "credentials-refused", (530, "rcpt")),
        ],
    )  # fmt: skip
    async def test_each_end_is_told_and_recorded_as_what_it_is_after_one_attempt(
        self, make_trials, audit, script, outcome, rule, reply
    ) -> None:
        async with ScriptedPeer(script) as peer:
            found = await make_trials().verify(record(peer, retries=5), CONTROLLER, MAIL)
        assert (found.outcome, found.accepted) == (outcome, False)
        assert found.reason.startswith(f"{rule}: ")
        assert (found.reply["code"], found.reply["phase"]) == reply
        (noted,) = audit.records.values()
        assert (noted.type, noted.outcome, noted.attempt) == ("email.verification", outcome, 1)
        assert (noted.document_id, noted.next_attempt_at) == (found.audit_id, None)
        assert len(peer.sessions) == 1

    async def test_a_wrong_password_is_tried_once_and_stands_nowhere(self, make_trials, audit, authority) -> None:
        say = b"535 5.7.8 not-the-secret is wrong\r\n"
        offers = Offers(starttls=True, auth=True)
        async with ScriptedPeer(always=at(Point.AUTH, say=say), offers=offers, tls=authority.server()) as peer:
            config = record(
                peer, tls=TlsMode.STARTTLS, username=USER, password="not-the-secret", ca_bundle=authority.bundle
            )
            found = await make_trials().verify(config, CONTROLLER, MAIL)
        assert (found.outcome, found.reply["code"]) == (Outcome.CONFIG_FAULT, 535)
        assert found.hint.startswith("The server refuses username or password")
        assert peer.commands.count("AUTH") == 1
        (noted,) = audit.records.values()
        assert "not-the-secret" not in repr(found) + noted.to_json().decode()

    async def test_a_password_repeated_after_the_login_is_masked(self, make_trials, audit, authority) -> None:
        script = at(Point.RCPT, say=f"550 5.1.1 {PASSWORD} is unknown\r\n".encode())
        offers = Offers(starttls=True, auth=True)
        async with ScriptedPeer(script, offers=offers, tls=authority.server()) as peer:
            config = record(peer, tls=TlsMode.STARTTLS, username=USER, password=PASSWORD, ca_bundle=authority.bundle)
            found = await make_trials().verify(config, CONTROLLER, MAIL)
        assert found.reply["text"] == "5.1.1 [redacted] is unknown"
        (noted,) = audit.records.values()
        assert PASSWORD not in repr(found) + noted.to_json().decode()

    async def test_a_certificate_that_is_not_trusted_is_a_config_fault_with_its_hint(
        self, make_trials, authority
    ) -> None:
        async with ScriptedPeer(offers=Offers(starttls=True), tls=authority.server()) as peer:
            found = await make_trials().verify(record(peer, tls=TlsMode.STARTTLS), CONTROLLER, MAIL)
        assert found.outcome is Outcome.CONFIG_FAULT
        assert found.reason.startswith("certificate-untrusted: ")
        assert found.hint.startswith("Nobody trusted here has signed the certificate")
        assert peer.kept == []

    @pytest.mark.parametrize(
        ("point", "outcome", "rule"),
        [
            (Point.CONNECT, "exhausted", "timed-out"),
            (Point.MAIL, "exhausted", "timed-out"),
            (Point.DOT, "in_doubt", "lost-after-dot"),
        ],
    )
    async def test_at_the_overall_limit_it_is_a_timeout_and_after_the_dot_a_doubt(
        self, make_trials, point, outcome, rule
    ) -> None:
        async with ScriptedPeer(at(point, end=End.MUTE)) as peer:
            found = await make_trials(overall_s=1.0).verify(record(peer, timeout_s=60), CONTROLLER, MAIL)
        assert (found.outcome, found.reason.split(":")[0]) == (outcome, rule)
        assert 990 <= found.took_ms < 15_000

    @pytest.mark.parametrize("outcome", list(Outcome))
    def test_no_outcome_promises_another_attempt(self, outcome) -> None:
        told = only_outcome(Verdict(outcome, "rule", Blame.SERVER, Retry.SOON, "reason"))
        assert told not in {Outcome.DEFERRED, Outcome.THROTTLED}
        assert (told is Outcome.ACCEPTED) is (outcome is Outcome.ACCEPTED)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"subject": "a\r\nBcc: eve@evil.test"}, "subject: control character"),
            ({"subject": ""}, "subject: "),
            ({"body": "\0"}, "body: "),
            ({"sender_email": "nobody"}, "sender_email: not a valid mail address"),
            ({"recipient_email": "a@b.test\n"}, "recipient_email: "),
        ],
    )
    async def test_what_cannot_be_a_mail_is_invalid_and_nothing_is_sent(self, make_trials, changes, words) -> None:
        async with ScriptedPeer() as peer:
            found = await make_trials().verify(record(peer), CONTROLLER, dataclasses.replace(MAIL, **changes))
        assert (found.outcome, found.audit_id) == (Outcome.INVALID, None)
        assert found.reason.startswith(words)
        assert peer.sessions == []


class TestApart:
    async def test_two_versions_of_a_record_that_look_alike_share_no_connection(self, make_trials, authority) -> None:
        """The unsaved one has the stored one's version and a wrong password, which no digest shows."""
        offers = Offers(starttls=True, auth=True)
        async with ScriptedPeer(offers=offers, tls=authority.server()) as peer:
            stored = record(peer, tls=TlsMode.STARTTLS, username=USER, password=PASSWORD, ca_bundle=authority.bundle)
            unsaved = SmtpConfig.model_validate({**stored.model_dump(), "password": "another"})
            trials = make_trials()
            first, second = await asyncio.gather(
                trials.verify(stored, CONTROLLER, MAIL), trials.verify(unsaved, CONTROLLER, MAIL)
            )
        assert stored.fingerprint == unsaved.fingerprint
        assert (first.outcome, second.outcome) == (Outcome.ACCEPTED, Outcome.CONFIG_FAULT)
        assert len(peer.sessions) == 2

    async def test_nothing_stays_connected(self, make_trials) -> None:
        async with ScriptedPeer() as peer:
            await make_trials().verify(record(peer), CONTROLLER, MAIL)
            assert peer.commands[-1] == "quit"


class TestAudit:
    async def test_an_audit_that_is_away_fails_nothing(self, make_trials, audit) -> None:
        audit.hold = asyncio.Event()
        async with ScriptedPeer() as peer:
            found = await make_trials().verify(record(peer), CONTROLLER, MAIL)
        assert (found.accepted, found.audit_id) == (True, None)

    async def test_an_audit_that_refuses_fails_nothing(self) -> None:
        class Away:
            async def write(self, records) -> None:
                raise AuditUnavailable("away")

        async with ScriptedPeer() as peer:
            trials = Trials(Away(), EgressGuard(), ehlo_name="client.test", worker_id="w1")
            found = await trials.verify(record(peer), CONTROLLER, MAIL)
        assert (found.accepted, found.audit_id) == (True, None)

    async def test_it_is_recorded_for_the_scope_that_asked(self, make_trials, audit) -> None:
        async with ScriptedPeer() as peer:
            await make_trials().verify(record(peer, partner="acme"), WEB, MAIL)
        (noted,) = audit.records.values()
        assert (noted.partner, noted.org, noted.event_category) == ("acme", "web", "verification")
        assert (noted.event_source, noted.recipient) == ("urn:postbote:verification", "bob@to.test")
        assert noted.config.scope == "partner:acme"


VARYING = {"took_ms": 0, "message_id": "", "audit_id": "", "event_id": ""}


class TestTenants:
    @staticmethod
    def ways():
        def resolving(address, port):
            async def resolve(_host, _port):
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

            return resolve

        async def unknown(_host, _port):
            raise socket.gaierror(socket.EAI_NONAME, "no")

        async def no_dns(_host, _port):
            raise socket.gaierror(socket.EAI_AGAIN, "later")

        async def never(_host, _port):
            await asyncio.Event().wait()

        with socket.socket() as free:
            free.bind(("127.0.0.2", 0))
            closed = free.getsockname()[1]
        return {
            "denied": resolving("10.0.0.5", 587),
            "metadata": resolving("169.254.169.254", 587),
            "refused": resolving("127.0.0.2", closed),
            "unresolvable": unknown,
            "no dns": no_dns,
            "slow dns": never,
        }

    async def test_denied_refused_and_unresolvable_look_and_take_the_same(self, audit) -> None:
        guard = EgressGuard((ip_network("127.0.0.2/32"),))
        config = SmtpConfig(partner="acme", host="mail.acme.test", port=587, tls=TlsMode.NONE)

        async def tried(resolve):
            trials = Trials(
                audit, guard, ehlo_name="c.test", worker_id="w1", limits=Limits(reach_s=REACH_S), resolve=resolve
            )
            began = time.perf_counter()
            found = await trials.verify(config, ACME, MAIL)
            return found, time.perf_counter() - began

        spreads = []
        while len(spreads) < 3 and min(spreads, default=1.0) >= 0.2:  # a leak spreads every run, a busy machine some
            found = await asyncio.gather(*map(tried, self.ways().values()))
            told = [dataclasses.asdict(one) | VARYING for one, _ in found]
            assert len({json.dumps(each, sort_keys=True) for each in told}) == 1
            assert told[0]["reason"] == "unreachable: The server cannot be reached."
            assert told[0]["reply"] == {"code": None, "enhanced": None, "text": "", "phase": "connect"}
            took = [seconds for _, seconds in found]
            assert min(took) >= REACH_S - 0.001
            spreads.append(max(took) - min(took))
        assert min(spreads) < 0.2, spreads
        kept = [each.model_dump(exclude={"timestamp", "event_id", "event_time", "message_id", "timings"})
                for each in audit.records.values()]  # fmt: skip
        assert len(kept) == len(found) * len(spreads)
        assert all(each == kept[0] for each in kept)

    async def test_the_controller_is_told_at_once_and_in_words(self, audit) -> None:
        config = SmtpConfig(host="mail.acme.test", port=587, tls=TlsMode.NONE)
        trials = Trials(audit, EgressGuard(), ehlo_name="c.test", worker_id="w1", resolve=self.ways()["unresolvable"])
        found = await trials.verify(config, CONTROLLER, MAIL)
        assert (found.outcome, found.reason) == (Outcome.CONFIG_FAULT, "host-not-found: The host name does not exist.")
        assert found.took_ms < 4000  # a tenant is told after five seconds

    async def test_once_there_is_a_connection_the_deadline_of_the_way_there_is_over(self, make_trials) -> None:
        async def slow_banner():
            await asyncio.sleep(1.2)
            return "220 hello"

        async with ScriptedServer(lambda _s, c: slow_banner() if c == "" else None) as server:
            found = await make_trials(reach_s=1.0).verify(server.config(partner="acme", timeout_s=30), ACME, MAIL)
        assert found.accepted

    async def test_a_port_that_is_not_permitted_is_said_at_once(self, make_trials) -> None:
        config = SmtpConfig(partner="acme", host="mail.acme.test", port=8080, tls=TlsMode.NONE)
        found = await make_trials(EgressGuard(), reach_s=30).verify(config, ACME, MAIL)
        assert found.outcome is Outcome.CONFIG_FAULT
        assert found.hint.startswith("Use 587 or 465")
        assert found.took_ms < 15_000

    async def test_the_words_of_a_wider_scopes_server_stay_with_their_owner(self, make_trials, audit) -> None:
        script = at(Point.RCPT, say=b"550 5.1.1 No such user at mail.controller.internal\r\n")
        async with ScriptedPeer(always=script) as peer:
            foreign = await make_trials().verify(record(peer), ACME, MAIL)
            own = await make_trials().verify(record(peer, partner="acme"), ACME, MAIL)
        assert foreign.reply == {"code": 550, "enhanced": "5.1.1", "text": "", "phase": "rcpt"}
        assert own.reply["text"] == "5.1.1 No such user at mail.controller.internal"
        assert ["controller.internal" in each.to_json().decode() for each in audit.records.values()] == [False, True]


class TestProbes:
    async def test_the_controller_sees_addresses_and_a_tenant_does_not(self, make_trials) -> None:
        trials = make_trials()
        async with ScriptedPeer() as peer:
            config = record(peer, partner="acme", from_address="ann@from.test")
            operator = await trials.probe(config, CONTROLLER, recipient="bob@to.test")
            tenant = await trials.probe(config, ACME, recipient=None)
        assert [stage["name"] for stage in operator["stages"]][:3] == ["dns", "egress", "tcp"]
        assert tenant["stages"][0]["name"] == "reach"
        assert operator["ok"]
        assert tenant["ok"]
        rcpt = [next(s["result"] for s in found["stages"] if s["name"] == "rcpt") for found in (operator, tenant)]
        assert rcpt == ["ok", "skipped"]
        assert peer.kept == []

    async def test_of_a_wider_scopes_record_only_the_stages_are_told(self, make_trials) -> None:
        async with ScriptedPeer() as peer:
            found = await make_trials().probe(record(peer, from_address="ann@from.test"), WEB, recipient=None)
        assert found["ok"]
        assert found["config"] == {
            "scope": "controller",
            "warnings": list(SmtpConfig(host="x", port=25, tls="none").warnings()),
        }
        text = json.dumps(found)
        assert "peer.test" not in text
        assert "127.0.0.1" not in text


def test_a_test_mail_is_the_same_whoever_renders_it() -> None:
    now = datetime(2025, 11, 21, 12, tzinfo=UTC)
    config = SmtpConfig(host="mail.test", port=25, tls="none")
    first, second = (event_of(MAIL, ACME, "id-1", now) for _ in range(2))
    assert render(first, sender_of(first, config)) == render(second, sender_of(second, config))
    assert first.scope == ACME
