"""Whatever an event says, the standard library's parser reads it back from our bytes."""

import re
from email.header import decode_header, make_header

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from message_events import SENDER, body_text, event, file, header_text, html, lines_of, mail, plain, raw_header, read

from schemas.address import Mailbox
from worker.message import Sender, render

quick = settings(max_examples=20, deadline=None)

addresses = st.sampled_from(
    [
        "a@b.example",
        "very.long.local.part.of.an.address@mail.subdomain.of.acme.example",
        '"odd name"@acme.example',
        "o'neil+tag@x.example",
        "ops@mail.internal",
    ]
)


def _readable_name(name: str) -> str:
    # Two narrowings for the parser, not for us. It makes one blank of several (of any script), even
    # inside an encoded word. And (3.11.7) it reads the blank between two encoded words of a phrase as
    # part of the name, where RFC 2047 section 6.2 has it ignored: so these names fit in one word, and
    # the longer ones are read by the older decoder, further down.
    return " ".join(name.encode()[:20].decode(errors="ignore").split())


names = header_text.map(_readable_name).filter(bool)
mailboxes = st.builds(Mailbox, email=addresses, name=st.one_of(st.none(), names))
header_names = st.from_regex(r"x-[a-z0-9]{1,12}(-[a-z0-9]{1,30}){0,2}", fullmatch=True)


def assert_lines_are_short(content: bytes) -> None:
    head = content.partition(b"\r\n\r\n")[0]
    for line in head.split(b"\r\n"):
        assert len(line) <= 998
        # Longer than 78 only where no blank inside would have allowed a fold.
        assert len(line) <= 78 or b" " not in re.sub(rb"\A[^ :]+: |\A ", b"", line)
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert b"\r" not in content.replace(b"\r\n", b"")
    assert content.endswith(b"\r\n")
    assert content.isascii()


@quick
@given(subject=header_text)
def test_a_subject_is_read_back_to_the_character(subject):
    rendered = mail(subject=subject)
    assert str(read(rendered)["subject"]) == subject
    assert rendered.subject == subject
    assert_lines_are_short(rendered.message.content)


@quick
@given(to=st.lists(mailboxes, min_size=1, max_size=6), cc=st.lists(mailboxes, max_size=3), author=mailboxes)
def test_names_and_addresses_are_read_back_in_their_order(to, cc, author):
    sender = Sender(author.email, author, author, "acme.example")
    rendered = mail(sender, to=to, cc=cc)
    message = read(rendered)
    for header, expected in (("to", to), ("cc", cc), ("from", [author]), ("reply-to", [author])):
        found = message[header].addresses if message[header] else ()
        assert [(a.display_name, a.addr_spec) for a in found] == [(m.name or "", m.email) for m in expected]
    assert_lines_are_short(rendered.message.content)


@quick
@given(name=header_text.filter(lambda name: not name.isspace()).map(lambda name: (name * 40)[:200]))
def test_a_long_name_is_read_back_by_the_older_decoder(name):
    rendered = mail(to=[{"email": "a@b.example", "name": name}])
    phrase = raw_header(rendered, "To").removesuffix(" <a@b.example>")
    decoded = str(make_header(decode_header(phrase)))
    assert decoded == name or phrase in (name, '"' + re.sub(r'(["\\])', r"\\\1", name) + '"')
    assert_lines_are_short(rendered.message.content)


@quick
@given(name=header_names, value=header_text)
def test_a_custom_header_is_read_back_to_the_character(name, value):
    rendered = mail(headers={name: value})
    found = str(read(rendered)[name])
    # The parser of 3.11.7 takes the blank of a fold right after the colon for part of the value.
    titled = "-".join(part.capitalize() for part in name.split("-"))
    folded_at_once = f"\r\n{titled}:\r\n ".encode() in rendered.message.content
    assert found == value or (folded_at_once and found == f" {value}")
    assert_lines_are_short(rendered.message.content)


@quick
@given(text=body_text, markup=body_text)
def test_text_and_html_are_read_back_line_for_line(text, markup):
    text, markup = f"t{text}", f"<p>{markup}"  # blank bodies are left out, see below
    rendered = mail(text=text, html=markup)
    message = read(rendered)
    assert plain(message) == lines_of(text)
    assert html(message) == lines_of(markup)
    assert_lines_are_short(rendered.message.content)


@quick
@given(text=body_text)
def test_a_text_alone_is_read_back_line_for_line(text):
    rendered = mail(text=text)
    message = read(rendered)
    assert message.get_content_type() == "text/plain"
    assert message.get_content() == lines_of(text)
    assert_lines_are_short(rendered.message.content)


@quick
@given(files=st.lists(st.tuples(header_text, st.binary(max_size=300)), min_size=1, max_size=4))
def test_file_names_and_contents_are_read_back_exactly(files):
    rendered = mail(attachments=[file(name, content) for name, content in files])
    # Not get_filename, which strips blanks of all kinds off a name that has them.
    parts = read(rendered).iter_attachments()
    found = [(part["content-disposition"].params["filename"], part.get_payload(decode=True)) for part in parts]
    assert found == files
    assert_lines_are_short(rendered.message.content)


@quick
@given(data=st.data())
def test_the_same_event_has_the_same_bytes_and_its_bcc_is_in_none_of_them(data):
    fields = {
        "subject": data.draw(header_text),
        "text": data.draw(body_text),
        "html": data.draw(body_text),
        "bcc": [{"email": "hidden-one@secret.example", "name": "Hidden Person"}],
        "attachments": [file(data.draw(header_text), data.draw(st.binary(max_size=50)), disposition="inline")],
    }
    first = render(event(**fields), SENDER)
    assert first == render(event(**fields), SENDER)
    assert b"secret.example" not in first.message.content
    assert b"Hidden" not in first.message.content
    assert read(first)["bcc"] is None
    assert "hidden-one@secret.example" in first.envelope.recipients


LOCALS = ["jörg@acme.example", "用户@acme.example"]


@pytest.mark.parametrize("address", LOCALS)
def test_a_local_part_beyond_ascii_travels_raw_and_asks_for_smtputf8(address):
    rendered = mail(to=[{"email": address, "name": "Jörg ß"}], subject="Grüße")
    assert (rendered.message.smtputf8, rendered.message.eight_bit) == (True, True)
    assert address.encode() in rendered.message.content
    message = read(rendered)
    assert [(a.display_name, a.addr_spec) for a in message["to"].addresses] == [("Jörg ß", address)]
    assert message["subject"] == "Grüße"


def test_a_blind_recipient_beyond_ascii_needs_smtputf8_for_the_envelope_alone():
    rendered = mail(bcc=["jörg@acme.example"])
    assert (rendered.message.smtputf8, rendered.message.eight_bit) == (True, False)
    assert rendered.message.content.isascii()


def test_a_domain_beyond_ascii_needs_no_extension():
    rendered = mail(to=["info@bücher.example"])
    assert (rendered.message.smtputf8, rendered.message.eight_bit) == (False, False)
    assert raw_header(rendered, "To") == "info@xn--bcher-kva.example"


def test_a_thousand_recipients_stand_in_one_folded_header():
    to = [{"email": f"user{n}@acme.example", "name": f"Üser {n}"} for n in range(1000)]
    rendered = mail(to=to)
    assert len(read(rendered)["to"].addresses) == 1000
    assert_lines_are_short(rendered.message.content)
