"""From a record to a connection that may take mail: socket, greeting, EHLO, TLS, AUTH.

``aiosmtplib`` speaks the dialogue; each stage is called on its own so that a failure says where
it happened. Whatever goes wrong is raised as `DialFailed` with the answer that the outcome rules
judge. Credentials are sent only over TLS that the record's terms have been met for, and by one
mechanism only: trying them all would spend several logins on one wrong password.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import aiosmtplib

from schemas.audit import TlsUsed
from schemas.smtp_config import SmtpConfig, TlsMode
from worker.delivery.ports import Answer, Fault, Phase, SmtpReply
from worker.smtp.cleartext import CleartextWatch
from worker.smtp.egress import EgressGuard
from worker.smtp.ehlo import Capabilities
from worker.smtp.reach import DialFailed, Resolver, look_up, open_socket
from worker.smtp.tls import tls_context

__all__ = ["DialFailed", "Dialled", "dial"]

# Best first. All of them run inside TLS, so what counts is how widely servers get them right. A
# password is a token only where the server leaves it nothing else to be.
_MECHANISMS = ("plain", "login", "cram-md5", "xoauth2")
_TRUSTED_ONLY = EgressGuard()


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection ready for MAIL: its socket, what the server offers and what protects it.

    `surplus` is what the server has said already beyond its last reply, `connect_ms` how long it all took.
    """

    transport: asyncio.Transport
    capabilities: Capabilities
    tls: TlsUsed | None
    connect_ms: float
    surplus: bytes = b""


async def dial(
    config: SmtpConfig,
    ehlo_name: str,
    guard: EgressGuard = _TRUSTED_ONLY,
    resolve: Resolver = look_up,
    make_client: Callable[..., aiosmtplib.SMTP] = aiosmtplib.SMTP,
) -> Dialled:
    """Connect as `config` says; raise DialFailed, with everything closed, where that fails.

    `make_client` lets the staged check (see `probe`) watch the same steps from inside.
    """
    began = time.perf_counter()
    client = make_client(
        hostname=_name(config),
        port=config.port,
        local_hostname=ehlo_name,
        timeout=config.timeout_s,
        start_tls=False,  # asked for below, where its failure can be told from the connection's
    )
    try:
        await _greet(client, config, guard, resolve)
        await _protect(client, config)
        await _login(client, config)
        return _taken_out(client, config, (time.perf_counter() - began) * 1000)
    except BaseException:
        client.close()
        raise


def _taken_out(client: aiosmtplib.SMTP, config: SmtpConfig, connect_ms: float) -> Dialled:
    """Take the socket out of the library's hands; the caller sets its own protocol before it awaits anything."""
    transport, protocol = cast("asyncio.Transport | None", client.transport), client.protocol
    if transport is None or protocol is None or transport.is_closing():
        raise DialFailed(Answer(Phase.EHLO, fault=Fault.LOST))
    capabilities = Capabilities.from_extensions(client.esmtp_extensions)
    # The library keeps what follows a reply in one segment, and has no public way to ask for it.
    surplus = bytes(protocol._buffer)  # noqa: SLF001
    return Dialled(transport, capabilities, _tls_used(client, config), connect_ms, surplus)


async def _greet(client: aiosmtplib.SMTP, config: SmtpConfig, guard: EgressGuard, resolve: Resolver) -> None:
    sock = await open_socket(config, guard, resolve)
    try:
        phase = Phase.TLS if config.tls is TlsMode.SSL else Phase.GREETING
        async with _stage(phase, replied=Phase.GREETING):  # whatever replies has its TLS already
            if config.tls is TlsMode.SSL:
                await client.connect(
                    sock=sock, hostname=_name(config), port=None, use_tls=True, tls_context=await tls_context(config)
                )
            else:
                await client.connect(sock=sock, hostname=_name(config), port=None)
    except BaseException:
        sock.close()
        raise
    async with _stage(Phase.EHLO):
        await client.ehlo()


async def _protect(client: aiosmtplib.SMTP, config: SmtpConfig) -> None:
    if config.tls is not TlsMode.STARTTLS:
        return
    if not client.supports_extension("starttls"):
        raise DialFailed(Answer(Phase.TLS, fault=Fault.TLS_NOT_OFFERED))
    async with _stage(Phase.TLS):
        await _start_tls(client, config, await tls_context(config))
    async with _stage(Phase.EHLO):
        await client.ehlo()


async def _start_tls(client: aiosmtplib.SMTP, config: SmtpConfig, context: ssl.SSLContext) -> None:
    """Upgrade, and end the connection where anything in clear followed the 220 (RFC 3207 section 4.2)."""
    transport, protocol = cast("asyncio.Transport | None", client.transport), client.protocol
    if transport is None or protocol is None:
        raise aiosmtplib.SMTPServerDisconnected("closed before STARTTLS")
    watch = CleartextWatch(protocol, transport)
    try:
        await client.starttls(server_hostname=_name(config), tls_context=context)
    except (aiosmtplib.SMTPException, OSError):
        _refuse_injected(watch)  # rather than what it did to the handshake
        raise
    _refuse_injected(watch)


def _refuse_injected(watch: CleartextWatch) -> None:
    if watch.surplus:
        detail = f"the server sent {watch.surplus} octets in clear after its reply to STARTTLS"
        raise DialFailed(Answer(Phase.TLS, fault=Fault.TLS_FAILED, detail=detail))


async def _login(client: aiosmtplib.SMTP, config: SmtpConfig) -> None:
    if config.username is None or config.password is None:
        return
    async with _stage(Phase.AUTH):
        protected = client.get_transport_info("sslcontext") is not None
    if not protected:
        raise DialFailed(Answer(Phase.AUTH, fault=Fault.TLS_FAILED, detail="credentials are never sent without TLS"))
    offered = client.server_auth_methods
    mechanism = next((m for m in _MECHANISMS if m in offered), None)
    if mechanism is None:
        raise DialFailed(
            Answer(Phase.AUTH, fault=Fault.AUTH_NOT_OFFERED, detail=f"offered: {', '.join(offered) or 'none'}")
        )
    password = config.password.get_secret_value()
    async with _masking(password), _stage(Phase.AUTH):
        await _authenticate(client, mechanism, config.username, password)


@asynccontextmanager
async def _masking(password: str) -> AsyncIterator[None]:
    """Keep a password that the server repeats in its refusal out of the audit and the logs."""
    try:
        yield
    except DialFailed as failed:
        reply = failed.answer.reply
        if reply is None or password not in reply.text:
            raise
        masked = SmtpReply(reply.code, reply.text.replace(password, "[redacted]"))
        raise DialFailed(failed.answer._replace(reply=masked)) from None


def _authenticate(
    client: aiosmtplib.SMTP, mechanism: str, username: str, password: str
) -> Awaitable[aiosmtplib.SMTPResponse]:
    match mechanism:
        case "plain":
            return client.auth_plain(username, password)
        case "login":
            return client.auth_login(username, password)
        case "xoauth2":
            return client.auth_xoauth2(username, password)
        case _:
            return client.auth_crammd5(username, password)


@asynccontextmanager
async def _stage(phase: Phase, replied: Phase | None = None) -> AsyncIterator[None]:
    """Translate whatever a stage raises into the answer that stands for it; a reply may be `replied` later."""
    try:
        yield
    except aiosmtplib.SMTPResponseException as error:
        raise DialFailed(Answer(replied or phase, SmtpReply(error.code, error.message))) from None
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        raise DialFailed(Answer(phase, fault=_fault(error), detail=_detail(error))) from None


def _fault(error: BaseException) -> Fault:
    """Find the fault in an exception or in what caused it: the library wraps some of them."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    if any(isinstance(e, ssl.SSLCertVerificationError) for e in chain):
        return Fault.TLS_UNTRUSTED
    if any(isinstance(e, ssl.SSLError) for e in chain):
        return Fault.TLS_FAILED
    if any(isinstance(e, TimeoutError) for e in chain):
        return Fault.TIMEOUT
    if any(isinstance(e, OSError | aiosmtplib.SMTPServerDisconnected) for e in chain):
        return Fault.LOST
    return Fault.PROTOCOL


def _detail(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    if isinstance(cause, ssl.SSLError):
        return cause.reason or str(cause)  # a ca_bundle that cannot be read comes without a reason
    return ""


def _name(config: SmtpConfig) -> str:
    """The name that SNI and the certificate's check go by; an IPv6 literal stands without its brackets."""
    return config.host.strip("[]")


def _tls_used(client: aiosmtplib.SMTP, config: SmtpConfig) -> TlsUsed | None:
    cipher = client.get_transport_info("cipher")
    if not cipher:
        return None
    name, version, _bits = cipher
    return TlsUsed(version=version, cipher=name, verified=config.verify_tls)
