"""How the shipped mails look: drawn and measured by Chromium, as on a desktop and on a phone, by day and in the dark.

The pictures stay in build/templates, for eyes. What figures can tell is asserted here: nothing sticks out of the
window, every word is legible, a thumb hits the button, and words of an event never push ours about.
"""

import email
import json
import re
from email import policy
from functools import cache
from html import unescape
from itertools import pairwise
from pathlib import Path

import pytest

from schemas.address import Mailbox
from schemas.cloudevents import STRUCTURED, parse_event
from schemas.event import KINDS
from tests.services.chromium import Frame, colours, draw, measure
from worker.message import Sender, render
from worker.message.templates import own_fields, template_names

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "templates"
DESKTOP, PHONE, NARROWEST = 700, 390, 320
PAGE, CARD, BUTTON = (0xF3, 0xF4, 0xF6), (0xFF, 0xFF, 0xFF), (0x1D, 0x4E, 0xD8)
AA = 4.5  # WCAG 2.2, 1.4.3: the contrast of text that anybody with fair eyes can read
INK = 15  # pixels of a letter on the average, at the least
LINK = "https://acme.example/go?token=abc"

# Each piece of visible text with its box, its colour and what it stands on; each link with its box.
SCRIPT = """
const behind = element => {
  for (; element; element = element.parentElement) {
    const colour = window.getComputedStyle(element).backgroundColor;
    if (colour !== "rgba(0, 0, 0, 0)") return colour;
  }
  return "rgb(255, 255, 255)";
};
const boxOf = thing => {
  const {left, right, top, bottom, height} = thing.getBoundingClientRect();
  return {left, right, top, bottom, height};
};
const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, holder = node.parentElement, range = document.createRange();
  range.selectNodeContents(node);
  if (!node.data.trim() || !holder.checkVisibility()) continue;
  const style = window.getComputedStyle(holder);
  texts.push({...boxOf(range), text: node.data.trim(), colour: style.color, background: behind(holder),
              size: parseFloat(style.fontSize)});
}
const links = [...document.links].map(link => ({...boxOf(link), href: link.href, background: behind(link)}));
const height = Math.ceil(document.body.getBoundingClientRect().bottom + parseFloat(window.getComputedStyle(document.body).marginBottom));
return {width: document.documentElement.scrollWidth, height, texts, links, page: behind(document.body)};
"""


def html_of(event):
    """The HTML part of the mail, the way a client finds it."""
    author = Mailbox(email="noreply@acme.example", name="Acme")
    content = render(event, Sender(author.email, author, None, "acme.example")).message.content
    return email.message_from_bytes(content, policy=policy.default).get_body(("html",)).get_content()


def event_of(kind, data):
    envelope = {"specversion": "1.0", "id": "1", "source": "test", "type": kind, "time": "2025-11-21T08:00:00Z"}
    return parse_event(json.dumps({**envelope, "data": {"to": ["a@acme.example"], **data}}).encode(), STRUCTURED)


def filled(name, data):
    return html_of(event_of("email.requested.v1", {"template": {"name": name, "data": data}, "unsubscribe_url": LINK}))


NOTICE = {
    "subject": "Maintenance on Sunday",
    "message": "Acme Console is unavailable on Sunday, 23 November, from 02:00 to 04:00 UTC.\n\n"
    "Deployments that run at that time are paused.\nThey continue by themselves afterwards.",
    "action_url": "https://status.acme.example/maintenance/231",
    "action_label": "See the status page",
    "note": "You receive this because you administer Acme Development.",
}
SAMPLES = {path.stem: path for path in sorted((ROOT / "samples").glob("*.json"))}
DRAWN = [*SAMPLES, "plain-notice"]
OURS = [name for name in DRAWN if name != "email-requested"]  # that one comes with HTML of its sender's


@cache
def values():
    """What each template is filled with in the samples, by its name."""
    events = [parse_event(path.read_bytes(), STRUCTURED) for path in SAMPLES.values()]
    given = {event.envelope.type: event.data.model_dump(mode="json", exclude_none=True) for event in events}
    kinds = {name: given[name] for name in template_names() if name in given}
    return {"plain-notice": NOTICE} | {
        name: {key: data[key] for key in own_fields(KINDS[name]) if key in data} for name, data in kinds.items()
    }


VARIANTS = [
    ("alert.raised.v1", {"severity": "warning"}),
    ("alert.raised.v1", {"severity": "info", "resource": "", "started_at": None}),
    ("deployment.finished.v1", {"status": "succeeded"}),
    ("deployment.finished.v1", {"status": "cancelled"}),
    ("approval.decided.v1", {"decision": "rejected", "comment": None}),
    ("password.reset.v1", {"requested_from": None, "valid_for_minutes": 1}),
    ("admin.email_changed.v1", {"confirm_url": None}),
    ("user.registered.v1", {"activation_url": None}),
    ("plain-notice", {"action_url": None, "note": None, "heading": "Short"}),
]
LONG_WORD = "Rindfleischetikettierungsüberwachungsaufgaben" * 5
SENTENCE = "A subject of two hundred characters that goes on and on " * 3 + "until it has said everything there is"
ROCKETS = "👩‍👩‍👧‍👦🚀" * 30
ARABIC = "أمارا أوكافور (مديرة)"
OVERRIDE = "\u202eelpmaxe.emca"  # shown as acme.example, and so would everything after it be turned round
HOSTILE = {"unbroken": LONG_WORD, "long": SENTENCE, "emoji": ROCKETS, "arabic": ARABIC, "override": OVERRIDE}
CHOICES = ("severity", "status", "decision")


def hostile(data, words):
    """A template's values with `words` wherever words are free, and links and addresses as long as they may be."""
    replaced = dict(data)
    for key, value in data.items():
        if key.endswith("_url"):
            replaced[key] = f"https://acme.example/{'x' * 300}?{'token=' + 'y' * 300}"
        elif key.endswith("_email"):
            replaced[key] = f"{'a' * 64}@{'b' * 60}.{'c' * 60}.example"
        elif isinstance(value, str) and not key.endswith("_at") and key not in CHOICES:
            replaced[key] = words
    return replaced


@cache
def pages():
    """Every mail that is looked at, by a name that says what it is."""
    found = {name: html_of(parse_event(path.read_bytes(), STRUCTURED)) for name, path in SAMPLES.items()}
    found["plain-notice"] = filled("plain-notice", NOTICE)
    for name, changed in VARIANTS:
        data = {key: value for key, value in {**values()[name], **changed}.items() if value is not None}
        found[f"{name} with {changed}"] = filled(name, data)
    found |= {f"unstyled {name}": re.sub(r"<style>.*?</style>", "", found[name], flags=re.DOTALL) for name in OURS}
    for kind, words in HOSTILE.items():
        found |= {f"{kind} {name}": filled(name, hostile(data, words)) for name, data in values().items()}
    return found


@cache
def layouts(width, *, dark=False):
    """What `SCRIPT` tells of every page; hostile words where they hurt most, and not on every screen besides."""
    mails = [name for name in pages() if width != PHONE or not name.startswith(tuple(HOSTILE))]
    return dict(zip(mails, measure([Frame(pages()[name], width) for name in mails], SCRIPT, dark=dark), strict=True))


def ours(width, *, dark=False):
    """The layouts of all pages that are made of our templates."""
    return [(name, layout) for name, layout in layouts(width, dark=dark).items() if name != "email-requested"]


def picture(name, *mails, dark=False):
    """Draw mails side by side, each at its width and to its end; return the colours of the picture."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    height = max(layouts(width, dark=dark)[mail]["height"] for mail, width in mails)
    frames = [Frame(pages()[mail], width, height) for mail, width in mails]
    draw(frames, PICTURES / f"{name}.png", dark=dark)
    return colours(PICTURES / f"{name}.png")


def ink(seen):
    """How many pixels are of no colour that covers an area: letters, with their soft edges."""
    return seen.total() - sum(pixels for _, pixels in seen.most_common(8))


def luminance(colour):
    """WCAG's relative luminance of a CSS ``rgb()``, 0 to 1."""
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("name", DRAWN)
def test_a_sample_is_drawn_as_on_a_desktop_and_on_a_phone(name):
    seen = picture(name, (name, DESKTOP), (name, PHONE))
    letters = sum(len(text["text"]) for width in (DESKTOP, PHONE) for text in layouts(width)[name]["texts"])
    assert ink(seen) > INK * letters
    assert seen[CARD] > 100_000
    if name in OURS:
        assert seen[PAGE] > 50_000
        assert seen[BUTTON] > 15_000


def test_a_reader_who_prefers_the_dark_is_not_dazzled():
    seen = picture("dark", *((name, PHONE) for name in OURS), dark=True)
    assert ink(seen) > 50_000
    bright = sum(pixels for colour, pixels in seen.items() if min(colour) > 200)
    assert bright < 0.05 * seen.total()


def test_hostile_words_are_drawn_and_the_button_with_them():
    names = ("admin.email_changed.v1", "approval.decided.v1", "plain-notice", "plain-notice", "tenant.invited.v1")
    seen = picture("hostile", *((f"{kind} {name}", NARROWEST) for kind, name in zip(HOSTILE, names, strict=True)))
    assert seen[BUTTON] > len(HOSTILE) * 10_000


@pytest.mark.parametrize("width", [DESKTOP, PHONE, NARROWEST])
def test_nothing_sticks_out_of_the_window_and_nothing_touches_its_edge(width):
    for name, layout in layouts(width).items():
        assert layout["width"] == width, name
    for name, layout in ours(width):
        for text in layout["texts"]:
            assert text["left"] >= 20, (name, text)
            assert text["right"] <= width - 20, (name, text)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_word_is_large_enough_and_stands_out_from_what_is_behind_it(dark):
    for name, layout in ours(PHONE, dark=dark):
        assert len(layout["texts"]) >= 3, name
        for text in layout["texts"]:
            assert text["size"] >= 13, (name, text)
            assert contrast(text["colour"], text["background"]) >= AA, (name, text)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_is_as_bright_as_the_reader_prefers(dark):
    for name in OURS:
        assert (luminance(layouts(PHONE, dark=dark)[name]["page"]) < 0.05) is dark, name


def test_the_button_is_wide_enough_for_a_thumb_and_on_the_first_screen():
    for name in OURS:
        button = layouts(PHONE)[name]["links"][0]
        assert button["height"] >= 44, name
        assert button["right"] - button["left"] > 0.75 * PHONE, name
        assert button["bottom"] < 800, name


@pytest.mark.parametrize("name", OURS)
def test_the_preview_line_is_in_the_mail_and_out_of_sight(name):
    preview = re.search(r'<div style="display:none;[^"]*">(.+?)</div>', pages()[name], re.DOTALL)
    heading = re.search(r"<h1[^>]*>(.+?)</h1>", pages()[name])
    words = unescape(re.sub("<[^>]+>", "", heading[1]))
    for width in (DESKTOP, PHONE):
        texts = [text["text"] for text in layouts(width)[name]["texts"]]
        assert unescape(preview[1]) not in texts
        assert texts[0] == "Critical" or words.startswith(texts[0])


@pytest.mark.parametrize("kind", ["arabic", "override"])
def test_right_to_left_words_leave_the_order_of_ours(kind):
    for name, layout in ours(DESKTOP):
        if name.startswith(kind):
            lines = [text for text in layout["texts"] if text["height"] < 1.5 * text["size"]]
            for one, after in pairwise(lines):
                if abs(one["bottom"] - after["bottom"]) < 3:
                    assert one["right"] <= after["left"] + 1, (name, one, after)
