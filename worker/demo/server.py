"""The demo's mail server and the three SMTP records that lead to it."""

import itertools
import secrets
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from schemas.smtp_config import Scope, SmtpConfig, TlsMode
from worker.demo.events import ACME, BUSY_ADDRESS, CONTROLLER, DEV, GONE_ADDRESS
from worker.embedded.certificates import ensure_certificates
from worker.embedded.sink import SmtpSink

ACCOUNTS: Mapping[Scope, str] = {
    CONTROLLER: "controller@mail.example",
    ACME: "acme@mail.example",
    DEV: "dev@mail.example",
}
"""The login that each record uses: which of them a mail came in by shows whose record was used."""

_FROM = {CONTROLLER: "no-reply@ops.example", ACME: "no-reply@acme.example", DEV: "no-reply@dev.acme.example"}
# One of the three speaks TLS from the first byte, the others STARTTLS.
_TLS = {CONTROLLER: TlsMode.STARTTLS, ACME: TlsMode.SSL, DEV: TlsMode.STARTTLS}
_BUSY_REPLIES = 2


def new_passwords() -> dict[Scope, str]:
    """Passwords for one run."""
    return {scope: secrets.token_urlsafe(18) for scope in ACCOUNTS}


def demo_sink(directory: Path, passwords: Mapping[Scope, str]) -> SmtpSink:
    """The server: an account for each record, one recipient that is busy twice, one that is unknown."""
    return SmtpSink(
        ensure_certificates(directory / "tls"),
        accounts={ACCOUNTS[scope]: password for scope, password in passwords.items()},
        replies={
            BUSY_ADDRESS: ["451 4.2.0 Mailbox is busy, try again shortly"] * _BUSY_REPLIES,
            GONE_ADDRESS: itertools.repeat(f"550 5.1.1 <{GONE_ADDRESS}>: no such user here"),
        },
        directory=directory / "mails",
    )


def demo_records(sink: SmtpSink, passwords: Mapping[Scope, str]) -> list[SmtpConfig]:
    """The records of the controller, of acme and of acme/dev, for a sink that has started."""
    authority = sink.ca_file.read_text()
    return [
        SmtpConfig(
            partner=scope.partner,
            org=scope.org,
            display_name="demo",
            host="localhost",
            port=sink.ssl_port if _TLS[scope] is TlsMode.SSL else sink.starttls_port,
            tls=_TLS[scope],
            ca_bundle=authority,
            username=login,
            password=SecretStr(passwords[scope]),
            from_address=_FROM[scope],
            retries=4,
            timeout_s=10,
        )
        for scope, login in ACCOUNTS.items()
    ]
