"""One event into one message: the RFC 5322 bytes, put together without email.message.

Everything that could differ between two renderings is taken from the event: Message-ID and
boundaries from its identity, Date from its time. A resend has the same bytes, so a receiver
that saw the first one can tell.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

from schemas.event import RESERVED_HEADERS, EmailData, EmailEvent
from worker.delivery.ports import MailEnvelope, RenderedMessage
from worker.errors import RenderError
from worker.message.addresses import address_header, needs_smtputf8
from worker.message.dkim import sign
from worker.message.headers import MAX_TOKEN, require_one_line, text_header
from worker.message.mime import Entity, body_entity, file_entity, is_inline, multipart, pick_boundary, text_entity
from worker.message.sender import Sender
from worker.message.times import date_time
from worker.message.words import Words, words_of

# What RFC 3986 lets stand in a URI; anything else in an event's link is percent-encoded.
_URI_CHARACTERS = "!#$%&'()*+,/:;=?@[]~-._"


class Rendered(NamedTuple):
    """A message ready to be sent: its SMTP envelope, its bytes, its subject as text."""

    envelope: MailEnvelope
    message: RenderedMessage
    subject: str


def render(event: EmailEvent, sender: Sender) -> Rendered:
    """Return the message of `event` as `sender` sends it; the same bytes each time.

    A signed one (`sender.dkim`) is the same below its signature, and costs milliseconds: render it
    in a thread. Raises RenderError with the field at fault: an unknown template, a variable that a
    template lacks, a control character in a header; ``dkim`` for a key that cannot sign.
    """
    words = words_of(event)
    digest = _digest(event)
    message_id = f"<{digest}@{sender.message_id_domain}>"
    entity = _entity(words, digest)
    head = _headers(event, sender, words.subject, message_id)
    content = b"".join([f"{head}{entity.head}\r\n".encode(), *entity.body])
    if sender.dkim is not None:
        content = sign(content, sender.dkim)
    plain_head = head.isascii()
    blind = [mailbox.email for mailbox in event.data.bcc]  # the head shows everybody else
    message = RenderedMessage(
        content=content,
        message_id=message_id,
        smtputf8=not plain_head or needs_smtputf8(sender.mail_from) or any(map(needs_smtputf8, blind)),
        eight_bit=not plain_head,
        bulk=sender.bulk,
    )
    return Rendered(MailEnvelope(sender.mail_from, event.data.recipients()), message, words.subject)


def _digest(event: EmailEvent) -> str:
    source, identifier = event.envelope.source, event.envelope.id
    # The length in front keeps ("a", "bc") apart from ("ab", "c").
    return hashlib.sha256(f"{len(source)}:{source}{identifier}".encode()).hexdigest()[:32]


def _headers(event: EmailEvent, sender: Sender, subject: str, message_id: str) -> str:
    data = event.data
    found = [address_header("From", (sender.from_,), "data.from"), address_header("To", data.to, "data.to")]
    if data.cc:
        found.append(address_header("Cc", data.cc, "data.cc"))
    if sender.reply_to is not None:
        found.append(address_header("Reply-To", (sender.reply_to,), "data.reply_to"))
    found.append(text_header("Subject", subject, "data.subject"))
    require_one_line(message_id, "from")
    # RFC 3834: Auto-Submitted keeps vacation replies away from a mail that nobody wrote.
    found.append(
        f"Date: {date_time(event.envelope.time)}\r\nMessage-ID: {message_id}\r\nAuto-Submitted: auto-generated\r\n"
    )
    if sender.bulk or data.unsubscribe_url is not None:
        found += _list_headers(data, bulk=sender.bulk)
    if data.headers:
        found += [_custom_header(name, value) for name, value in data.headers.items()]
    found.append("MIME-Version: 1.0\r\n")
    return "".join(found)


def _list_headers(data: EmailData, *, bulk: bool) -> Iterator[str]:
    if data.unsubscribe_url is not None:
        yield from _unsubscribe(data.unsubscribe_url)
    if bulk and not any(name.lower() == "precedence" for name in data.headers):
        yield "Precedence: bulk\r\n"


def _unsubscribe(url: str) -> Iterator[str]:
    uri = quote(url, safe=_URI_CHARACTERS)
    if len(uri) > MAX_TOKEN:
        raise RenderError("data.unsubscribe_url", f"is longer than {MAX_TOKEN} octets once encoded")
    yield text_header("List-Unsubscribe", f"<{uri}>", "data.unsubscribe_url")
    if uri.lower().startswith("https:"):  # RFC 8058 section 3.1 offers one click over HTTPS alone
        yield "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"


def _custom_header(name: str, value: str) -> str:
    path = f"data.headers.{name}"
    titled = "-".join(part.capitalize() for part in name.split("-"))
    if name.lower() in RESERVED_HEADERS or not name.isascii() or not name.isprintable() or set(" :") & set(name):
        raise RenderError(path, "is not a header that an event may set")
    return text_header(titled, value, path)


def _entity(words: Words, digest: str) -> Entity:
    text = None if words.text is None else text_entity("plain", words.text, "data.text")
    html = None if words.html is None else text_entity("html", words.html, "data.html")
    leaves = [leaf for leaf in (text, html) if leaf is not None]
    boundary = pick_boundary(digest, leaves) if words.attachments or len(leaves) > 1 else ""
    if not words.attachments:
        return body_entity(text, html, (), boundary)
    inline: list[Entity] = []
    attached: list[Entity] = []
    for number, attachment in enumerate(words.attachments):
        beside_html = html is not None and is_inline(attachment)
        (inline if beside_html else attached).append(file_entity(attachment, f"data.attachments.{number}"))
    body = body_entity(text, html, inline, boundary)
    return multipart("mixed", [body, *attached], f"{boundary}m") if attached else body
