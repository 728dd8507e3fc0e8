"""What to do about a failure: the hints, as data.

Read it from the top: the first row that fits a failure gives the hint, so a provider's own words
stand above the general. Every row carries a sample that a real server sends, or that the dialling
yields, and the tests hold it to that. A row without conditions on a field fits all its values.

Codes and enhanced codes are read as in ``outcome_rules``; words are searched, case ignored, in the
cleaned reply, or in a fault's detail.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.smtp_config import TlsMode
from worker.delivery.ports import Answer, Fault, Phase, SmtpReply
from worker.delivery.replies import clean_text, parse_enhanced
from worker.smtp.probe_stages import Advice

EXPIRES_SOON = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Case:
    """A failure and what the record asked for."""

    answer: Answer
    port: int = 587
    tls: TlsMode = TlsMode.STARTTLS


@dataclass(frozen=True, slots=True)
class Hint:
    """One row. `words` and `enhanced` are patterns; empty conditions fit everything."""

    name: str
    text: str
    sample: Case
    phases: frozenset[Phase] = frozenset()
    codes: str = ""
    enhanced: str = ""
    words: str = ""
    faults: frozenset[Fault] = frozenset()
    tls: frozenset[TlsMode] = frozenset()
    ports: frozenset[int] = frozenset()

    def fits(self, case: Case) -> bool:
        """Whether every condition of the row holds."""
        if (self.phases and case.answer.phase not in self.phases) or (self.tls and case.tls not in self.tls):
            return False
        if self.ports and case.port not in self.ports:
            return False
        return self._fits_answer(case.answer)

    def _fits_answer(self, answer: Answer) -> bool:
        reply = answer.reply
        if bool(self.faults) == (reply is not None):
            return False  # a row is about faults or about replies
        if reply is None:
            return answer.fault in self.faults and self._has_words(answer.detail)
        if self.codes and not str(reply.code).startswith(tuple(self.codes.split())):
            return False
        enhanced = parse_enhanced(reply) or ""
        return (not self.enhanced or re.fullmatch(self.enhanced, enhanced) is not None) and self._has_words(reply.text)

    def _has_words(self, text: str) -> bool:
        return not self.words or re.search(self.words, clean_text(text), re.IGNORECASE) is not None


def hint_for(case: Case) -> Advice | None:
    """Return the hint for a failure, or None where the reply says all there is to say."""
    return next((Advice(hint.name, hint.text) for hint in HINTS if hint.fits(case)), None)


def hint_for_expiry(chain: Iterable[Mapping[str, Any]], now: datetime | None = None) -> Advice | None:
    """Return a hint where a certificate that still holds ends within two weeks.

    `chain` is as in the facts of a TLS stage: ISO 8601 under ``not_after``.
    """
    ends = [datetime.fromisoformat(each["not_after"]) for each in chain if "not_after" in each]
    if not ends or min(ends) - (now or datetime.now(UTC)) > EXPIRES_SOON:
        return None
    return Advice("certificate-expires-soon", f"The server's certificate ends on {min(ends):%Y-%m-%d}: renew it.")


def _said(phase: Phase, reply: str, port: int = 587, tls: TlsMode = TlsMode.STARTTLS) -> Case:
    return Case(Answer(phase, SmtpReply(int(reply[:3]), reply[4:])), port, tls)


def _met(phase: Phase, fault: Fault, detail: str = "", port: int = 587, tls: TlsMode = TlsMode.STARTTLS) -> Case:
    return Case(Answer(phase, fault=fault, detail=detail), port, tls)


_AUTH = frozenset({Phase.AUTH})
_TLS = frozenset({Phase.TLS})
_CONNECT = frozenset({Phase.CONNECT})
_OPENING = frozenset({Phase.GREETING, Phase.EHLO})
_MAIL_ON = frozenset({Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.BODY, Phase.FINAL})
_TIMEOUT = frozenset({Fault.TIMEOUT})
_UNTRUSTED = frozenset({Fault.TLS_UNTRUSTED})
_IN_CLEAR = frozenset({TlsMode.NONE, TlsMode.STARTTLS})
_AT_ONCE = frozenset({TlsMode.SSL})
_NOT_TLS = "wrong.version.number|record.layer.failure|packet.length|unknown.protocol|http.request"

# fmt: off
HINTS: tuple[Hint, ...] = (
    # Finding the server
    Hint("host-unknown", "The host name does not exist: look for a slip of the pen in it.",
         _met(Phase.RESOLVE, Fault.DNS_NOT_FOUND), faults=frozenset({Fault.DNS_NOT_FOUND})),
    Hint("dns-away", "The name servers do not answer: try again, or have the DNS of this host looked at.",
         _met(Phase.RESOLVE, Fault.DNS_UNAVAILABLE), faults=frozenset({Fault.DNS_UNAVAILABLE})),
    Hint("port-not-permitted", "Use 587 or 465; for another port the operator has to extend POSTBOTE_EGRESS_PORTS.",
         _met(Phase.CONNECT, Fault.EGRESS_DENIED, "port 8080 is not among the ports that mail may be sent to", 8080),
         faults=frozenset({Fault.EGRESS_DENIED}), words=r"^port \d"),
    Hint("address-not-permitted", "Partners and orgs reach public addresses only: give a public host, store the record "
         "for the controller, or add the network to POSTBOTE_EGRESS_ALLOW.",
         _met(Phase.CONNECT, Fault.EGRESS_DENIED, "the host's address is not a public one"),
         faults=frozenset({Fault.EGRESS_DENIED})),
    Hint("nobody-listens", "The host answers, but nothing listens on this port: look at the port. 587 is usual with "
         "STARTTLS, 465 with TLS at once.",
         _met(Phase.CONNECT, Fault.UNREACHABLE, "Connection refused"),
         faults=frozenset({Fault.UNREACHABLE}), words="refused"),
    Hint("no-route", "No network leads to this address from here: look at routes, IPv6 and the firewall.",
         _met(Phase.CONNECT, Fault.UNREACHABLE, "Network is unreachable"),
         faults=frozenset({Fault.UNREACHABLE}), words="unreachable|no route"),
    Hint("unreachable", "The name may not exist, nothing may listen there, or it is no address that mail may be sent "
         "to: look at host and port.",
         _met(Phase.CONNECT, Fault.UNREACHABLE), faults=frozenset({Fault.UNREACHABLE})),
    Hint("port-25-blocked", "Most clouds and providers block outgoing port 25: use 587 with STARTTLS or 465.",
         _met(Phase.CONNECT, Fault.TIMEOUT, port=25), phases=_CONNECT, faults=_TIMEOUT, ports=frozenset({25})),
    Hint("port-filtered", "Nothing came back at all: a firewall on the way drops the packets, or the host is down.",
         _met(Phase.CONNECT, Fault.TIMEOUT), phases=_CONNECT, faults=_TIMEOUT),

    # TLS where the server speaks in clear, and the reverse
    Hint("tls-to-a-port-in-clear", "The server speaks in clear on this port. Port 587 speaks STARTTLS, 465 TLS at "
         "once: set tls to starttls, or the port to 465.",
         _met(Phase.TLS, Fault.TLS_FAILED, "WRONG_VERSION_NUMBER", tls=TlsMode.SSL),
         phases=_TLS, faults=frozenset({Fault.TLS_FAILED}), words=_NOT_TLS, tls=_AT_ONCE),
    Hint("clear-to-a-port-with-tls", "The server says nothing: on 465, and wherever it waits for TLS at once, it never "
         "will. Set tls to ssl, or the port to 587 for STARTTLS.",
         _met(Phase.GREETING, Fault.TIMEOUT, port=465),
         phases=_OPENING, faults=frozenset({Fault.TIMEOUT, Fault.LOST, Fault.PROTOCOL}), tls=_IN_CLEAR,
         ports=frozenset({465})),
    Hint("silent-server", "The connection stands but no banner came: the server may wait for TLS at once (set tls to "
         "ssl), or a firewall holds it back.",
         _met(Phase.GREETING, Fault.TIMEOUT, port=587), phases=_OPENING, faults=_TIMEOUT, tls=_IN_CLEAR),
    Hint("tls-silent", "The handshake got no answer: the server may speak in clear here. Port 587 speaks STARTTLS, "
         "465 TLS at once.",
         _met(Phase.TLS, Fault.TIMEOUT, tls=TlsMode.SSL), phases=_TLS, faults=_TIMEOUT, tls=_AT_ONCE),
    Hint("starttls-not-offered", "The server offers no STARTTLS and nothing is sent without it: set tls to ssl with "
         "port 465 if it has that, or have its TLS turned on. A firewall that inspects SMTP may take the offer out.",
         _met(Phase.TLS, Fault.TLS_NOT_OFFERED), phases=_TLS, faults=frozenset({Fault.TLS_NOT_OFFERED})),
    Hint("tls-too-old", "Server and client have no TLS version in common: Postbote needs 1.2 or newer.",
         _met(Phase.TLS, Fault.TLS_FAILED, "TLSV1_ALERT_PROTOCOL_VERSION"),
         phases=_TLS, faults=frozenset({Fault.TLS_FAILED}),
         words="protocol.version|unsupported.protocol|version.too.low"),

    # Certificates
    Hint("ca-bundle-unreadable", "The record's ca_bundle holds no certificate: give PEM, from BEGIN CERTIFICATE to END "
         "CERTIFICATE.",
         _met(Phase.TLS, Fault.TLS_FAILED, "no start line: cadata does not contain a certificate (_ssl.c:4020)"),
         phases=_TLS, faults=frozenset({Fault.TLS_FAILED}), words="no.start.line|cadata|bad.base64|bad.end.line"),
    Hint("certificate-expired", "The server's certificate has expired: its owner has to renew it.",
         _met(Phase.TLS, Fault.TLS_UNTRUSTED, "certificate has expired"), faults=_UNTRUSTED, words="has expired"),
    Hint("certificate-not-yet-valid", "The certificate is not valid yet: compare the clocks of both hosts.",
         _met(Phase.TLS, Fault.TLS_UNTRUSTED, "certificate is not yet valid"),
         faults=_UNTRUSTED, words="not yet valid"),
    Hint("certificate-of-another-name", "The certificate is for other names than this host's: put one of its names in "
         "place of the host.",
         _met(Phase.TLS, Fault.TLS_UNTRUSTED, "Hostname mismatch, certificate is not valid for 'mail.example.com'."),
         faults=_UNTRUSTED, words="mismatch"),
    Hint("certificate-self-signed", "The certificate is self-signed: give the certificate itself, or the CA's, as "
         "ca_bundle. That is safer than to turn verify_tls off.",
         _met(Phase.TLS, Fault.TLS_UNTRUSTED, "self-signed certificate"), faults=_UNTRUSTED, words="self.signed"),
    Hint("certificate-of-unknown-ca", "Nobody trusted here has signed the certificate: give the CA's certificate as "
         "ca_bundle, or have the server send its intermediate certificates.",
         _met(Phase.TLS, Fault.TLS_UNTRUSTED, "unable to get local issuer certificate"), faults=_UNTRUSTED),

    # The login, providers first
    Hint("gmail-app-password", "Google wants an app password here: turn on 2-step verification for the account and "
         "make one under Security, App passwords.",
         _said(Phase.AUTH, "534 5.7.9 Application-specific password required. For more information, go to"),
         codes="534", enhanced=r"5\.7\.9"),
    Hint("gmail-web-login", "Google wants a login in the browser first; then use an app password.",
         _said(Phase.AUTH, "534 5.7.14 <https://accounts.google.com/signin/continue> Please log in via your "
                           "web browser"),
         codes="534", enhanced=r"5\.7\.14"),
    Hint("gmail-bad-credentials", "Google refuses the password. The account's own password never works over SMTP: use "
         "an app password.",
         _said(Phase.AUTH, "535 5.7.8 Username and Password not accepted. For more information, go to "
                           "https://support.google.com/mail/?p=BadCredentials"),
         phases=_AUTH, words="BadCredentials|support.google"),
    Hint("m365-smtp-auth-disabled", 'Microsoft 365 has SMTP AUTH turned off: turn on "Authenticated SMTP" for the '
         "mailbox, and look at the tenant's setting and its security defaults.",
         _said(Phase.AUTH, "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for "
                           "the Tenant. Visit https://aka.ms/smtp_auth_disabled for more information."),
         enhanced=r"5\.7\.139"),
    Hint("m365-not-authenticated", "Microsoft 365 wants a login before mail: give username and password, or send "
         "through a connector.",
         _said(Phase.MAIL, "530 5.7.57 Client not authenticated to send mail."), enhanced=r"5\.7\.57"),
    Hint("m365-bad-credentials", "Microsoft refuses the login: the username is the full address, and an account with "
         "multi-factor authentication needs an app password.",
         _said(Phase.AUTH, "535 5.7.3 Authentication unsuccessful"), phases=_AUTH, enhanced=r"5\.7\.3"),
    Hint("ses-credentials", "Amazon SES has SMTP credentials of its own, for one region each: an IAM access key does "
         "not work as it stands.",
         _said(Phase.AUTH, "535 Authentication Credentials Invalid"),
         phases=_AUTH, words="(?-i:Authentication Credentials Invalid)"),  # others say it in small letters
    Hint("sendgrid-username", "SendGrid's username is the word apikey, and the password the API key.",
         _said(Phase.AUTH, "535 Authentication failed: The provided authorization grant is invalid, expired, or "
                           "revoked"),
         phases=_AUTH, words="authorization grant is invalid|Bad username / password"),
    Hint("account-stopped", "The provider has stopped this account: ask it why.",
         _said(Phase.AUTH, "535 5.7.0 Your account has been suspended"),
         words=r"account (?:is|has been) (?:suspended|disabled|blocked|locked)|sending (?:is |has been )?paused"),
    Hint("login-not-now", "The server cannot check logins at the moment: nothing is wrong with the record yet.",
         _said(Phase.AUTH, "454 4.7.0 Temporary authentication failure"), phases=_AUTH, codes="4"),
    Hint("mechanism-refused", "The server refuses this way of logging in: have PLAIN or LOGIN turned on for it.",
         _said(Phase.AUTH, "504 5.7.4 Unrecognized authentication type"), phases=_AUTH, codes="504"),
    Hint("credentials-wrong", "The server refuses username or password. Look whether the username is the full address, "
         "and whether the account needs an app password.",
         _said(Phase.AUTH, "535 5.7.8 Error: authentication failed"), phases=_AUTH, codes="5"),
    Hint("login-not-offered", "The server offers no login that Postbote knows (PLAIN, LOGIN, CRAM-MD5, XOAUTH2): it "
         "may offer one on another port, or take mail without credentials.",
         _met(Phase.AUTH, Fault.AUTH_NOT_OFFERED, "offered: none"), faults=frozenset({Fault.AUTH_NOT_OFFERED})),
    Hint("login-in-clear", "Credentials are never sent without TLS: set tls to starttls or ssl.",
         _met(Phase.AUTH, Fault.TLS_FAILED, "credentials are never sent without TLS"),
         phases=_AUTH, faults=frozenset({Fault.TLS_FAILED})),

    # MAIL and RCPT
    Hint("tls-demanded", "The server takes nothing without TLS: set tls to starttls.",
         _said(Phase.MAIL, "530 5.7.0 Must issue a STARTTLS command first", tls=TlsMode.NONE),
         words=r"must issue a starttls|encryption (?:is )?(?:required|needed)|tls (?:is )?required"),
    Hint("login-demanded", "The server wants a login: give username and password.",
         _said(Phase.MAIL, "530 5.7.1 Authentication required"), phases=_MAIL_ON, codes="530"),
    Hint("ses-sandbox", "The SES account is in the sandbox, or sender or recipient are not verified in this region: "
         "verify them, or ask for production access.",
         _said(Phase.RCPT, "554 Message rejected: Email address is not verified. The following identities failed the "
                           "check in region EU-WEST-1: bob@example.com"),
         codes="554", words="address is not verified"),
    Hint("sender-not-granted", "The account may not send as this sender: set from_address to an address of its own, or "
         "have it granted or verified.",
         _said(Phase.RCPT, "553 5.7.1 <ann@example.com>: Sender address rejected: not owned by user bob@example.com"),
         words="send ?as ?denied|send as this sender|not owned by|verified sender identity|sender address rejected"),
    Hint("relay-denied", "The server does not relay for this client: log in, or have this host's address admitted.",
         _said(Phase.RCPT, "554 5.7.1 <bob@example.com>: Relay access denied"),
         words=r"relay(?:ing)? (?:access )?(?:is )?(?:denied|prohibited|not (?:permitted|allowed))|unable to relay"),
    Hint("recipient-unknown", "The server works, it only does not know this recipient: check with another address.",
         _said(Phase.RCPT, "550 5.1.1 <bob@example.com>: Recipient address rejected: User unknown"),
         phases=frozenset({Phase.RCPT}), enhanced=r"5\.1\.\d+"),
    Hint("greylisted", "The server greylists: the first mail waits some minutes, then it is taken.",
         _said(Phase.RCPT, "450 4.2.0 <bob@example.com>: Recipient address rejected: Greylisted"),
         words="gr[ea]y-?list"),

    # The server as such
    Hint("client-listed", "The server refuses this host's address, which stands on a block list: send through a relay, "
         "or have the address taken off.",
         _said(Phase.GREETING, "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"),
         words=r"blocked using|block(?:ed)? ?list|black ?list|spamhaus|\brbl\b|\bdnsbl\b|poor reputation"),
    Hint("too-many-connections", "The server wants fewer connections: lower max_connections, and try again later.",
         _said(Phase.GREETING, "421 4.7.0 Too many connections from your IP"),
         words="too many (?:(?:concurrent|simultaneous|smtp) ){0,2}(?:connections|sessions|logins?)"),
    Hint("not-smtp", "What answers here is not an SMTP server: look at host and port.",
         _met(Phase.GREETING, Fault.PROTOCOL), phases=_OPENING, faults=frozenset({Fault.PROTOCOL})),
)
# fmt: on
