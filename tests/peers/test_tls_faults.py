"""TLS that is stripped, broken off, injected into or not to be trusted: nothing secret ever goes in clear."""

import base64
import datetime as dt
from dataclasses import dataclass

import pytest

from tests.peers.agreement import FROM, Sender, disagreements, record_for, sender_for
from tests.peers.conftest import Authority
from tests.peers.fault_table import PATIENT_S, RETRIED, Ending, at, impatient_at_first
from tests.peers.scripted import BEHAVED, PASSWORD, USER, End, Offers, Point, Script, ScriptedPeer
from worker.delivery.ports import Ack, Later, Park, Settlement

TO = "ann@example.com"
BROKEN: Ending = ("config_fault", "accepted")
ACCEPTED: Ending = ("accepted",)
# A record that nobody mends meanwhile: no attempt will make it good.
FAULTY: Ending = ("config_fault",)
PIPELINING = pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "lockstep"])

SECRETS = tuple(
    secret.encode()
    for plain in (PASSWORD, USER, f"\0{USER}\0{PASSWORD}", TO, FROM)
    for secret in (plain, base64.b64encode(plain.encode()).decode())
)


@dataclass(frozen=True)
class Row:
    """One fault of the first connection, or with `lasting` of all of them; `modes` are the TLS modes it applies to."""

    name: str
    script: Script
    ends: tuple[Ending, ...]
    modes: tuple[str, ...] = ("starttls",)
    lasting: bool = False
    kept: int = 0
    timeout_s: float = PATIENT_S

    def __str__(self) -> str:
        return self.name


BOTH = ("starttls", "ssl")
STRIPPED = b"250-peer.test\r\n250-AUTH PLAIN LOGIN\r\n250 PIPELINING\r\n"
CLEAR_PIPELINING = b"250-peer.test\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
NO_AUTH = b"250-peer.test\r\n250 8BITMIME\r\n"
READY = b"220 2.0.0 Ready to start TLS\r\n"


def _broken_off() -> list[Row]:
    """The connection ends while TLS is set up; it may be a restart, so the schedule is kept."""
    rows = []
    for name, end in {"a FIN": End.FIN, "a RST": End.RST}.items():
        either = (RETRIED, BROKEN)
        rows += [
            Row(f"{name} in place of the reply to STARTTLS", at(Point.STARTTLS, end=end), (RETRIED,)),
            Row(f"{name} in place of the ServerHello", at(Point.HANDSHAKE, end=end), either, BOTH),
            Row(f"{name} after 3 octets of the ServerHello", at(Point.HANDSHAKE, octets=3, end=end), either, BOTH),
            Row(f"{name} after 200 octets of the handshake", at(Point.HANDSHAKE, octets=200, end=end), either, BOTH),
            Row(f"{name} in place of the reply to EHLO in TLS", at(Point.EHLO_TLS, end=end), (RETRIED,)),
            Row(f"{name} after the reply to EHLO in TLS", at(Point.EHLO_TLS, end=end, obey=True), (RETRIED,)),
            Row(f"{name} in place of the reply to AUTH", at(Point.AUTH, end=end), (RETRIED,), BOTH),
            Row(f"{name} after the reply to AUTH", at(Point.AUTH, end=end, obey=True), (RETRIED,), BOTH),
            Row(f"{name} after the dot in TLS, message kept", at(Point.DOT, end=end, holds=True), _DOUBT, BOTH, kept=1),
        ]
    return rows


_DOUBT: tuple[Ending, ...] = (("in_doubt",),)


def _silent() -> list[Row]:
    points = (Point.STARTTLS, Point.HANDSHAKE, Point.EHLO_TLS, Point.AUTH)
    return [Row(f"silence at {p}", at(p, end=End.MUTE), (RETRIED, BROKEN), timeout_s=0.3) for p in points]


def _stripped() -> list[Row]:
    """Somebody in between takes TLS away: there is never a way on without it."""
    return [
        Row("STARTTLS not offered, but AUTH in clear", at(Point.EHLO, say=STRIPPED, nth=None), (FAULTY,), lasting=True),
        Row("502 to STARTTLS", at(Point.STARTTLS, say=b"502 5.5.1 What?\r\n", nth=None), (FAULTY,), lasting=True),
        Row(
            "454 to STARTTLS",
            at(Point.STARTTLS, say=b"454 4.7.0 Not now\r\n", nth=None),
            (("deferred", "deferred"),),
            lasting=True,
        ),
        Row("454 to STARTTLS, once", at(Point.STARTTLS, say=b"454 4.7.0 Not now\r\n"), (RETRIED,)),
        Row("421 to STARTTLS", at(Point.STARTTLS, say=b"421 4.3.2 Bye\r\n", end=End.FIN), (RETRIED,)),
        Row("250 in place of 220", at(Point.STARTTLS, say=b"250 2.0.0 Ok\r\n"), (RETRIED, BROKEN)),
        Row("garbage in place of 220", at(Point.STARTTLS, say=b"\x00\xff\r\n"), (RETRIED, BROKEN)),
        Row("words in place of the ServerHello", at(Point.HANDSHAKE, say=b"500 What?\r\n"), (RETRIED, BROKEN), BOTH),
    ]


def _injected() -> list[Row]:
    """Octets in the segment of the 220 (RFC 3207 section 6): the connection ends there."""
    lines = {
        "a reply to EHLO": b"250-evil\r\n250 AUTH PLAIN\r\n",
        "a single reply": b"250 2.0.0 Ok\r\n",
        "half a line": b"250 half",
        "a NUL": b"\0",
    }
    return [
        Row(f"{name} behind the 220", at(Point.STARTTLS, say=READY + extra, holds=True), (RETRIED, BROKEN, FAULTY))
        for name, extra in lines.items()
    ]


def _login() -> list[Row]:
    return [
        Row("535 to AUTH", at(Point.AUTH, say=b"535 5.7.8 Wrong\r\n", nth=None), (FAULTY,), BOTH, lasting=True),
        Row("454 to AUTH", at(Point.AUTH, say=b"454 4.7.0 Later\r\n"), (RETRIED,), BOTH),
        Row("421 to AUTH", at(Point.AUTH, say=b"421 4.3.2 Bye\r\n", end=End.FIN), (RETRIED,), BOTH),
        Row("words in place of the reply to AUTH", at(Point.AUTH, say=b"what?\r\n"), (RETRIED, BROKEN), BOTH),
        Row("no AUTH in the EHLO in TLS", at(Point.EHLO_TLS, say=NO_AUTH, nth=None), (FAULTY,), lasting=True),
    ]


def _well() -> list[Row]:
    return [
        Row("no fault at all", BEHAVED, (ACCEPTED,), BOTH, kept=1),
        Row("every reply in segments of one octet, in TLS too", Script(segment=1), (ACCEPTED,), BOTH, kept=1),
        Row("another EHLO in clear than in TLS", at(Point.EHLO, say=CLEAR_PIPELINING), (ACCEPTED,), kept=1),
    ]


ROWS = (*_broken_off(), *_silent(), *_stripped(), *_injected(), *_login(), *_well())
CASES = [pytest.param(row, mode, id=f"{row}-{mode}") for row in ROWS for mode in row.modes]
INJECTED = {row.name for row in _injected()}


def peer_for(
    *scripts: Script, mode: str, authority: Authority, names: tuple[str, ...] = (), **options: object
) -> ScriptedPeer:
    pipelining = options.pop("pipelining", True)
    assert isinstance(pipelining, bool)
    tls = authority.server(*names, **options.pop("certificate", {}))  # type: ignore[arg-type]
    offers = Offers(pipelining=pipelining, starttls=mode == "starttls", auth=True)
    return ScriptedPeer(*scripts, offers=offers, tls=tls, tls_at_once=mode == "ssl", **options)  # type: ignore[arg-type]


async def send(peer: ScriptedPeer, mode: str, bundle: str, **options: object) -> tuple[Sender, Settlement]:
    """Have one mail delivered with a login; whatever the peer does, nothing secret is seen in clear."""
    record = record_for(peer.port, tls=mode, ca_bundle=bundle, username=USER, password=PASSWORD, **options)
    async with sender_for(record) as sender:
        settlement = await sender.send(TO, on_doubt="hold")
    assert disagreements(sender, [(k.message_id, k.recipient) for k in peer.kept]) == []
    assert peer.violations == []
    assert all(kept.encrypted for kept in peer.kept)
    assert [secret for secret in SECRETS if secret in peer.clear] == []
    assert {verb for verb in peer.commands if verb.islower()} <= {"ehlo", "star", "quit"}
    return sender, settlement


@PIPELINING
@pytest.mark.parametrize(("row", "mode"), CASES)
async def test_after_a_fault_of_tls_the_mail_ends_as_the_table_says(
    row: Row, mode: str, pipelining: bool, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient_at_first(monkeypatch, row.timeout_s)
    scripts = () if row.lasting else (row.script,)
    always = row.script if row.lasting else BEHAVED
    async with peer_for(*scripts, mode=mode, authority=authority, pipelining=pipelining, always=always) as peer:
        sender, settlement = await send(peer, mode, authority.bundle, timeout_s=PATIENT_S)
        outcomes = tuple(sender.outcomes(TO))
        assert outcomes in row.ends
        ends = {"accepted": Ack, "in_doubt": Park}
        assert isinstance(settlement, ends.get(outcomes[-1], Later))
        assert len(peer.kept) == row.kept + (outcomes[-1] == "accepted" and len(outcomes) > 1)
        if row.name in INJECTED:
            assert peer.sessions[0].commands == ["ehlo", "star"], "the connection went on behind an injection"


@dataclass(frozen=True)
class Certificate:
    """A certificate that must not be trusted."""

    name: str
    names: tuple[str, ...] = ()
    options: tuple[tuple[str, object], ...] = ()
    strange: bool = False

    def __str__(self) -> str:
        return self.name


_LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize(
    "certificate",
    [
        Certificate("signed by a stranger", strange=True),
        Certificate("for another name", names=("mx.example.com",)),
        Certificate("expired", options=(("not_before", _LONG_AGO), ("not_after", _LONG_AGO + dt.timedelta(9)))),
    ],
    ids=str,
)
async def test_a_certificate_that_is_not_trusted_gets_neither_login_nor_mail(
    certificate: Certificate, mode: str, authority: Authority, stranger: Authority
) -> None:
    issuer = stranger if certificate.strange else authority
    options = {"certificate": dict(certificate.options)}
    async with peer_for(mode=mode, authority=issuer, names=certificate.names, **options) as peer:
        sender, settlement = await send(peer, mode, authority.bundle)
        assert sender.outcomes(TO) == ["config_fault"]
        assert isinstance(settlement, Later)
        assert peer.kept == []
        assert not {verb for verb in peer.commands if verb.isupper()}


@pytest.mark.parametrize("mode", BOTH)
async def test_a_record_that_verifies_nothing_still_encrypts(
    mode: str, authority: Authority, stranger: Authority
) -> None:
    async with peer_for(mode=mode, authority=stranger) as peer:
        sender, _ = await send(peer, mode, authority.bundle, verify_tls=False)
        assert sender.outcomes(TO) == ["accepted"]
        [record] = sender.audit.records.values()
        assert record.tls is not None
        assert not record.tls.verified


async def test_a_wrong_password_is_tried_once_and_by_one_mechanism(authority: Authority) -> None:
    async with peer_for(mode="starttls", authority=authority) as peer:
        record = record_for(peer.port, tls="starttls", ca_bundle=authority.bundle, username=USER, password="wrong")
        async with sender_for(record) as sender:
            await sender.send(TO)
        assert sender.outcomes(TO) == ["config_fault"]
        assert peer.commands.count("AUTH") == 1
