"""Reading replies: the enhanced code, the words as one clean line, the queue id."""

import base64
import time
import timeit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reply_samples import SAMPLES, Sample

from worker.delivery.ports import SmtpReply
from worker.delivery.replies import clean_text, parse_enhanced, remote_queue_id

MAX_CHARS = 512


@pytest.mark.parametrize(("code", "text", "enhanced"), [
    (250, "2.0.0 Ok: queued as 4F1ABC2D3E", "2.0.0"),
    (550, "5.1.1 User unknown", "5.1.1"),
    (550, "5.1.10 RESOLVER.ADR.RecipientNotFound", "5.1.10"),
    (535, "5.7.139 Authentication unsuccessful", "5.7.139"),
    (550, "#5.7.1 Your access to submit messages to this e-mail system has been rejected.", "5.7.1"),
    (550, "5.7.26", "5.7.26"),
    (550, "5.1.1: User unknown", "5.1.1"),
    (550, "5.2.1 first line\n5.7.1 second line", "5.2.1"),
    (450, "5.1.1 the class contradicts the code", None),
    (550, "4.2.2 the class contradicts the code", None),
    (354, "3.0.0 there is no class 3", None),
    (550, "User unknown 5.1.1", None),
    (550, "User unknown\n5.1.1 on the second line only", None),
    (550, "5.1.1.1 an address, or half of one", None),
    (550, "5.1.1234 too long", None),
    (550, "5.1 too short", None),
    (550, "192.0.2.1 blocked", None),
    (550, "", None),
])  # fmt: skip
def test_an_enhanced_code_counts_at_the_start_and_in_the_class_of_its_reply(code: int, text: str, enhanced: str | None):
    assert parse_enhanced(SmtpReply(code, text)) == enhanced


@pytest.mark.parametrize(("text", "clean"), [
    ("Ok", "Ok"),
    ("", ""),
    ("5.1.1 one\n5.1.1 two\n5.1.1 three", "5.1.1 one two three"),
    ("5.1.1 one\r\n5.1.1 two", "5.1.1 one two"),
    ("5.1.1 one\n5.7.1 two", "5.1.1 one 5.7.1 two"),
    ("one\n5.1.1 two", "one 5.1.1 two"),
    ("a\x00b\x1b[31mc\x7fd\x9be", "a b [31mc d e"),
    ("left\u202egnp.exe\u200bright", "left gnp.exe right"),
    ("  many   spaces\t\there ", "many spaces here"),
    ("lone \ud800 surrogate", "lone surrogate"),
    ("gr\u00fc\u00dfe \u65e5\u672c", "gr\u00fc\u00dfe \u65e5\u672c"),
])  # fmt: skip
def test_a_reply_becomes_one_printable_line(text: str, clean: str):
    assert clean_text(text) == clean


def test_a_long_reply_is_cut():
    assert clean_text("word " * 4000) == ("word " * 200)[:MAX_CHARS]


@pytest.mark.parametrize("secret", [
    base64.b64encode(b"\0ann@example.com\0correct horse").decode(),
    base64.b64encode(b"user=ann@example.com\1auth=Bearer abcdef\1\1").decode(),
    base64.b64encode(b"correct horse").decode(),
    base64.b64encode("pa\u00dfwort-lang".encode()).decode(),
    base64.urlsafe_b64encode(b'{"alg":"RS256","typ":"JWT"}').decode().rstrip("="),
])  # fmt: skip
def test_an_echoed_sasl_message_is_taken_out(secret: str):
    assert (
        clean_text(f"5.7.8 Error: authentication failed: {secret}") == "5.7.8 Error: authentication failed: [redacted]"
    )


@pytest.mark.parametrize("sample", [s for s in SAMPLES if "VXNlcm5hbWU6" not in s.reply.text], ids=lambda s: s.rule)
def test_no_word_of_a_real_reply_is_taken_for_a_secret(sample: Sample):
    assert "[redacted]" not in clean_text(sample.reply.text)


@pytest.mark.parametrize(("text", "queue_id"), [
    ("2.0.0 Ok: queued as 4F1ABC2D3E", "4F1ABC2D3E"),
    ("2.0.0 Ok: queued as 4F1ABC2D3E.", "4F1ABC2D3E"),
    ("2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 3xYzAb1Cd2", "3xYzAb1Cd2"),
    ("Ok: queued as 7fC3RpZ2Q8S1Vb-Ym1iCkA", "7fC3RpZ2Q8S1Vb-Ym1iCkA"),
    ("OK id=1rAbCd-0001xY-2z", "1rAbCd-0001xY-2z"),
    ("OK ids=8a5475ccbbc611eda12250ebf67f93bd", "8a5475ccbbc611eda12250ebf67f93bd"),
    ("Ok 0100017b0e35a8c6-2021949e-71e7-4802-aa95-ae62b696b836-000000",
     "0100017b0e35a8c6-2021949e-71e7-4802-aa95-ae62b696b836-000000"),
    ("2.0.0 OK  1376056636 i3si9508927obz.16 - gsmtp", "i3si9508927obz.16"),
    ("2.0.0 OK  1699999999 a640c23a62f3a-a5b8c9d0e1fsm123456766b.1 - gsmtp", "a640c23a62f3a-a5b8c9d0e1fsm123456766b.1"),
    ("2.6.0 <a1b2@example.com> [InternalId=105849469029151, Hostname=AS8PR07MB7669] 29353 bytes in 0.060, 472 KB/sec Queued mail for delivery", "105849469029151"),
    ("2.6.0 <20111025103822.7F94E1C0299@example.com> [InternalId=274498] Queued mail for delivery", "274498"),
    ("<4798911130a2069f3483fda756b8e81c@example.com> Queued mail for delivery",
     "4798911130a2069f3483fda756b8e81c@example.com"),
    ("2.0.0 3A1BcDeF012345 Message accepted for delivery", "3A1BcDeF012345"),
    ("2.0.0 3xq0abcdef-1 Message accepted for delivery", "3xq0abcdef-1"),
    ("Message Queued (3B2C4D5E-1234-4ABC-9DEF-001122334455.1)", "3B2C4D5E-1234-4ABC-9DEF-001122334455.1"),
    ("Great success", None),
    ("ok dirdel", None),
    ("2.0.0 OK", None),
    ("", None),
])  # fmt: skip
def test_the_queue_id_is_found_as_each_server_writes_it(text: str, queue_id: str | None):
    assert remote_queue_id(SmtpReply(250, text)) == queue_id


def test_a_refusal_has_no_queue_id():
    assert remote_queue_id(SmtpReply(451, "4.3.0 was queued as 4F1ABC2D3E")) is None


def test_a_queue_id_of_a_hostile_server_is_short_and_plain():
    found = remote_queue_id(SmtpReply(250, "queued as " + "A" * 5000 + "\x1b[31m"))
    assert found is not None
    assert len(found) <= 200
    assert remote_queue_id(SmtpReply(250, "queued as <script>")) is None


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.sampled_from([1, 40]), st.integers(200, 599))
def test_whatever_a_server_writes_is_read_without_an_error_and_comes_out_printable(some: str, times: int, code: int):
    text = some * times
    clean = clean_text(text)
    assert len(clean) <= MAX_CHARS
    assert not [c for c in clean if ord(c) < 32 or 0x7F <= ord(c) <= 0x9F or c in "\u2028\u2029\u202e"]
    parse_enhanced(SmtpReply(code, text))
    remote_queue_id(SmtpReply(code, text))


@pytest.mark.parametrize(
    "text", ["A" * 200_000, "5.1.1 x\n" * 50_000, "queued as " * 50_000, "A=" * 100_000, " " * 200_000]
)
def test_a_hostile_text_costs_little_to_read(text: str):
    reply = SmtpReply(250, text)
    read = timeit.Timer(lambda: (clean_text(text), remote_queue_id(reply)), timer=time.process_time)
    seconds = min(read.repeat(number=2, repeat=3)) / 2
    assert seconds < 0.02
