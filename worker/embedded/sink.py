"""A local SMTP server that keeps every mail it takes: where a demo and a developer's worker deliver to.

It offers what a real submission server does, and as strictly: STARTTLS before AUTH (RFC 3207,
RFC 4954), TLS from the first byte on a port of its own (RFC 8314), several accounts, SMTPUTF8
(RFC 6531), PIPELINING (RFC 2920). Recipients may have a script, so that a deferral and a refusal
can be shown. It listens on 127.0.0.1 only and relays nothing.
"""

import asyncio
import hmac
import itertools
import os
import ssl
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import structlog
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session, TLSSetupException

from worker.embedded.certificates import Certificates

log = structlog.get_logger(__name__)

_HOST = "127.0.0.1"
_MAX_MESSAGE_BYTES = 36 * 1024 * 1024  # 25 MiB of attachments, as base64 in lines
_MAX_KEPT = 1000


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """One mail as it came over the wire: CRLF line ends, dot-stuffing undone.

    `account` is the login that sent it, None on a connection without AUTH; `number` counts from 1
    for this sink, also over mails that are no longer kept.
    """

    number: int
    mail_from: str
    rcpt_tos: tuple[str, ...]
    account: str | None
    tls: bool
    content: bytes
    received_at: datetime


class SmtpSink:
    """SMTP on free ports of 127.0.0.1: STARTTLS always, implicit TLS and plain where asked for.

    `accounts` maps logins to passwords; without any, TLS ports take mail from anybody, as the plain
    port always does. `replies` maps a recipient to what RCPT is answered, one reply a time, and
    "250" once they are used up: ``["451 4.2.0 busy"] * 2``, or ``itertools.repeat("550 5.1.1 no")``
    for ever. `mails` and `auth_attempts` hold the newest `keep`; with `directory`, each mail is
    also written there as an ``.eml`` file, and those are never deleted.
    """

    def __init__(
        self,
        certificates: Certificates,
        *,
        accounts: Mapping[str, str],
        replies: Mapping[str, Iterable[str]] | None = None,
        directory: Path | None = None,
        implicit_tls: bool = True,
        plain: bool = False,
        keep: int = _MAX_KEPT,
    ) -> None:
        """Nothing listens before `start`."""
        self.ca_file = certificates.ca_file
        self.mails: deque[ReceivedMail] = deque(maxlen=keep)
        self.auth_attempts: deque[tuple[str, bool]] = deque(maxlen=keep)
        self.received = 0
        self._numbers = itertools.count(1)
        self._certificates = certificates
        self._accounts = dict(accounts)
        self._replies: dict[str, Iterator[str]] = {address: iter(r) for address, r in (replies or {}).items()}
        self._directory = directory
        self._implicit_tls, self._plain = implicit_tls, plain
        self._arrived = asyncio.Condition()
        self._servers: dict[str, asyncio.Server] = {}
        self._sessions: set[_SinkSession] = set()

    @property
    def starttls_port(self) -> int:
        """The port that speaks STARTTLS; raises KeyError unless the sink has started."""
        return self._port("starttls")

    @property
    def ssl_port(self) -> int:
        """The port that speaks TLS at once; raises KeyError where it was not asked for."""
        return self._port("ssl")

    @property
    def plain_port(self) -> int:
        """The port without TLS and without AUTH; raises KeyError where it was not asked for."""
        return self._port("plain")

    async def start(self) -> None:
        """Listen; the ports are known afterwards."""
        if self._directory is not None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        context = self._certificates.server_context()
        await self._listen("starttls", _Listener(self, starttls=context))
        if self._implicit_tls:
            await self._listen("ssl", _Listener(self, implicit_tls=True), context)
        if self._plain:
            await self._listen("plain", _Listener(self))

    async def stop(self) -> None:
        """Close the ports and every connection; what was received stays readable."""
        for server in self._servers.values():
            server.close()
        for session in tuple(self._sessions):
            session.abort()
        for server in self._servers.values():
            await server.wait_closed()
        self._servers.clear()

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def wait_for(self, count: int) -> None:
        """Return as soon as `count` mails have been received since the start."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.received >= count)

    def next_reply(self, recipient: str) -> str | None:
        """What the script says to this RCPT; None where it says nothing, or nothing more."""
        return next(self._replies.get(recipient, iter(())), None)

    @property
    def requires_login(self) -> bool:
        """Whether the TLS ports ask for AUTH."""
        return bool(self._accounts)

    def login(self, login: str, password: str) -> bool:
        """Check and remember one attempt to log in."""
        expected = self._accounts.get(login)
        success = expected is not None and hmac.compare_digest(expected.encode(), password.encode())
        self.auth_attempts.append((login, success))
        return success

    async def keep(self, envelope: Envelope, *, account: str | None, tls: bool) -> ReceivedMail:
        """Keep one mail, on disk first; raises OSError where that fails, and the mail is not taken."""
        content = envelope.content
        mail = ReceivedMail(
            number=next(self._numbers),
            mail_from=envelope.mail_from or "",
            rcpt_tos=tuple(envelope.rcpt_tos),
            account=account,
            tls=tls,
            content=content if isinstance(content, bytes) else b"",
            received_at=datetime.now(UTC),
        )
        if self._directory is not None:
            await asyncio.to_thread(_write, self._directory / _file_name(mail), mail.content)
        self.mails.append(mail)
        self.received += 1
        async with self._arrived:
            self._arrived.notify_all()
        return mail

    def _port(self, name: str) -> int:
        port: int = self._servers[name].sockets[0].getsockname()[1]
        return port

    async def _listen(self, name: str, listener: "_Listener", context: ssl.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._servers[name] = await loop.create_server(
            lambda: _SinkSession(listener, self._sessions), _HOST, 0, ssl=context
        )


class _Listener:
    """aiosmtpd's handler for one port: its hooks are found by their names, `handle_` and the verb."""

    def __init__(self, sink: SmtpSink, *, starttls: ssl.SSLContext | None = None, implicit_tls: bool = False) -> None:
        self.sink = sink
        self.starttls = starttls
        self.implicit_tls = implicit_tls

    def options(self) -> dict[str, Any]:
        """What aiosmtpd's protocol is told about this port.

        It knows TLS only where it did STARTTLS itself. On the implicit TLS port `auth_require_tls`
        would therefore refuse every login, and is off; `handle_MAIL` asks for the login there.
        """
        return {
            "tls_context": self.starttls,
            "require_starttls": self.starttls is not None,
            "auth_required": self.starttls is not None and self.sink.requires_login,
            "auth_require_tls": not self.implicit_tls,
            "authenticator": self.authenticate,
        }

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: LoginPassword
    ) -> AuthResult:
        login, password = data.login.decode(errors="replace"), data.password.decode(errors="replace")
        success = self.sink.login(login, password)
        return AuthResult(success=success, handled=success, auth_data=login if success else None)

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        # aiosmtpd reads pipelined commands in order from one buffer; it only does not say so.
        return [*responses[:-1], "250-PIPELINING", "250-ENHANCEDSTATUSCODES", responses[-1]]

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.implicit_tls and self.sink.requires_login and not session.authenticated:
            return "530 5.7.0 Authentication required"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Ok"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        scripted = self.sink.next_reply(address)
        if scripted is not None and not scripted.startswith("2"):
            return scripted
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return scripted or "250 2.1.5 Ok"

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        account = session.auth_data if session.authenticated else None
        try:
            mail = await self.sink.keep(envelope, account=account, tls=self.implicit_tls or session.ssl is not None)
        except OSError as error:
            log.warning("the sink cannot write a mail", reason=error.strerror)
            return "452 4.3.1 Cannot store the message now"
        return f"250 2.0.0 Ok: queued as SINK{mail.number:06d}"

    async def handle_exception(self, error: Exception) -> str:
        if isinstance(error, TLSSetupException):  # mostly a client that does not trust the throw-away CA
            log.info("a client gave up the TLS handshake")
            return "421 4.7.0 TLS failed"
        # aiosmtpd's own answer repeats the exception's text, and its log the traceback with the command.
        log.error("the sink's session failed", error=type(error).__name__)
        return "451 4.3.0 Internal error"


class _SinkSession(SMTP):
    """One connection, known to the sink as long as it is open."""

    def __init__(self, listener: _Listener, open_sessions: "set[_SinkSession]") -> None:
        super().__init__(
            listener,
            hostname="localhost",
            ident="Postbote sink",
            enable_SMTPUTF8=True,
            data_size_limit=_MAX_MESSAGE_BYTES,
            loop=asyncio.get_running_loop(),
            **listener.options(),
        )
        self._open_sessions = open_sessions

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._open_sessions.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._open_sessions.discard(self)
        super().connection_lost(error)

    def abort(self) -> None:
        """Close at once, without the farewell of TLS."""
        # Not told by its type: uvloop's transports are none of asyncio's classes.
        transport: Any = self._original_transport or self.transport
        if transport is not None:
            transport.abort()


def _file_name(mail: ReceivedMail) -> str:
    # Sorts by arrival, also across several runs into one directory.
    return f"{mail.received_at:%Y%m%dT%H%M%S.%f}-{mail.number:06d}.eml"


def _write(path: Path, content: bytes) -> None:
    # Mail is private: readable by its owner alone from the first moment.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
