"""What a connection still has to write, handed to the socket in pieces.

A transport takes whatever it is given and never says how much of it has left. Whether a final
dot has left decides between a plain retry and a doubt, so only small pieces are handed over while
the transport takes them, and the rest stays here, where it is certain that it never left.
"""

import asyncio
from collections import deque

# Large enough that a usual mail is one piece, small enough that a large one is mostly still here.
PIECE = 64 * 1024


class Outbox:
    """The unwritten end of one connection's stream."""

    __slots__ = ("_counts", "_paused", "_pieces", "_transport", "octets")

    def __init__(self, transport: asyncio.Transport) -> None:
        """Write to `transport`, with nothing waiting."""
        self._transport = transport
        # Over TLS the transport counts records of which nobody knows how many octets of ours they hold.
        self._counts = transport.get_extra_info("sslcontext") is None
        self._pieces: deque[memoryview | bytes] = deque()
        self._paused = False
        self.octets = 0
        """How many octets have certainly not left."""
        transport.set_write_buffer_limits(high=PIECE)

    def write(self, buffers: list[bytes]) -> None:
        """Send the buffers in order, as far as the socket takes them now."""
        if len(buffers) == 1 and len(buffers[0]) <= PIECE and not self._pieces and self._takes:
            self._hand_over(buffers[0])  # nearly every mail
            return
        for buffer in buffers:
            self.octets += len(buffer)
            if len(buffer) <= PIECE:
                self._pieces.append(buffer)
            else:
                view = memoryview(buffer)
                self._pieces.extend(view[start : start + PIECE] for start in range(0, len(view), PIECE))
        self._flush()

    def pause(self) -> None:
        """Hold everything back: the socket is full."""
        self._paused = True

    def resume(self) -> None:
        """Go on."""
        self._paused = False
        self._flush()

    def never_left(self) -> int:
        """Return how many octets certainly never left, now that the connection has ended."""
        # Only now: until its end a transport may still write what it held when it was aborted.
        return self.octets + (self._transport.get_write_buffer_size() if self._counts else 0)

    def _flush(self) -> None:
        while self._pieces and self._takes:
            piece = self._pieces.popleft()  # before the write, which may call `resume`
            self.octets -= len(piece)
            self._hand_over(piece)

    @property
    def _takes(self) -> bool:
        return not (self._paused or self._transport.is_closing())

    def _hand_over(self, piece: memoryview | bytes) -> None:
        self._transport.write(piece)
        if self._transport.is_closing():
            # The transport writes at once where it can. One that closed over it wrote nothing of
            # this piece: of a non-blocking socket, a write fails whole or not at all.
            self.octets += len(piece)
