"""Watching what arrives in clear between STARTTLS and the handshake.

RFC 3207 section 4.2 lets a server say nothing between its 220 and the handshake; whoever does is
an attacker who wants bytes of his own read as part of the protected session, or broken. The
library throws such bytes away and goes on. This stands between the socket and the library,
passes everything on, and closes the socket as soon as there is more than the one reply.
"""

import asyncio

from worker.smtp.replies import RemoteProtocolError, ReplyParser


class CleartextWatch(asyncio.Protocol):
    """Stands in for `inner` until the TLS upgrade takes the socket over."""

    def __init__(self, inner: asyncio.Protocol, transport: asyncio.Transport) -> None:
        """Take the place of `inner`; nothing has been seen yet."""
        self._inner = inner
        self._transport = transport
        self._parser = ReplyParser()
        self._replied = False
        self.surplus = 0
        """Octets that arrived in clear behind the reply."""
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """Pass on, count what follows the reply, and end it there: no handshake begins on such a connection."""
        if self._replied:
            self.surplus += len(data)
        else:
            self._parser.feed(data)
            self._replied = self._has_replied()
            self.surplus = self._parser.unread if self._replied else 0
        if self.surplus:
            self._transport.abort()
        self._inner.data_received(data)

    def _has_replied(self) -> bool:
        try:
            return self._parser.next_reply() is not None
        except RemoteProtocolError:
            return False  # the library reads the same bytes and fails on them, too

    def eof_received(self) -> bool | None:
        """Pass on."""
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on."""
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on."""
        self._inner.resume_writing()
