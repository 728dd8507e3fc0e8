"""What reads contents and replies quickly, held to the plain way of saying the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.smtp import commands
from worker.smtp.commands import LocalProtocolError, check_content, dot_stuffed
from worker.smtp.replies import RemoteProtocolError, ReplyParser

CONTENTS = st.lists(
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n.", b"\r", b"\n", b".", b"a", b"\0", b"\x85", b"\xff"])
).map(b"".join)
GRAMMAR = re.compile(rb"([2-5][0-9][0-9])(?: ([^\n]*?))?\r?\n", re.DOTALL)
LINES = st.builds(
    lambda code, rest, end: code + rest + end,
    st.sampled_from(
        [b"250", b"599", b"200", b"199", b"600", b"2", b"", b"25x", b"+50", b" 25", b"2500", "\uff12".encode()]
    ),
    st.sampled_from([b"", b" ", b" 2.0.0 Ok", b"\t", b" a\rb", b"\r", b" \xff", b"x", b" -"]),
    st.sampled_from([b"\r\n", b"\n"]),
)


def counted(content):
    ends = content.count(b"\r\n")
    return content.endswith(b"\r\n") and content.count(b"\n") == ends and content.count(b"\r") == ends


@pytest.fixture(params=[1, 2, 3, 64 * 1024])
def block(request, monkeypatch):
    """Contents are looked through in blocks, and a line end may lie across two of them."""
    monkeypatch.setattr(commands, "_BLOCK", request.param)


class TestLineEnds:
    @pytest.mark.parametrize(
        "content",
        [b"", b"\n", b"\r", b"\r\n", b"a", b"a\r\nb", b"a\rb\r\n", b"a\nb\r\n", b"a\r\r\n", b"\n\r\n", b"\r\n\r\n"],
    )
    def test_they_are_right_exactly_where_the_counts_of_cr_lf_and_crlf_agree(self, block, content):
        self._agree(content)

    @given(CONTENTS, st.sampled_from([b"", b"\r\n"]))
    def test_so_they_are_for_any_content(self, content, end):
        self._agree(content + end)

    def _agree(self, content):
        try:
            check_content(content)
        except LocalProtocolError:
            assert not counted(content)
        else:
            assert counted(content)


@given(st.lists(st.sampled_from([b"\r\n", b"\r\n.", b".", b"a"])).map(b"".join))
def test_what_is_stuffed_is_every_line_that_begins_with_a_dot_and_nothing_else(content):
    content += b"\r\n"
    sent = b"".join(dot_stuffed(content))
    assert sent == re.sub(rb"(?m)^\.", b"..", content) + b".\r\n"


@given(st.lists(LINES, max_size=4))
def test_lines_are_the_replies_that_the_grammar_makes_of_them(lines):
    parser = ReplyParser()
    parser.feed(b"".join(lines))
    for line in lines:
        match = GRAMMAR.fullmatch(line)
        if match is None:
            with pytest.raises(RemoteProtocolError):
                parser.next_reply()
            return
        reply = parser.next_reply()
        assert (reply.code, reply.text) == (int(match[1]), (match[2] or b"").decode("utf-8", "replace"))
    assert parser.next_reply() is None
    assert parser.unread == 0
