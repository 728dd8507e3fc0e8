"""Reply parsing in any segmentation, its limits, and what EHLO offers."""

import pytest

from worker.delivery.ports import SmtpReply
from worker.smtp.ehlo import Capabilities
from worker.smtp.replies import MAX_LINE, RemoteProtocolError, ReplyParser


def parse(*chunks):
    parser, replies = ReplyParser(), []
    for chunk in chunks:
        parser.feed(chunk)
        while reply := parser.next_reply():
            replies.append((reply.code, reply.text))
    return replies


@pytest.mark.parametrize(
    ("case", "wire", "replies"),
    [
        ("one line", b"250 2.1.0 Ok\r\n", [(250, "2.1.0 Ok")]),
        ("several lines", b"550-5.7.1 no\r\n550-\r\n550 5.7.1 really\r\n", [(550, "5.7.1 no\n\n5.7.1 really")]),
        ("last line without text", b"250-a\r\n250\r\n", [(250, "a\n")]),
        ("a code alone", b"250\r\n", [(250, "")]),
        ("bare LF", b"250-a\n250 b\n354 go\n", [(250, "a\nb"), (354, "go")]),
        ("UTF-8 and what is not", "250 ü\r\n".encode() + b"250 \xff\r\n", [(250, "ü"), (250, "\ufffd")]),
        ("a CR inside stays text", b"250 a\rb\r\n", [(250, "a\rb")]),
        ("two replies at once", b"250 a\r\n450 b\r\n", [(250, "a"), (450, "b")]),
        ("outermost codes", b"200 a\r\n599 b\r\n", [(200, "a"), (599, "b")]),
        ("longest line", b"250 " + b"x" * (MAX_LINE - 6) + b"\r\n", [(250, "x" * (MAX_LINE - 6))]),
        ("most lines", b"250-x\r\n" * 127 + b"250 x\r\n", [(250, "\n".join("x" * 128))]),
    ],
)
def test_replies_read_the_same_whole_and_in_single_bytes(case, wire, replies):
    assert parse(wire) == replies
    assert parse(*(wire[i : i + 1] for i in range(len(wire)))) == replies
    assert parse(wire[:-1]) == replies[:-1]


@pytest.mark.parametrize(
    "wire",
    [
        b"hello\r\n",
        b"\r\n",
        b"25 ok\r\n",
        b"2500 ok\r\n",
        b"250\tok\r\n",
        b"+50 ok\r\n",
        b"199 ok\r\n",
        b"600 ok\r\n",
        "\uff12\uff15\uff10 ok\r\n".encode(),
        b" 250 ok\r\n",
        b"250-a\r\n251 b\r\n",
        b"250-a\r\nb\r\n",
        b"250 " + b"x" * MAX_LINE,
        b"250 " + b"x" * MAX_LINE + b"\r\n",
        b"250-x\r\n" * 129,
        (b"250-" + b"x" * 4000 + b"\r\n") * 20,
    ],
)
def test_what_is_not_a_reply_is_an_error_after_the_replies_before_it(wire):
    for chunks in ([b"250 good\r\n", wire], [bytes([octet]) for octet in wire]):
        with pytest.raises(RemoteProtocolError):
            parse(*chunks)
    parser = ReplyParser()
    parser.feed(b"250 good\r\n" + wire)
    assert parser.next_reply() == SmtpReply(250, "good")
    with pytest.raises(RemoteProtocolError):
        parser.next_reply()


def test_capabilities_are_read_alike_from_aiosmtplib_and_from_raw_ehlo():
    text = "mx.test greets you\nPIPELINING\nSIZE 52428800\n8BITMIME\nSMTPUTF8\nCHUNKING\nENHANCEDSTATUSCODES\nREQUIRETLS\nLIMITS MAILMAX=20 RCPTMAX=100 X"
    expected = Capabilities(
        pipelining=True,
        size=True,
        max_size=52428800,
        eight_bit_mime=True,
        smtputf8=True,
        chunking=True,
        enhanced_status_codes=True,
        require_tls=True,
        mail_max=20,
        rcpt_max=100,
    )
    assert Capabilities.from_ehlo(text) == expected
    assert Capabilities.from_ehlo(text.replace("\n", "\r\n")) == expected
    keywords = {key.lower(): value for key, _, value in (line.partition(" ") for line in text.split("\n")[1:])}
    assert Capabilities.from_extensions(keywords) == expected


@pytest.mark.parametrize("size", ["", "0", "many", "-1", "1e9", "9" * 21])
def test_a_size_without_a_usable_number_means_no_fixed_limit(size):
    capabilities = Capabilities.from_extensions({"size": size})
    assert (capabilities.size, capabilities.max_size) == (True, None)


def test_a_server_that_offers_nothing_gets_plain_smtp():
    assert Capabilities.from_ehlo("mx.test") == Capabilities()
