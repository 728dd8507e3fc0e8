"""One SMTP connection: a transaction at a time, command by command (RFC 5321 section 3.3).

The answer of each recipient names the phase that decided it. Once the final dot may have left
this host, a missing reply is an answer of phase FINAL: nobody can know what the server did.
"""

import re
import time

import aiosmtplib

from schemas.audit import TlsUsed
from worker.delivery.ports import Answer, Fault, MailEnvelope, Phase, RenderedMessage, SmtpReply, TransactionResult
from worker.smtp.dial import Dialled

_LEADING_DOT = re.compile(rb"^\.", re.MULTILINE)
_START_INPUT = 354
_CLOSING = 421
# RFC 5321 section 4.5.3.2.6: the server may need long to store what it has taken over.
FINAL_TIMEOUT_S = 600.0


class _Broken(Exception):
    """The connection is of no further use."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


class SmtpConnection:
    """A dialled connection; `usable` turns False for good once a transaction has broken it."""

    def __init__(self, dialled: Dialled, timeout_s: float) -> None:
        """Take over what `dial` made; `timeout_s` bounds the wait for each reply but the last."""
        self._client = dialled.client
        self.tls: TlsUsed | None = dialled.tls
        self._timeout_s = timeout_s
        self._broken = False
        self.idle_since = time.monotonic()

    @property
    def usable(self) -> bool:
        """False once the server closed it (noticed while idle, too) or a transaction broke it."""
        return not self._broken and self._client.is_connected

    async def send(self, envelope: MailEnvelope, message: RenderedMessage) -> TransactionResult:
        """Run one transaction; every recipient of the envelope gets an answer."""
        began = time.perf_counter()
        self._broken = True  # until the transaction has ended in a known state
        answers = await self._transaction(envelope, message)
        self.idle_since = time.monotonic()
        return TransactionResult(answers, self.tls, transaction_ms=(time.perf_counter() - began) * 1000)

    async def close(self) -> None:
        """Say QUIT where that still makes sense, and close."""
        if self.usable:
            self._broken = True
            try:
                await self._client.quit(timeout=2.0)
            except (aiosmtplib.SMTPException, OSError):
                self._client.close()  # it was going away in any case
        else:
            self._client.close()

    async def _transaction(self, envelope: MailEnvelope, message: RenderedMessage) -> dict[str, Answer]:
        unsupported = self._unsupported(message)
        if unsupported is not None:
            self._broken = False
            return dict.fromkeys(envelope.recipients, unsupported)
        answers: dict[str, Answer] = {}
        phase = Phase.MAIL
        try:
            reply = await self._command(b"MAIL FROM:<" + envelope.mail_from.encode() + b">" + self._parameters(message))
            if not _positive(reply):
                await self._reset(reply)
                return dict.fromkeys(envelope.recipients, Answer(phase, reply))
            phase = Phase.RCPT
            accepted = await self._recipients(envelope, answers)
            if not accepted:
                return answers
            phase = Phase.DATA
            reply = await self._command(b"DATA")
            if reply.code != _START_INPUT:
                await self._reset(reply)
                return answers | dict.fromkeys(accepted, Answer(phase, reply))
            phase = Phase.FINAL
            return answers | dict.fromkeys(accepted, Answer(phase, await self._body(message.content)))
        except _Broken as broken:
            self._client.close()
            missing = [r for r in envelope.recipients if r not in answers]
            return answers | dict.fromkeys(missing, Answer(phase, fault=broken.fault))

    async def _recipients(self, envelope: MailEnvelope, answers: dict[str, Answer]) -> list[str]:
        """Fill `answers` with the refusals and return the accepted; after a 421 nobody is."""
        accepted = []
        for recipient in envelope.recipients:
            reply = await self._command(b"RCPT TO:<" + recipient.encode() + b">")
            if reply.code == _CLOSING:
                answers |= {r: Answer(Phase.RCPT, reply) for r in envelope.recipients if r not in answers}
                return []
            if _positive(reply):
                accepted.append(recipient)
            else:
                answers[recipient] = Answer(Phase.RCPT, reply)
        if not accepted:
            await self._reset(None)
        return accepted

    async def _body(self, content: bytes) -> SmtpReply:
        reply = await self._write_and_read(_LEADING_DOT.sub(b"..", content) + b".\r\n", FINAL_TIMEOUT_S)
        self._broken = reply.code == _CLOSING
        return reply

    async def _reset(self, reply: SmtpReply | None) -> None:
        """Leave no half-open transaction behind; after 421 the server is gone anyway."""
        if reply is None or reply.code != _CLOSING:
            self._broken = not _positive(await self._command(b"RSET"))

    async def _command(self, line: bytes) -> SmtpReply:
        return await self._write_and_read(line + b"\r\n", self._timeout_s)

    async def _write_and_read(self, data: bytes, timeout_s: float) -> SmtpReply:
        protocol = self._client.protocol
        if protocol is None:
            raise _Broken(Fault.LOST)
        try:
            protocol.write(data)
            response = await protocol.read_response(timeout=timeout_s)
        except aiosmtplib.SMTPTimeoutError:
            raise _Broken(Fault.TIMEOUT) from None
        except (aiosmtplib.SMTPServerDisconnected, OSError):
            raise _Broken(Fault.LOST) from None
        except aiosmtplib.SMTPException:
            raise _Broken(Fault.PROTOCOL) from None
        return SmtpReply(response.code, response.message)

    def _unsupported(self, message: RenderedMessage) -> Answer | None:
        client = self._client
        if message.smtputf8 and not client.supports_extension("smtputf8"):
            return Answer(Phase.MAIL, fault=Fault.SMTPUTF8_NOT_OFFERED)
        limit = client.esmtp_extensions.get("size", "")
        if limit.isdigit() and 0 < int(limit) < len(message.content):
            detail = f"{len(message.content)} octets, the server takes {limit}"
            return Answer(Phase.MAIL, fault=Fault.TOO_LARGE, detail=detail)
        return None

    def _parameters(self, message: RenderedMessage) -> bytes:
        client, parameters = self._client, b""
        if client.supports_extension("size"):
            parameters += b" SIZE=%d" % len(message.content)
        if message.eight_bit and client.supports_extension("8bitmime"):
            parameters += b" BODY=8BITMIME"
        if message.smtputf8:
            parameters += b" SMTPUTF8"
        return parameters


def _positive(reply: SmtpReply) -> bool:
    return reply.code // 100 == 2  # noqa: PLR2004 # RFC 5321 section 4.2.1: 2yz is completion
