"""From a record to a connected socket: one look-up, every address judged, dialled by number.

The name is looked up once for each connect. Only an address that the egress guard has passed is
dialled, and as the number that was passed, so a name that resolves differently a moment later
cannot lead anywhere else. TLS verifies by name all the same: see `dial`.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from schemas.smtp_config import SmtpConfig
from worker.delivery.ports import Answer, Fault, Phase, SmtpReply
from worker.smtp.egress import EgressGuard

AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
Resolver = Callable[[str, int], Awaitable[Sequence[AddressInfo]]]


class DialFailed(Exception):
    """No usable connection; `answer` is what every waiting recipient gets."""

    def __init__(self, answer: Answer) -> None:
        """Keep the answer."""
        super().__init__(f"{answer.phase}: {answer.fault or answer.reply}")
        self.answer = answer

    @property
    def reply(self) -> SmtpReply | None:
        """What the server said, where it came to that."""
        return self.answer.reply


async def look_up(host: str, port: int) -> Sequence[AddressInfo]:
    """Ask the system's resolver; raises socket.gaierror as it does."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(socket.AddressFamily(f), socket.SocketKind(k), p, n, a) for f, k, p, n, a in found]


async def open_socket(config: SmtpConfig, guard: EgressGuard, resolve: Resolver = look_up) -> socket.socket:
    """Connect to the first of the record's permitted addresses that answers; raise DialFailed."""
    if denied := guard.port_denied(config):
        raise DialFailed(Answer(Phase.CONNECT, fault=Fault.EGRESS_DENIED, detail=denied))
    found = await _resolve(config, resolve)
    denials = [guard.address_denied(config, str(address[0])) for *_, address in found]
    permitted = [each for each, denied in zip(found, denials, strict=True) if denied is None]
    if not permitted:
        reason = next(filter(None, denials), "the host has no address")
        raise DialFailed(Answer(Phase.RESOLVE, fault=Fault.EGRESS_DENIED, detail=reason))
    return await _connect_first(permitted, config.timeout_s)


async def _resolve(config: SmtpConfig, resolve: Resolver) -> Sequence[AddressInfo]:
    try:
        async with asyncio.timeout(config.timeout_s):
            found = await resolve(config.host.strip("[]"), config.port)
    except socket.gaierror as error:
        temporary = error.errno in {socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_MEMORY}
        fault = Fault.DNS_UNAVAILABLE if temporary else Fault.DNS_NOT_FOUND
        raise DialFailed(Answer(Phase.RESOLVE, fault=fault)) from None
    except (UnicodeError, TimeoutError) as error:
        # UnicodeError: a label that no DNS name can have (IDNA, 63 octets).
        fault = Fault.DNS_UNAVAILABLE if isinstance(error, TimeoutError) else Fault.DNS_NOT_FOUND
        raise DialFailed(Answer(Phase.RESOLVE, fault=fault)) from None
    if not found:
        raise DialFailed(Answer(Phase.RESOLVE, fault=Fault.DNS_NOT_FOUND))
    return found


async def _connect_first(addresses: Sequence[AddressInfo], timeout_s: float) -> socket.socket:
    fault, detail = Fault.UNREACHABLE, ""
    for family, kind, protocol, _name, address in addresses:
        try:
            return await _connect(socket.socket(family, kind, protocol), address, timeout_s)
        except OSError as error:  # TimeoutError is one of them
            fault = Fault.TIMEOUT if isinstance(error, TimeoutError) else Fault.UNREACHABLE
            detail = os.strerror(error.errno) if error.errno else ""  # the loop's own words name the address
    raise DialFailed(Answer(Phase.CONNECT, fault=fault, detail=detail))


async def _connect(sock: socket.socket, address: tuple[Any, ...], timeout_s: float) -> socket.socket:
    try:
        sock.setblocking(False)  # noqa: FBT003 # the standard library's own signature
        # A command waits for no acknowledgement of the one before it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
