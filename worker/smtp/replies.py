"""SMTP replies out of bytes (RFC 5321 section 4.2), however the network cut them up.

A parser that guesses would hand one message's reply to another, so anything that is not a reply
ends the connection: other codes than 200-599, lines of one reply that disagree on the code, text
without a code. Three tolerances, all of which real servers need:

- a line may end in LF alone (Postfix's client reads these too). Replies are matched to commands
  by count, and nothing that Postbote sends contains a line end of somebody else's choosing, so
  no echo of ours can become a reply line of its own;
- a code may stand alone, without the space (RFC 5321 section 4.2.1 tells clients to accept it);
- a line may be 4,096 octets where the RFC says 512: wordy policy replies exceed it.

Memory is bounded: one unfinished line and one unfinished reply are all that is kept from one read to the next.
"""

from collections import deque
from functools import lru_cache

from worker.delivery.ports import SmtpReply
from worker.errors import PostboteError

MAX_LINE = 4096
MAX_LINES = 128
MAX_REPLY = 64 * 1024
_CODES = {b"%d" % code: code for code in range(200, 600)}
_SEPARATORS = (b" ", b"-", b"")
_SHOWN = 40
_INTERMEDIATE = 300
_FAILURE = 400


class RemoteProtocolError(PostboteError):
    """The server said something that is not SMTP, or not its turn; the connection is of no more use."""


def is_refusal(reply: SmtpReply) -> bool:
    """Return True for 4yz and 5yz, False for 2yz. Raises RemoteProtocolError for 3yz, which only DATA may get."""
    if _INTERMEDIATE <= reply.code < _FAILURE:
        msg = f"reply {reply.code} to a command that cannot have one"
        raise RemoteProtocolError(msg)
    return reply.code >= _FAILURE


class ReplyParser:
    """Collects bytes and gives out whole replies, in order.

    After a RemoteProtocolError the parser has lost its place and must not be asked again.
    """

    __slots__ = ("_ahead", "_code", "_lines", "_size", "_unfinished")

    def __init__(self) -> None:
        """Start with nothing read."""
        self._ahead: deque[bytes] = deque()  # lines without their LF
        self._unfinished = b""
        self._code = 0
        self._lines: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Take bytes as they came off the wire; call `next_reply` until it returns None."""
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        self._ahead += lines

    @property
    def unread(self) -> int:
        """How many octets have been fed and not been read as part of a reply."""
        return sum(len(line) + 1 for line in self._ahead) + len(self._unfinished)

    def next_reply(self) -> SmtpReply | None:
        """Return the next whole reply, or None until more bytes come.

        Raises RemoteProtocolError where the bytes are not a reply.
        """
        while self._ahead:
            line = self._ahead.popleft()
            _check_length(len(line) + 1)
            if not self._lines and (reply := _alone(line)) is not None:  # nearly every reply: one line
                return reply
            code, more, text = _split(line)
            if self._lines and code != self._code:
                msg = f"one reply with two codes: {self._code} and {code}"
                raise RemoteProtocolError(msg)
            self._collect(code, text)
            if not more:
                return self._finish()
        _check_length(len(self._unfinished))
        return None

    def _collect(self, code: int, text: bytes) -> None:
        self._code = code
        self._lines.append(text)
        self._size += len(text)
        if len(self._lines) > MAX_LINES or self._size > MAX_REPLY:
            msg = f"a reply of more than {MAX_LINES} lines or {MAX_REPLY} octets"
            raise RemoteProtocolError(msg)

    def _finish(self) -> SmtpReply:
        reply = SmtpReply(self._code, b"\n".join(self._lines).decode("utf-8", "replace"))
        self._lines = []
        self._size = 0
        return reply


def _check_length(octets: int) -> None:
    if octets > MAX_LINE:
        msg = f"a reply line longer than {MAX_LINE} octets"
        raise RemoteProtocolError(msg)


@lru_cache(maxsize=128)
def _alone(line: bytes) -> SmtpReply | None:
    """Return the reply that this line is, or None where further lines belong to it.

    Remembered, for a server answers every MAIL, RCPT and DATA in the same words.
    """
    code, more, text = _split(line)
    return None if more else SmtpReply(code, text.decode("utf-8", "replace"))


def _split(line: bytes) -> tuple[int, bool, bytes]:
    bare = line.removesuffix(b"\r")
    code, separator = _CODES.get(bare[:3]), bare[3:4]
    if code is None or separator not in _SEPARATORS:
        msg = f"not an SMTP reply: {bare[:_SHOWN]!r}"
        raise RemoteProtocolError(msg)
    return code, separator == b"-", bare[4:]
