"""A model SMTP server without IO that keeps its own truth, and a witness who reads the client's wire.

The server says in every reply whom it means, so that a test can see a reply given to the wrong
message; it records what it accepted for whom, and every breach of the protocol that it sees.
"""

import re
from dataclasses import dataclass, field

from worker.delivery.ports import MailEnvelope, RenderedMessage

GARBAGE = {
    "garbage": b"%& no reply at all\r\n",
    "two codes": b"250-one\r\n550 other\r\n",
    "endless line": b"250 " + b"x" * 5000 + b"\r\n",
    "code 199": b"199 hello\r\n",
}

POLITE = {"452", "552"}  # refusals by a server that never refuses RSET
REFUSALS = {"450", "550", *POLITE}


def mail(token, recipients=1, body=b"Hello\r\n"):
    """An envelope and a message that name their token everywhere."""
    envelope = MailEnvelope(f"m{token}@from.test", tuple(f"r{i}.m{token}@to.test" for i in range(recipients)))
    return envelope, RenderedMessage(b"Subject: m%d\r\n\r\n" % token + body, f"<{token}@test>")


@dataclass
class Truth:
    """What every connection's server accepted, and the contents it was meant to get."""

    contents: dict = field(default_factory=dict)
    accepted: list = field(default_factory=list)
    violations: list = field(default_factory=list)


class ModelServer:
    """Answers bytes with bytes. `faults`: number of the command on this connection -> what goes wrong."""

    def __init__(self, truth, faults=None, *, lenient_data=False):
        self.truth = truth
        self.faults = faults or {}
        self.lenient_data = lenient_data
        self.out = b""
        self.closed = False
        self.silent = False
        self._in = b""
        self._count = 0
        self._content_left = None  # octets of a chunk, or "dot"
        self._sender = None
        self._recipients = []
        self._reset_refused = False

    def receive(self, data):
        self._in += data
        while not self.closed and not self.silent and self._step():
            pass

    def _step(self):
        if self._content_left == "dot":
            return self._read_until_dot()
        if self._content_left is not None:
            return self._read_chunk()
        line, end, rest = self._in.partition(b"\r\n")
        if not end:
            return False
        self._in = rest
        self._command(line.decode())
        return True

    def _read_until_dot(self):
        if self._in.startswith(b".\r\n"):
            content, self._in = b"", self._in[3:]
        elif b"\r\n.\r\n" in self._in:
            content, _, self._in = self._in.partition(b"\r\n.\r\n")
            content += b"\r\n"
        else:
            return False
        self._content_left = None
        self._content(re.sub(rb"(?m)^\.", b"", content))
        return True

    def _read_chunk(self):
        if len(self._in) < self._content_left:
            return False
        content, self._in = self._in[: self._content_left], self._in[self._content_left :]
        self._content_left = None
        self._content(content)
        return True

    def _command(self, line):
        verb = line.split(" ")[0].split(":")[0]
        if verb == "BDAT":
            self._content_left = int(line.split(" ")[1])
        else:
            getattr(self, f"_{verb.lower()}", self._unknown)(line)

    def _unknown(self, line):
        self.truth.violations.append(f"unknown command {line!r}")
        self._answer("500", "unknown")

    def _mail(self, line):
        # Behind a RSET that this server refuses, MAIL may be on the wire already; content never is.
        if self._sender and not self._reset_refused:
            self.truth.violations.append(f"{line} in the transaction of {self._sender}")
        sender = re.match(r"MAIL FROM:<(m\d+)@from.test>", line)[1]
        if self._answer("250", f"mail {sender}"):
            self._sender = sender  # old recipients would stay, as at the worst of servers

    def _rcpt(self, line):
        recipient = re.match(r"RCPT TO:<(r\d+\.m\d+)@to.test>", line)[1]
        if not self._sender:
            self._answer("503", f"rcpt {recipient}")
        elif self._answer("250", f"rcpt {recipient}"):
            self._recipients.append(recipient)

    def _data(self, line):
        allowed = self._recipients or self.lenient_data
        if self._answer("354" if allowed else "554", f"data {self._sender}") and allowed:
            self._content_left = "dot"

    def _content(self, content):
        sender, recipients = self._sender, self._recipients
        self._sender, self._recipients = None, []
        if not recipients:
            if content:
                self.truth.violations.append("content for nobody")
            self._answer("554", f"final {sender}")
            return
        if content != self.truth.contents[sender] or any(not r.endswith(f".{sender}") for r in recipients):
            self.truth.violations.append(f"wrong content or recipients for {sender}: {content!r} {recipients}")
        if self._answer("250", f"final {sender}"):
            self.truth.accepted += [f"{r}@to.test" for r in recipients]

    def _rset(self, line):
        if self._answer("250", "reset"):
            self._sender, self._recipients = None, []
        else:
            self._reset_refused = True

    def _quit(self, line):
        self._answer("221", "quit")
        self.closed = True

    def _answer(self, code, text):
        """Say it, or what the faults say instead; True where the command took effect."""
        fault = self.faults.get(self._count)
        self._count += 1
        if fault is None or (fault in REFUSALS and code[0] not in "23") or (fault in POLITE and text == "reset"):
            self.out += f"{code} {text}\r\n".encode()
        elif fault == "many lines":
            self.out += f"{code}-first\r\n{code}-\r\n{code} {text}\r\n".encode()
        elif fault == "bare":
            self.out += f"{code} {text}\n".encode()
        elif fault == "done, then gone":
            self.closed = True
        elif fault == "done, then silent":
            self.silent = True
        elif fault == "done, then garbage":
            self.out += b"\x00\xff\r\n"
        elif fault == "done, then 334":
            self.out += f"334 {text}\r\n".encode()
        else:
            self._refuse(fault, text)
            return False
        return code[0] in "23"

    def _refuse(self, fault, text):
        self.closed = fault in {"421", "gone"}
        self.silent = fault == "silent"
        if fault in {"421", *REFUSALS}:
            self.out += f"{fault} {text}\r\n".encode()
        elif fault in GARBAGE:
            self.out += GARBAGE[fault]


FAULTS = [
    "450",
    "550",
    "421",
    "gone",
    "silent",
    "many lines",
    "bare",
    "done, then gone",
    "done, then silent",
    "done, then garbage",
    "done, then 334",
    *GARBAGE,
]


class Witness:
    """Reads what the client hands out and what it was told by then; asserts the order of things."""

    def __init__(self, *, pipelining):
        self.pipelining = pipelining
        self.codes = []
        self.dot_at = None  # offset of the last final dot, or of a chunk's last octet
        self._sent = 0
        self._offset = 0
        self._after_data = False
        self._in_content = False
        self._reply_part = b""

    def told(self, data):
        """The client was given these bytes of the server."""
        *lines, self._reply_part = (self._reply_part + data).split(b"\n")
        self.codes += [line[:3] for line in lines if line[3:4] != b"-"]

    def handed(self, data):
        """The client handed these bytes out, as one flight."""
        while data:
            if self._after_data:
                assert len(self.codes) >= self._sent, "something followed DATA before its reply"
                self._after_data, self._in_content = False, self.codes[self._sent - 1] == b"354"
            taken = self._content(data) if self._in_content else self._command(data)
            data = data[taken:]
            self._offset += taken

    def _content(self, data):
        end = 0 if data.startswith(b".\r\n") else data.index(b"\r\n.\r\n") + 2
        self.dot_at = self._offset + end
        self._in_content = False
        self._sent += 1
        return end + 3

    def _command(self, data):
        assert self.pipelining or len(self.codes) == self._sent, "a command before the reply to the last, unasked"
        self._sent += 1
        taken = data.index(b"\r\n") + 2
        if data.startswith(b"BDAT"):
            taken += int(data.split(b" ")[1])
            self.dot_at = self._offset + taken - 1
        self._after_data = data.startswith(b"DATA")
        return taken
