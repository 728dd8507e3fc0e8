"""What the header block says, and what can never get into it."""

import re
from dataclasses import replace

import pytest
from message_events import AUTHOR, SENDER, event, mail, raw_header, read

from schemas.address import Mailbox
from schemas.event import Attachment, EmailEvent, EmailRequested
from worker.errors import RenderError
from worker.message import render
from worker.message.addresses import address_header
from worker.message.headers import encoded_words, text_header


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("From", "Acme <noreply@acme.example>"),
        ("To", "amara@acme.example"),
        ("Subject", "Hello"),
        ("Date", "Tue, 04 Nov 2025 08:30:00 +0000"),
        ("Auto-Submitted", "auto-generated"),
        ("MIME-Version", "1.0"),
        ("Cc", ""),
        ("Bcc", ""),
        ("Reply-To", ""),
        ("Precedence", ""),
        ("List-Unsubscribe", ""),
    ],
)
def test_a_plain_mail_says(header, expected):
    assert raw_header(mail(), header) == expected


def test_the_message_id_comes_from_the_events_identity_and_the_senders_domain():
    rendered = mail()
    assert re.fullmatch(r"<[0-9a-f]{32}@acme\.example>", rendered.message.message_id)
    assert raw_header(rendered, "Message-ID") == rendered.message.message_id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("e-1", "a"), ("e-2", "a")),
        (("e-1", "a"), ("e-1", "b")),
        (("bc", "a"), ("c", "ab")),
    ],
)
def test_events_that_differ_in_id_or_source_differ_in_message_id(one, other):
    ids = {
        render(event(event_id=event_id, source=source, subject="s", text="t"), SENDER).message.message_id
        for event_id, source in (one, other)
    }
    assert len(ids) == 2


def test_a_time_in_another_zone_is_written_in_utc():
    there = event(subject="s", text="t")
    moved = there.envelope.model_validate({**there.envelope.model_dump(), "time": "2025-11-05T01:30:00+05:30"})
    assert raw_header(render(EmailEvent(moved, there.data), SENDER), "Date") == "Tue, 04 Nov 2025 20:00:00 +0000"


def test_custom_headers_stand_in_title_case():
    content = mail(headers={"x-report-kind": "usage", "X-CAMPAIGN": "11"}).message.content
    assert b"\r\nX-Report-Kind: usage\r\n" in content
    assert b"\r\nX-Campaign: 11\r\n" in content


def test_an_empty_custom_header_stays_empty():
    assert b"\r\nX-Empty:\r\n" in mail(headers={"x-empty": ""}).message.content


def test_an_unsubscribe_link_over_https_offers_one_click():
    rendered = mail(unsubscribe_url="https://acme.example/u/1?x=%20y")
    assert raw_header(rendered, "List-Unsubscribe") == "<https://acme.example/u/1?x=%20y>"
    assert raw_header(rendered, "List-Unsubscribe-Post") == "List-Unsubscribe=One-Click"


def test_an_unsubscribe_link_over_plain_http_offers_none():
    rendered = mail(unsubscribe_url="http://acme.example/u/1")
    assert raw_header(rendered, "List-Unsubscribe") == "<http://acme.example/u/1>"
    assert raw_header(rendered, "List-Unsubscribe-Post") == ""


def test_an_unsubscribe_link_beyond_ascii_is_percent_encoded():
    assert (
        raw_header(mail(unsubscribe_url="https://acme.example/ü"), "List-Unsubscribe")
        == "<https://acme.example/%C3%BC>"
    )


def test_an_unsubscribe_link_too_long_for_a_line_is_refused_by_name():
    with pytest.raises(RenderError) as refused:
        mail(unsubscribe_url="https://acme.example/" + "x" * 900)
    assert refused.value.path == "data.unsubscribe_url"


def test_bulk_mail_says_so_unless_the_event_does():
    bulk = replace(SENDER, bulk=True)
    assert raw_header(mail(bulk), "Precedence") == "bulk"
    assert mail(bulk, headers={"precedence": "list"}).message.content.count(b"Precedence:") == 1


def test_the_reply_address_is_the_senders():
    assert (
        raw_header(mail(replace(SENDER, reply_to=Mailbox(email="help@acme.example"))), "Reply-To")
        == "help@acme.example"
    )


def test_the_envelope_names_each_recipient_once_and_the_reverse_path():
    envelope = mail(to=["a@x.example", "b@x.example"], cc=["a@x.example"], bcc=["c@x.example"]).envelope
    assert envelope.mail_from == AUTHOR.email
    assert envelope.recipients == ("a@x.example", "b@x.example", "c@x.example")


INJECTIONS = ["a\r\nBcc: x@y.example", "a\nX: y", "a\rb", "a\0b", "a\x1bb", "a\x7fb", "a\x85b", "a\u2028b", "a\ud800b"]


@pytest.mark.parametrize("forged", INJECTIONS, ids=ascii)
@pytest.mark.parametrize("name", ["Subject", "X-Note"])
def test_a_control_character_never_enters_a_text_header(name, forged):
    with pytest.raises(RenderError) as refused:
        text_header(name, forged, "data.somewhere")
    assert refused.value.path == "data.somewhere"


@pytest.mark.parametrize("forged", INJECTIONS, ids=ascii)
@pytest.mark.parametrize("where", ["name", "email"])
def test_a_control_character_never_enters_an_address_header(where, forged):
    fields = {"name": "Nice", "email": "a@b.example", where: f"{forged}@b.example"}
    with pytest.raises(RenderError) as refused:
        address_header("To", [Mailbox.model_construct(**fields)], "data.to")
    assert refused.value.path == "data.to"


@pytest.mark.parametrize("email", ["a@b.example>, <c@d.example", "no-at-sign", "<a@b.example"])
def test_an_address_that_no_schema_saw_cannot_become_two(email):
    with pytest.raises(RenderError):
        address_header("To", [Mailbox.model_construct(email=email, name="N")], "data.to")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"subject": "a\r\nb"}, "data.subject"),
        ({"headers": {"x-a": "a\r\nb"}}, "data.headers.x-a"),
        ({"headers": {"x-a: b\r\nbcc": "a"}}, "data.headers.x-a: b\r\nbcc"),
        ({"headers": {"bcc": "a@b.example"}}, "data.headers.bcc"),
        (
            {"attachments": (Attachment.model_construct(filename="a\r\nb", content="YQ=="),)},
            "data.attachments.0.filename",
        ),
        ({"text": "a\0b"}, "data.text"),
        ({"html": "a\ud800b"}, "data.html"),
    ],
)
def test_what_got_past_the_schemas_is_refused_by_name(fields, path):
    good = event(subject="s", text="t")
    forged = EmailRequested.model_construct(**{**dict(good.data), **fields})
    with pytest.raises(RenderError) as refused:
        render(EmailEvent(good.envelope, forged), SENDER)
    assert refused.value.path == path


def test_a_header_longer_than_any_line_is_encoded_to_fit():
    value = "x" * 2000
    rendered = mail(headers={"x-long": value})
    assert max(map(len, rendered.message.content.split(b"\r\n"))) <= 78
    assert read(rendered)["x-long"].lstrip() == value


def test_text_that_looks_like_an_encoded_word_is_not_taken_for_one():
    assert read(mail(subject="=?utf-8?q?x?="))["subject"] == "=?utf-8?q?x?="


def test_an_ascii_header_is_folded_at_its_blanks_and_nowhere_else():
    line = text_header("X-Note", "word " * 40 + "end", "x")
    assert line.replace("\r\n ", " ") == f"X-Note: {'word ' * 40}end\r\n"
    assert max(map(len, line.split("\r\n"))) <= 76


def test_a_word_that_ends_in_a_colon_is_not_taken_for_the_headers_name():
    line = text_header("X-Note", f"see: {'y' * 100}", "x")
    assert line == f"X-Note: see:\r\n {'y' * 100}\r\n"


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("plain words", "X-Note: plain words"),
        (" leading", "X-Note: =?utf-8?q?_leading?="),
        ("trailing ", "X-Note: =?utf-8?q?trailing_?="),
        ("two  blanks", "X-Note: two  blanks"),
        ("Grüße", "X-Note: =?utf-8?b?R3LDvMOfZQ==?="),
        ("Grüße an alle Leute dort", "X-Note: =?utf-8?q?Gr=C3=BC=C3=9Fe_an_alle_Leute_dort?="),
        ("日本", "X-Note: =?utf-8?b?5pel5pys?="),
        ("é b", "X-Note: =?utf-8?b?w6kgYg==?="),
        ("y" * 100, f"X-Note: {'y' * 100}"),
    ],
)
def test_a_text_header_on_the_wire(value, line):
    assert text_header("X-Note", value, "x") == f"{line}\r\n"


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("Amara Okafor", "Amara Okafor"),
        ("Priya R. Raman", '"Priya R. Raman"'),
        ('The "Boss", really', '"The \\"Boss\\", really"'),
        ("back\\slash", '"back\\\\slash"'),
        ("two  blanks", '"two  blanks"'),
        (" edge", "=?utf-8?q?_edge?="),
        ("=?utf-8?q?x?=", "=?utf-8?b?PT91dGYtOD9xP3g/PQ==?="),
        ("Zoë (dev)", "=?utf-8?b?Wm/DqyAoZGV2KQ==?="),
        ("   ", None),
        ("", None),
        (None, None),
    ],
)
def test_a_display_name_on_the_wire(name, phrase):
    shown = "a@b.example" if phrase is None else f"{phrase} <a@b.example>"
    assert address_header("To", [Mailbox(email="a@b.example", name=name)], "data.to") == f"To: {shown}\r\n"


def test_encoded_words_never_hold_a_blank_or_pass_75_characters():
    for word in encoded_words("Grüße an alle " * 20):
        assert re.fullmatch(r"=\?utf-8\?[qb]\?[!-~]+\?=", word)
        assert len(word) <= 75
