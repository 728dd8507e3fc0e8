"""The shipped templates: every kind has words, every link is in both bodies, nothing is taken for markup."""

import re
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser

import pytest
from message_events import SENDER, event, html, mail, plain, read

from schemas.event import KINDS
from worker.errors import RenderError
from worker.message import render
from worker.message.templates import PlainNotice, own_fields, paragraphs, template_names
from worker.message.times import moment, span

LINK = "https://acme.example/go?token=abc&next=1"
UNSUBSCRIBE = "https://acme.example/unsubscribe?u=1&v=2"
HOSTILE = "<script>alert(1)</script> & \"quotes\" 'x' {{ 7*7 }}"

FULL = {
    "user.registered.v1": {"user_name": "Amara", "product": "Console", "activation_url": LINK, "valid_for_hours": 1},
    "password.reset.v1": {"user_name": "Amara", "reset_url": LINK, "valid_for_minutes": 15, "requested_from": "203.0.113.9"},
    "alert.raised.v1": {"alert_name": "Disk full", "severity": "critical", "summary": "No space.", "resource": "node-1", "started_at": "2025-11-04T08:00:00Z", "dashboard_url": LINK},
    "tenant.invited.v1": {"inviter_name": "Priya", "tenant_name": "Dev", "accept_url": LINK, "valid_for_hours": 24},
    "admin.email_changed.v1": {"user_name": "Amara", "old_email": "old@acme.example", "new_email": "new@acme.example", "changed_by": "Priya", "confirm_url": LINK},
    "deployment.finished.v1": {"application": "shop", "environment": "prod", "status": "failed", "version": "1.2", "triggered_by": "Priya", "duration_s": 200, "details_url": LINK},
    "approval.requested.v1": {"item": "shop 1.2", "requester_name": "Priya", "review_url": LINK, "reason": "Fix", "due_at": "2025-11-05T08:00:00Z"},
    "approval.decided.v1": {"item": "shop 1.2", "decision": "rejected", "decided_by": "Amara", "comment": "Not yet", "details_url": LINK},
    "plain-notice": {"subject": "Maintenance", "message": "First.\n\nSecond\nline.", "heading": "On Sunday", "action_url": LINK, "action_label": "Status page", "note": "Sorry."},
}  # fmt: skip
KIND_NAMES = [name for name in FULL if name != "plain-notice"]


def rendered_kind(name, **changed):
    return render(event(name, unsubscribe_url=UNSUBSCRIBE, **{**FULL[name], **changed}), SENDER)


def rendered_named(name, **changed):
    return mail(template={"name": name, "data": {**FULL[name], **changed}}, unsubscribe_url=UNSUBSCRIBE)


def required_only(name):
    model = PlainNotice if name == "plain-notice" else KINDS[name]
    return {key: value for key, value in FULL[name].items() if model.model_fields[key].is_required()}


def test_every_kind_and_every_template_has_its_sample_here():
    assert sorted(FULL) == list(template_names())


@pytest.mark.parametrize("name", KIND_NAMES)
def test_every_value_of_a_kind_is_in_both_bodies(name):
    message = read(rendered_kind(name))
    text, markup = plain(message), unescape(html(message))
    shown = [str(value) for key, value in FULL[name].items() if isinstance(value, str) and not key.endswith("_at")]
    for value in [*shown, UNSUBSCRIBE]:
        assert value.lower() in f"{message['subject']} {text}".lower()
        assert value.lower() in markup.lower()


@pytest.mark.parametrize("name", KIND_NAMES)
def test_a_kind_by_its_event_type_and_by_its_template_name_says_the_same(name):
    by_type, by_name = read(rendered_kind(name)), read(rendered_named(name))
    assert by_type["subject"] == by_name["subject"]
    assert (plain(by_type), html(by_type)) == (plain(by_name), html(by_name))


@pytest.mark.parametrize("name", FULL)
def test_a_template_needs_its_required_values_alone(name):
    message = read(mail(template={"name": name, "data": required_only(name)}))
    assert plain(message).strip()
    for body in (str(message["subject"]), plain(message), html(message)):
        assert body.strip()
        assert "None" not in body


@pytest.mark.parametrize("name", FULL)
def test_hostile_text_is_shown_and_never_run(name):
    model = PlainNotice if name == "plain-notice" else KINDS[name]
    free = [
        key
        for key in FULL[name]
        if not key.endswith(("_url", "_at", "_email", "_s", "_minutes", "_hours"))
        and key not in ("severity", "status", "decision")
    ]
    assert set(free) <= set(model.model_fields)
    message = read(rendered_named(name, **dict.fromkeys(free, HOSTILE)))
    markup = html(message)
    assert "<script" not in markup
    assert "&lt;script&gt;" in markup
    assert "{{ 7*7 }}" in unescape(markup)
    assert "<script>" in str(message["subject"]) + plain(message)


class _Balance(HTMLParser):
    """Open tags; and everything a mail must not fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br", "img", "link"):
            self.open.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "background", "srcset")]
        self.links += [value for name, value in attrs if name == "href"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", FULL)
def test_the_markup_is_balanced_fetches_nothing_and_links_only_where_the_event_says(name):
    page = _Balance()
    markup = html(read(rendered_named(name)))
    page.feed(markup)
    page.close()
    assert (page.open, page.fetched) == ([], [])
    assert set(page.links) == {LINK, UNSUBSCRIBE}
    assert "url(" not in markup
    assert "display:none" in markup
    assert "max-width:600px" in markup


@pytest.mark.parametrize("name", FULL)
def test_a_text_body_has_no_holes(name):
    for data in (FULL[name], required_only(name)):
        text = plain(read(mail(template={"name": name, "data": data})))
        assert not re.search(r"(\r\n){4}", text), text
        assert not text.startswith("\r\n")


@pytest.mark.parametrize("name", FULL)
def test_a_missing_variable_is_named(name):
    for missing in required_only(name):
        data = {key: value for key, value in FULL[name].items() if key != missing}
        with pytest.raises(RenderError) as refused:
            mail(template={"name": name, "data": data})
        assert refused.value.path == f"data.template.data.{missing}"


@pytest.mark.parametrize(
    ("name", "changed", "path"),
    [
        ("password.reset.v1", {"reset_url": "javascript:alert(1)"}, "data.template.data.reset_url"),
        ("password.reset.v1", {"user_name": "a\r\nb"}, "data.template.data.user_name"),
        ("password.reset.v1", {"reset_ulr": LINK}, "data.template.data.reset_ulr"),
        ("password.reset.v1", {"to": "a@b.example"}, "data.template.data.to"),
        ("alert.raised.v1", {"severity": "awful"}, "data.template.data.severity"),
        ("plain-notice", {"subject": "a\nb"}, "data.template.data.subject"),
        ("plain-notice", {"headding": "x"}, "data.template.data.headding"),
        ("plain-notice", {"action_url": "data:text/html,x"}, "data.template.data.action_url"),
    ],
)
def test_a_wrong_variable_is_named(name, changed, path):
    with pytest.raises(RenderError) as refused:
        rendered_named(name, **changed)
    assert refused.value.path == path


def test_an_error_never_repeats_the_value():
    with pytest.raises(RenderError) as refused:
        rendered_named("password.reset.v1", reset_url="token-of-a-user")
    assert "token-of-a-user" not in str(refused.value)


@pytest.mark.parametrize("name", ["no-such-template", "email.requested.v1", "_base.html", "plain-notice.html"])
def test_an_unknown_template_is_named_with_those_that_exist(name):
    shown = name.lstrip("_")
    with pytest.raises(RenderError) as refused:
        mail(template={"name": shown, "data": {}})
    assert refused.value.path == "data.template.name"
    assert "plain-notice" in refused.value.message


def test_a_template_may_come_with_attachments():
    fields = {
        "template": {"name": "plain-notice", "data": FULL["plain-notice"]},
        "attachments": [{"filename": "a.txt", "content": "YQ=="}],
    }
    assert [part.get_filename() for part in read(mail(**fields)).iter_attachments()] == ["a.txt"]


def test_a_variable_that_a_template_lacks_is_named_even_where_no_model_asked_for_it(monkeypatch):
    monkeypatch.setattr("worker.message.templates.own_fields", lambda kind: own_fields(kind)[1:])
    with pytest.raises(RenderError) as refused:
        rendered_kind("password.reset.v1")
    assert refused.value.path == "data.user_name"


def test_the_paragraphs_of_a_notice_are_kept():
    assert paragraphs("a\r\nb\n\n\n c \r\rd\n") == [["a", "b"], [" c"], ["d"]]
    markup = html(read(rendered_named("plain-notice")))
    assert "Second<br>line." in markup


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (45, "45 s"), (200, "3 min 20 s"), (3600, "1 h"), (7500.4, "2 h 5 min"), (3605, "1 h 5 s")],
)
def test_a_duration_reads(seconds, shown):
    assert span(seconds) == shown


def test_a_moment_reads_in_utc():
    assert moment(datetime(2025, 11, 4, 8, 5, tzinfo=UTC)) == "4 Nov 2025, 08:05 UTC"
