"""HTML read as plain text, also where a tenant means harm."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.message.html_text import html_to_text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("", ""),
        ("plain", "plain"),
        ("<p>One</p><p>Two</p>", "One\n\nTwo"),
        ("One<br>Two<br/>Three", "One\nTwo\nThree"),
        ("One<br><br>Two", "One\n\nTwo"),
        ("<div>One</div><div>Two</div>", "One\nTwo"),
        ("<h1>Title</h1>Text", "Title\n\nText"),
        ("café", "café"),
        ("a <b>bold</b> word, <i>so</i>.", "a bold word, so."),
        ("  many \n\t blanks  ", "many blanks"),
        ("<ul><li>One</li><li>Two</li></ul>after", "- One\n- Two\n\nafter"),
        ("<table><tr><td>A</td><td>1</td></tr><tr><td>B</td><td>2</td></tr></table>", "A 1\nB 2"),
        ("<pre>a\n  b</pre>", "a\n  b"),
        ("&lt;b&gt; &amp; &eacute;&#233;&#xe9;&nbsp;!", "<b> & ééé !"),
        ("<a href='https://x.example/?a=1&amp;b=2'>Go</a> now", "Go (https://x.example/?a=1&b=2) now"),
        ('<a href="https://x.example">https://x.example</a>', "https://x.example"),
        ("<a href=mailto:a@b.example>a@b.example</a>", "a@b.example"),
        ("<a href=https://x.example></a>", "https://x.example"),
        ("<a href=https://x.example><p>Go</p></a>end", "Go (https://x.example)\n\nend"),
        ("<a href='#top'>Up</a> <a href='javascript:x()'>Run</a>", "Up Run"),
        ("<a href=https://x.example>Unclosed", "Unclosed (https://x.example)"),
        ("<img src=x alt='A cat'> sits", "A cat sits"),
        ("<style>p{}</style><script>if (a<b) x()</script>shown", "shown"),
        ("<head><title>No</title></head><body>Yes", "Yes"),
        ("<!-- <p>no</p> -->yes<!DOCTYPE html><?php x ?>", "yes"),
        ("<div style='display:none'><div>no</div>no</div>yes", "yes"),
        ("<p hidden>no</p>yes", "yes"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ('<p title="a>b">c', "c"),
        ("<p title='unclosed>rest", "rest"),
        ("open <b", "open"),
        ("open <!-- never closed", "open"),
        ("<P>Case</P>", "Case"),
    ],
)
def test_html_says(html, text):
    assert html_to_text(html).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    "unit",
    [
        "<a ",
        "<!--",
        "<![",
        "<script>",
        "&",
        "<a href='",
        '<a b="',
        "</a",
        "<?",
        "<",
        "<li>",
        "<pre>\n",
        "<a href=http://x>",
        "= ",
        "&#9",
    ],
)
def test_a_hostile_page_takes_time_in_proportion_to_its_length(unit):
    short, long = (_seconds(unit * count) for count in (1_000, 8_000))
    # Eight times the input; a quadratic reader takes 64 times as long. A floor keeps noise out.
    assert long < max(short, 0.004) * 24


@pytest.mark.parametrize(
    ("begins", "unit", "count", "ends"),
    [("<a", " ", 200_000, ">x"), ("&#", "9", 10_000, "; x"), ("<a", " =", 50_000, ">x")],
)
def test_a_page_with_one_endless_thing_is_read_through_in_proportion_to_its_length(begins, unit, count, ends):
    eighth, whole = (begins + unit * n + ends for n in (count // 8, count))
    assert html_to_text(whole).endswith("x")
    assert _seconds(whole) < max(_seconds(eighth), 0.0005) * 24  # as above; these are read ten times as fast


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=8),
            st.sampled_from(
                [
                    "<p>",
                    "</p>",
                    "<a href=http://x>",
                    "</a>",
                    "<",
                    ">",
                    "<!--",
                    "-->",
                    "<![CDATA[",
                    "&#0;",
                    "&#xD800;",
                    "'",
                    '"',
                    "<div hidden>",
                    "</div>",
                ]
            ),
        )
    ).map("".join)
)
def test_no_page_is_refused(page):
    assert "\ud800" not in html_to_text(page.replace("\ud800", ""))


def _seconds(page: str) -> float:
    best = 60.0
    for _ in range(2):
        started = time.process_time()
        html_to_text(page)
        best = min(best, time.process_time() - started)
    return best
