"""What a mail says: the event's own words, or those of the template that its kind or it names."""

from typing import NamedTuple

from schemas.event import Attachment, EmailEvent, EmailRequested
from worker.message.html_text import html_to_text
from worker.message.templates import Filled, fill_kind, fill_named


class Words(NamedTuple):
    """Subject, bodies and files of one mail; one of `text` and `html` is always there."""

    subject: str
    text: str | None
    html: str | None
    attachments: tuple[Attachment, ...] = ()


def words_of(event: EmailEvent) -> Words:
    """Return the words of `event`. Raises RenderError where a template cannot be filled."""
    data = event.data
    if not isinstance(data, EmailRequested):
        return _from_template(fill_kind(data), ())
    if data.template is not None:
        return _from_template(fill_named(data), data.attachments)
    return _with_text(Words(data.subject or "", data.text, data.html, data.attachments))


def _from_template(filled: Filled, attachments: tuple[Attachment, ...]) -> Words:
    return Words(filled.subject, filled.text, filled.html, attachments)


def _with_text(words: Words) -> Words:
    """Derive the text of a mail that has HTML alone; an empty body beside another one is left out."""
    if words.html is None:
        return words
    if words.text and _is_blank(words.html):
        return words._replace(html=None)
    if not words.text or _is_blank(words.text):
        return words._replace(text=html_to_text(words.html) or None)
    return words


def _is_blank(text: str) -> bool:
    return not text or text.isspace()  # which ends at the first letter
