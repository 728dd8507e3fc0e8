"""The table of faults on a connection in clear: what the peer does first, and what must come of the mail.

After the faulty connection the peer behaves, and the record allows one retry. Every row is run with
PIPELINING and without, and, where the mail may end in doubt, with `hold` and with `resend`.
"""

from dataclasses import dataclass

import pytest

from tests.peers.scripted import Act, End, Point, Script
from worker.smtp.destination import Destination
from worker.smtp.pool import SmtpPool

Ending = tuple[str, ...]
RETRIED: Ending = ("deferred", "accepted")
DOUBT: Ending = ("in_doubt",)
PATIENT_S = 30.0


@dataclass(frozen=True)
class Row:
    """One fault: `ends` are the outcomes that may be recorded with `hold`; `kept` copies at the faulty connection.

    `timeout_s` is that of the faulty connection; those behind it are patient.
    """

    name: str
    script: Script
    ends: tuple[Ending, ...]
    kept: int = 0
    timeout_s: float = PATIENT_S
    size: int = 0

    def __str__(self) -> str:
        return self.name


def impatient_at_first(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have only the pool's first connection, the faulty one, wait so long: others come from a peer that is well."""
    connect, limits = SmtpPool._connect, iter([seconds])

    async def connect_so(pool: SmtpPool, destination: Destination) -> None:
        limit = next(limits, PATIENT_S)
        destination.config = destination.config.model_copy(update={"timeout_s": limit})
        await connect(pool, destination)

    patch.setattr(SmtpPool, "_connect", connect_so)


def at(point: Point, **act: object) -> Script:
    """A script with one act."""
    return Script({point: Act(**act)})  # type: ignore[arg-type]


_BEFORE_DATA = (Point.CONNECT, Point.EHLO, Point.MAIL, Point.RCPT)
_BEFORE_CONTENT = (*_BEFORE_DATA, Point.DATA)
_OPENING = (Point.CONNECT, Point.EHLO)
_ENDS = {"a FIN": End.FIN, "a RST": End.RST}


def _dropped() -> list[Row]:
    """The connection ends at every point, before the reply and after it, by FIN and by RST."""
    rows = []
    for name, end in _ENDS.items():
        rows += [
            Row(f"{name} in place of the reply at {point}", at(point, end=end), (RETRIED,)) for point in _BEFORE_CONTENT
        ]
        rows += [
            Row(f"{name} after the reply at {point}", at(point, end=end, obey=True), (RETRIED,))
            for point in _BEFORE_DATA
        ]
        rows += [
            # The content is small: when the end is noticed, its dot may have left.
            Row(f"{name} after 354", at(Point.DATA, end=end, obey=True), (DOUBT, RETRIED)),
            Row(f"{name} after 40 octets of the content", at(Point.BODY, octets=40, end=end), (DOUBT, RETRIED)),
            Row(f"{name} after the dot, message not kept", at(Point.DOT, end=end), (DOUBT,)),
            Row(f"{name} after the dot, message kept", at(Point.DOT, end=end, holds=True), (DOUBT,), kept=1),
        ]
    return [
        *rows,
        Row("a FIN behind the 250 to the dot", at(Point.DOT, end=End.FIN, obey=True), (("accepted",),), kept=1),
        # Whether the reply is read before the reset is the kernel's affair.
        Row("a RST behind the 250 to the dot", at(Point.DOT, end=End.RST, obey=True), (("accepted",), DOUBT), kept=1),
    ]


def _closed_by_421() -> list[Row]:
    """RFC 5321 section 3.8: 421 may answer any command, and the server has taken nothing then."""
    goodbye = b"421 4.3.2 Service shutting down\r\n"
    points = (*_BEFORE_CONTENT, Point.DOT)
    return [
        *(Row(f"421 and a FIN at {point}", at(point, say=goodbye, end=End.FIN), (RETRIED,)) for point in points),
        *(Row(f"421 and no end of the connection at {point}", at(point, say=goodbye), (RETRIED,)) for point in points),
        Row("421 behind the reply to MAIL", at(Point.MAIL, obey=True, say=goodbye, end=End.FIN), (RETRIED,)),
        Row("421 behind the reply to RCPT", at(Point.RCPT, obey=True, say=goodbye, end=End.FIN), (RETRIED,)),
        Row(
            "421 behind the 250 to the dot",
            at(Point.DOT, obey=True, say=goodbye, end=End.FIN),
            (("accepted",),),
            kept=1,
        ),
        # The reply says that nothing was taken, whenever it is read; but it may be lost behind the dot.
        Row("421 behind 354", at(Point.DATA, obey=True, say=goodbye, end=End.FIN), (RETRIED, DOUBT)),
        Row("421 in the content", at(Point.BODY, octets=40, say=goodbye, end=End.FIN), (RETRIED, DOUBT)),
    ]


def _garbage() -> list[Row]:
    """Replies that are none; at the dot, nobody knows what the server did with the message."""
    kinds = {
        "words without a code": b"what do you want?\r\n",
        "a code below 200": b"100 2.0.0 Ok\r\n",
        "a code above 599": b"600 2.0.0 Ok\r\n",
        "binary": bytes(range(128, 256)) + b"\x00\r\n",
        "a line of 600,000 octets": b"250 " + b"x" * 600_000 + b"\r\n",
        "a reply of two codes": b"250-2.0.0 Ok\r\n550 5.0.0 No\r\n",
    }
    rows = []
    for name, say in kinds.items():
        rows += [
            # Where it is no SMTP from the start, the record may name the wrong port: a config fault, tried again.
            Row(f"{name} at {point}", at(point, say=say), (("config_fault", "accepted"), RETRIED))
            for point in _OPENING
        ]
        rows += [Row(f"{name} at {p}", at(p, say=say), (RETRIED,)) for p in (Point.MAIL, Point.RCPT, Point.DATA)]
        rows += [Row(f"{name} at the dot, message kept", at(Point.DOT, say=say, holds=True), (DOUBT,), kept=1)]
        rows += [Row(f"{name} at the dot, message not kept", at(Point.DOT, say=say), (DOUBT,))]
    return rows


def _replies() -> list[Row]:
    """Well-formed replies that refuse, defer, or belong elsewhere."""
    many = b"".join(b"250-2.1.0 line %d\r\n" % n for n in range(40)) + b"250 2.1.0 last\r\n"
    return [
        Row("354 in place of the 250 to MAIL", at(Point.MAIL, say=b"354 Go ahead\r\n"), (RETRIED,)),
        Row("250 in place of 354", at(Point.DATA, say=b"250 2.0.0 Ok\r\n"), (RETRIED,)),
        Row("354 again in place of the 250 to the dot", at(Point.DOT, say=b"354 More\r\n", holds=True), (DOUBT,), 1),
        Row("MAIL answered twice", at(Point.MAIL, obey=True, say=b"250 2.1.0 Ok\r\n"), (RETRIED,), timeout_s=0.3),
        Row("550 to MAIL", at(Point.MAIL, say=b"550 5.7.1 No\r\n"), (("refused",),)),
        Row("451 to MAIL", at(Point.MAIL, say=b"451 4.3.0 Later\r\n"), (RETRIED,)),
        Row("550 to RCPT", at(Point.RCPT, say=b"550 5.1.1 No such user\r\n"), (("refused",),)),
        Row("450 to RCPT", at(Point.RCPT, say=b"450 4.2.0 Greylisted\r\n"), (RETRIED,)),
        Row("451 to DATA", at(Point.DATA, say=b"451 4.3.0 Later\r\n"), (RETRIED,)),
        Row("554 to DATA", at(Point.DATA, say=b"554 5.7.1 No\r\n"), (("refused",),)),
        Row("451 to the dot", at(Point.DOT, say=b"451 4.3.0 Later\r\n"), (RETRIED,)),
        Row("554 to the dot", at(Point.DOT, say=b"554 5.7.1 Spam\r\n"), (("refused",),)),
        Row("MAIL answered in 41 lines", at(Point.MAIL, say=many, holds=True), (("accepted",),), 1),
        Row("a bare LF as a line end", at(Point.RCPT, say=b"250 2.1.5 Ok\n", holds=True), (("accepted",), RETRIED), 1),
        Row("every reply in segments of one octet", Script(segment=1), (("accepted",),), kept=1),
        Row("every reply in segments of seven octets", Script(segment=7), (("accepted",),), kept=1),
    ]


def _mute() -> list[Row]:
    """The peer stays and says nothing more."""
    rows = [Row(f"silence at {point}", at(point, end=End.MUTE), (RETRIED,), timeout_s=0.2) for point in _BEFORE_CONTENT]
    return [
        *rows,
        Row("silence in the middle of a reply", Script(sends=30, cut_end=End.MUTE), (RETRIED,), timeout_s=0.2),
        # Of the final reply alone: no other is to be late.
        Row("silence after the dot, message kept", at(Point.DOT, end=End.MUTE, holds=True), (DOUBT,), 1),
        Row("silence after the dot, message not kept", at(Point.DOT, end=End.MUTE), (DOUBT,)),
    ]


_LARGE = 4_900_000


def _large() -> list[Row]:
    """A content whose dot cannot have left this host: the peer's window and both buffers are smaller."""
    big = {"size": _LARGE}
    return [
        Row("a RST after 354 to a large content", at(Point.DATA, end=End.RST, obey=True), (RETRIED,), **big),
        Row("a RST in a large content", at(Point.BODY, octets=9000, end=End.RST), (RETRIED,), **big),
        Row("a large content is not read on", at(Point.BODY, octets=9000, end=End.STALL), (RETRIED,), 0, 1.0, **big),
        Row(
            "a large content is read and not answered",
            at(Point.BODY, octets=9000, end=End.MUTE),
            (DOUBT,),
            0,
            1.0,
            **big,
        ),
        Row(
            "552 in a large content, and the end",
            at(Point.BODY, octets=9000, say=b"552 5.3.4 Too big\r\n", end=End.RST),
            (("refused",), RETRIED),
            **big,
        ),
        Row(
            "421 in a large content, and the end",
            at(Point.BODY, octets=9000, say=b"421 4.3.0 Bye\r\n", end=End.RST),
            (RETRIED,),
            **big,
        ),
    ]


ROWS = (*_dropped(), *_closed_by_421(), *_garbage(), *_replies(), *_mute(), *_large())
