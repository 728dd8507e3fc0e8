"""The shape of a mail: which parts it has, how each is encoded, how files are named."""

import pytest
from message_events import SENDER, event, file, html, lines_of, mail, plain, read

from worker.message import render
from worker.message.mime import canonical

LOGO = {"disposition": "inline", "content_id": "logo", "content_type": "image/png"}


def tree(message):
    kind = message.get_content_type()
    return [kind, *map(tree, message.iter_parts())] if message.is_multipart() else kind


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"text": "t"}, "text/plain"),
        ({"text": "t", "html": "<p>h"}, ["multipart/alternative", "text/plain", "text/html"]),
        ({"text": None, "html": "<p>h"}, ["multipart/alternative", "text/plain", "text/html"]),
        ({"text": None, "html": "<img src='cid:x'>"}, "text/html"),
        ({"text": "t", "html": " \n"}, "text/plain"),
        ({"text": " \n", "html": "<p>h"}, ["multipart/alternative", "text/plain", "text/html"]),
        ({"attachments": [file()]}, ["multipart/mixed", "text/plain", "application/octet-stream"]),
        (
            {"html": "<p>h", "attachments": [file(), file("l.png", **LOGO)]},
            [
                "multipart/mixed",
                ["multipart/alternative", "text/plain", ["multipart/related", "text/html", "image/png"]],
                "application/octet-stream",
            ],
        ),
        (
            {"html": "<p>h", "attachments": [file(**LOGO)]},
            ["multipart/alternative", "text/plain", ["multipart/related", "text/html", "image/png"]],
        ),
        ({"attachments": [file(**LOGO)]}, ["multipart/mixed", "text/plain", "image/png"]),
        (
            {"attachments": [file(content_type="message/rfc822")]},
            ["multipart/mixed", "text/plain", "application/octet-stream"],
        ),
        (
            {"attachments": [file(content_type="Multipart/Mixed")]},
            ["multipart/mixed", "text/plain", "application/octet-stream"],
        ),
    ],
)
def test_the_parts_of_a_mail(fields, expected):
    assert tree(read(mail(**fields))) == expected


def test_an_inline_file_is_found_by_its_content_id():
    message = read(mail(html="<img src='cid:logo'>", attachments=[file("l.png", b"PNG", **LOGO)]))
    related = message.get_body(("related",))
    assert related.get_param("type") == "text/html"
    picture = next(iter(related.iter_attachments()))
    assert (picture["content-id"], picture.get_content_disposition()) == ("<logo>", "inline")
    assert picture.get_content() == b"PNG"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Hello\n", "7bit"),
        ("tab\there\n", "7bit"),
        ("x" * 998, "7bit"),
        ("x" * 999, "quoted-printable"),
        (f"{'x' * 998}\n" * 3, "7bit"),
        ("short\n" * 400 + "x" * 999 + "\nshort" * 400, "quoted-printable"),
        ("For you, and From me\n", "7bit"),
        ("Grüße aus dem Norden, es ist schön hier", "quoted-printable"),
        ("From me to you\n", "quoted-printable"),
        ("Hi\nFrom me\n", "quoted-printable"),
        ("bell \x07\n", "quoted-printable"),
        ("日本語のテキスト", "base64"),
        ("привет, как дела", "base64"),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_a_text_takes_the_mildest_encoding_that_any_server_carries(text, encoding):
    rendered = mail(text=text)
    message = read(rendered)
    assert message["content-transfer-encoding"] == encoding
    assert message.get_content() == lines_of(text)
    assert rendered.message.content.isascii()
    assert b"\nFrom " not in rendered.message.content


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "\r\n"),
        ("a", "a\r\n"),
        ("a\n", "a\r\n"),
        ("a\r", "a\r\n"),
        ("a\r\n", "a\r\n"),
        ("a\rb\nc\r\nd", "a\r\nb\r\nc\r\nd\r\n"),
        ("a\r\r\n\nb", "a\r\n\r\n\r\nb\r\n"),
    ],
)
def test_line_ends_of_every_kind_become_crlf_once(given, expected):
    assert canonical(given) == expected


@pytest.mark.parametrize(
    ("filename", "likeness"),
    [
        ("report.pdf", "report.pdf"),
        ("Übersicht.pdf", "Ubersicht.pdf"),
        ("日本.pdf", "__.pdf"),
        ('a"b.pdf', "a_b.pdf"),
        ("日本", "__"),
        ("../up.txt", ".._up.txt"),
    ],
)
def test_an_old_reader_finds_an_ascii_likeness_of_the_file_name(filename, likeness):
    part = next(read(mail(attachments=[file(filename)])).iter_attachments())
    assert part["content-type"].params["name"] == likeness
    assert part["content-disposition"].params["filename"] == filename


def test_a_long_file_name_is_continued_over_short_lines():
    rendered = mail(attachments=[file("ü" * 500 + ".txt")])
    assert max(map(len, rendered.message.content.split(b"\r\n"))) <= 78
    assert rendered.message.content.count(b"utf-8''") == 1  # RFC 2231 section 4.1: the first piece alone
    assert next(read(rendered).iter_attachments()).get_filename() == "ü" * 500 + ".txt"


def test_a_body_that_holds_the_boundary_gets_another_one():
    fields = {"subject": "s", "text": "t", "html": "<p>h"}
    usual = read(render(event(**fields), SENDER)).get_boundary()
    stem = usual[:-1]
    text = "".join(f"--{stem}{letter}--\n" for letter in "amr")
    rendered = render(event(**{**fields, "text": text}), SENDER)
    message = read(rendered)
    assert message.get_boundary() != usual
    assert (plain(message), html(message)) == (lines_of(text), "<p>h\r\n")
    assert rendered == render(event(**{**fields, "text": text}), SENDER)


def test_no_boundary_begins_another():
    message = read(mail(html="<p>h", attachments=[file(), file(**LOGO)]))
    found = [part.get_boundary() for part in message.walk() if part.is_multipart()]
    assert len(found) == 3
    assert not any(one != other and other.startswith(one) for one in found for other in found)


def test_a_large_file_survives():
    content = bytes(range(256)) * 4000
    part = next(read(mail(attachments=[file(content=content)])).iter_attachments())
    assert part.get_content() == content
