"""From a record to a connection that may take mail: DNS, TCP, greeting, EHLO, TLS, AUTH.

``aiosmtplib`` speaks the dialogue; each stage is called on its own so that a failure says where
it happened. Whatever goes wrong is raised as `DialFailed` with the answer that the outcome rules
judge. Credentials are sent only over TLS that the record's terms have been met for, and by one
mechanism only: trying them all would spend several logins on one wrong password.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiosmtplib

from schemas.audit import TlsUsed
from schemas.smtp_config import SmtpConfig, TlsMode
from worker.delivery.ports import Answer, Fault, Phase, SmtpReply
from worker.smtp.tls import tls_context

# Best first. All of them run inside TLS, so what counts is how widely servers get them right.
_MECHANISMS = ("plain", "login", "cram-md5")


AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]


class DialFailed(Exception):
    """No usable connection; `answer` is what every waiting recipient gets."""

    def __init__(self, answer: Answer) -> None:
        """Keep the answer."""
        super().__init__(f"{answer.phase}: {answer.fault or answer.reply}")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection ready for MAIL, what protects it, and how long it took to make."""

    client: aiosmtplib.SMTP
    tls: TlsUsed | None
    connect_ms: float


async def dial(config: SmtpConfig, ehlo_name: str) -> Dialled:
    """Connect as `config` says; raise DialFailed, with everything closed, where that fails."""
    began = time.perf_counter()
    client = aiosmtplib.SMTP(
        hostname=config.host,
        port=config.port,
        local_hostname=ehlo_name,
        timeout=config.timeout_s,
        start_tls=False,  # asked for below, where its failure can be told from the connection's
    )
    try:
        await _greet(client, config)
        await _protect(client, config)
        await _login(client, config)
    except BaseException:
        client.close()
        raise
    return Dialled(client, _tls_used(client, config), (time.perf_counter() - began) * 1000)


async def _greet(client: aiosmtplib.SMTP, config: SmtpConfig) -> None:
    sock = await _open_socket(config)
    try:
        phase = Phase.TLS if config.tls is TlsMode.SSL else Phase.GREETING
        async with _stage(phase):
            if config.tls is TlsMode.SSL:
                await client.connect(
                    sock=sock, hostname=config.host, port=None, use_tls=True, tls_context=await tls_context(config)
                )
            else:
                await client.connect(sock=sock, hostname=config.host, port=None)
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
        await client.starttls(server_hostname=config.host, tls_context=await tls_context(config))
    async with _stage(Phase.EHLO):
        await client.ehlo()


async def _login(client: aiosmtplib.SMTP, config: SmtpConfig) -> None:
    if config.username is None or config.password is None:
        return
    if client.get_transport_info("sslcontext") is None:
        raise DialFailed(Answer(Phase.AUTH, fault=Fault.TLS_FAILED, detail="credentials are never sent without TLS"))
    offered = client.server_auth_methods
    mechanism = next((m for m in _MECHANISMS if m in offered), None)
    if mechanism is None:
        raise DialFailed(
            Answer(Phase.AUTH, fault=Fault.AUTH_NOT_OFFERED, detail=f"offered: {', '.join(offered) or 'none'}")
        )
    async with _stage(Phase.AUTH):
        await _authenticate(client, mechanism, config.username, config.password.get_secret_value())


def _authenticate(
    client: aiosmtplib.SMTP, mechanism: str, username: str, password: str
) -> Awaitable[aiosmtplib.SMTPResponse]:
    match mechanism:
        case "plain":
            return client.auth_plain(username, password)
        case "login":
            return client.auth_login(username, password)
        case _:
            return client.auth_crammd5(username, password)


async def _open_socket(config: SmtpConfig) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(config.timeout_s):
            found = await loop.getaddrinfo(config.host.strip("[]"), config.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        temporary = error.errno in {socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_MEMORY}
        fault = Fault.DNS_UNAVAILABLE if temporary else Fault.DNS_NOT_FOUND
        raise DialFailed(Answer(Phase.RESOLVE, fault=fault)) from None
    except TimeoutError:
        raise DialFailed(Answer(Phase.RESOLVE, fault=Fault.DNS_UNAVAILABLE)) from None
    return await _connect_first(found, config.timeout_s)


async def _connect_first(addresses: Sequence[AddressInfo], timeout_s: float) -> socket.socket:
    fault, detail = Fault.UNREACHABLE, ""
    for family, kind, protocol, _name, address in addresses:
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)  # noqa: FBT003 # the standard library's own signature
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError as error:  # TimeoutError is one of them
            sock.close()
            fault = Fault.TIMEOUT if isinstance(error, TimeoutError) else Fault.UNREACHABLE
            detail = error.strerror or ""
        except BaseException:
            sock.close()
            raise
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise DialFailed(Answer(Phase.CONNECT, fault=fault, detail=detail))


@asynccontextmanager
async def _stage(phase: Phase) -> AsyncIterator[None]:
    """Translate whatever a stage raises into the answer that stands for it."""
    try:
        yield
    except aiosmtplib.SMTPResponseException as error:
        raise DialFailed(Answer(phase, SmtpReply(error.code, error.message))) from None
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
        return cause.reason or ""
    return ""


def _tls_used(client: aiosmtplib.SMTP, config: SmtpConfig) -> TlsUsed | None:
    cipher = client.get_transport_info("cipher")
    if not cipher:
        return None
    name, version, _bits = cipher
    return TlsUsed(version=version, cipher=name, verified=config.verify_tls)
