"""Events to render, and a reader for what came out: the standard library's parser as the oracle."""

import email
import re
from base64 import b64encode
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from typing import Any

from hypothesis import strategies as st

from schemas.address import Mailbox
from schemas.event import KINDS, EmailEvent, Envelope
from schemas.text import one_line
from worker.message import Rendered, Sender, render

AUTHOR = Mailbox(email="noreply@acme.example", name="Acme")
SENDER = Sender(AUTHOR.email, AUTHOR, None, "acme.example")
WHEN = datetime(2025, 11, 4, 8, 30, tzinfo=UTC)


def event(
    kind: str = "email.requested.v1", event_id: str = "e-1", source: str = "https://acme.example", **data: Any
) -> EmailEvent:
    envelope = Envelope(specversion="1.0", id=event_id, source=source, type=kind, time=WHEN)
    return EmailEvent(envelope, KINDS[kind].model_validate({"to": ["amara@acme.example"], **data}))


def mail(sender: Sender = SENDER, **data: Any) -> Rendered:
    return render(event(**{"subject": "Hello", "text": "Hello\n", **data} if "template" not in data else data), sender)


def read(rendered: Rendered) -> EmailMessage:
    """What a reader makes of the bytes."""
    content = rendered.message.content
    if rendered.message.eight_bit:
        # BytesParser leaves UTF-8 in addresses as surrogates; as text it is read the way RFC 6532 means it.
        return email.message_from_string(content.decode(), policy=policy.SMTPUTF8)
    return email.message_from_bytes(content, policy=policy.default)


def raw_header(rendered: Rendered, name: str) -> str:
    """One header as it stands in the bytes, unfolded; empty where it is not there."""
    head = rendered.message.content.partition(b"\r\n\r\n")[0].decode().replace("\r\n ", " ")
    found = [line for line in head.split("\r\n") if line.startswith(f"{name}:")]
    return found[0].partition(":")[2].strip() if found else ""


def plain(message: EmailMessage) -> str:
    part = message.get_body(("plain",))
    return "" if part is None else part.get_content()


def html(message: EmailMessage) -> str:
    part = message.get_body(("html",))
    return "" if part is None else part.get_content()


def lines_of(text: str) -> str:
    """A body as it must come back: every line end as CRLF, and one at the end."""
    joined = re.sub("\r\n|\r|\n", "\r\n", text)
    return joined if joined.endswith("\n") else joined + "\r\n"


def file(filename: str = "a.bin", content: bytes = b"abc", **more: Any) -> dict[str, Any]:
    return {"filename": filename, "content": b64encode(content).decode(), **more}


def _is_header_text(value: str) -> bool:
    try:
        one_line(value)
    except ValueError:
        return False
    return True


_HOSTILE = st.sampled_from(
    [
        "=?utf-8?q?x?=",
        "=?",
        "?=",
        '"',
        "\\",
        ",",
        ";",
        "<a@b>",
        "(c)",
        " ",
        "  ",
        "é",
        "日本語",
        "😀",
        "👩‍👩‍👧",
        "\u202e",
        "\u00a0",
        "\u3000",
        "ẞ",
        "x" * 80,
        ":",
        "%41",
        "''",
        "=",
        "_",
        "a b",
        "é" * 40,
        "\u0301",
    ]
)
header_text = (
    st.lists(st.one_of(_HOSTILE, st.text(max_size=12)), min_size=1, max_size=8)
    .map("".join)
    .filter(_is_header_text)
    .filter(bool)
)
"""One line of text of every kind that a schema lets through."""

body_text = (
    st.lists(
        st.one_of(
            st.text(max_size=40),
            st.sampled_from(
                [
                    "\r\n",
                    "\n",
                    "\r",
                    "\n\n",
                    "From me\n",
                    ".\n",
                    "..\r\n",
                    " \n",
                    "\t\n",
                    "=\n",
                    "x" * 1200,
                    "é" * 500,
                    "\x0b\x0c\x1c\x85\u2028",
                    "--=_\n",
                    "日本\n",
                ]
            ),
        ),
        max_size=8,
    )
    .map("".join)
    .map(lambda text: text.replace("\0", ""))
)
"""A body of any characters and line ends."""
