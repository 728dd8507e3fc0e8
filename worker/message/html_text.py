"""HTML to plain text, for mails that come with HTML alone.

The standard library's html.parser is not used: on the Pythons we support, 24 KB of ``<a `` keep
it busy for five seconds and ``<![`` ends it with an AssertionError, and the HTML is a tenant's.
This reader looks at each character a bounded number of times and has no input that it refuses.
As in a browser, a tag or comment that never ends takes the rest of the page with it.
"""

import html as entities
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TAG_NAME = re.compile(r"(/?)([A-Za-z][^\s/>]*)")
_GAP = re.compile(r"[\s/=]*")
_ATTRIBUTE = re.compile(r"""([^\s/>=]+)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s>"']*))?""")
_BLANKS = re.compile(r"\s+")
_SHOWN_LINK = re.compile(r"(?:https?|mailto|tel|ftp):", re.IGNORECASE)
_HIDING = re.compile(r"display\s*:\s*none", re.IGNORECASE)

_NEVER_SHOWN = {name: re.compile(f"</{name}", re.IGNORECASE) for name in ("script", "style", "title", "template")}
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
)
_PARAGRAPHS = frozenset(["p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "pre", "hr"])
_LINES = frozenset(["div", "tr", "li", "br", "dt", "dd", "section", "article", "header", "footer", "main", "nav"])


@dataclass(frozen=True, slots=True)
class _Tag:
    name: str
    closing: bool
    attributes: dict[str, str]

    @property
    def hides(self) -> bool:
        return "hidden" in self.attributes or bool(_HIDING.search(self.attributes.get("style", "")))


def html_to_text(html: str) -> str:
    """Return what `html` says, as plain text: blocks on lines of their own, links as ``text (url)``.

    Never raises; empty where nothing is to be read.
    """
    page = _Page()
    for token in _tokens(html):
        if isinstance(token, str):
            page.words(token)
        else:
            page.tag(token)
    return page.finish()


def _tokens(html: str) -> Iterator[str | _Tag]:
    """Text between tags (as written) and tags, in order."""
    position = 0
    while position < len(html):
        opening = html.find("<", position)
        if opening < 0:
            yield html[position:]
            return
        if opening > position:
            yield html[position:opening]
        position, token = _markup(html, opening)
        if token is not None:
            yield token


def _markup(html: str, opening: int) -> tuple[int, str | _Tag | None]:
    """What the ``<`` at `opening` begins, and where it ends."""
    if html.startswith("<!--", opening):
        return _past(html, "-->", opening + 4), None
    if html.startswith(("<!", "<?"), opening):
        return _past(html, ">", opening), None
    name = _TAG_NAME.match(html, opening + 1)
    if name is None:
        return opening + 1, "<"
    position, attributes = _attributes(html, name.end())
    tag = _Tag(name[2].lower(), bool(name[1]), attributes)
    if tag.name in _NEVER_SHOWN and not tag.closing:
        end = _NEVER_SHOWN[tag.name].search(html, position)
        return (_past(html, ">", end.end()) if end else len(html)), None
    return position, tag


def _past(html: str, mark: str, start: int) -> int:
    found = html.find(mark, start)
    return len(html) if found < 0 else found + len(mark)


def _attributes(html: str, position: int) -> tuple[int, dict[str, str]]:
    found: dict[str, str] = {}
    # The gap is skipped by itself: within the expression, a long one would be tried at each length.
    position = _past_gap(html, position)
    while match := _ATTRIBUTE.match(html, position):
        value = match[2] or ""
        found.setdefault(match[1].lower(), _unescape(value[1:-1] if value.startswith(('"', "'")) else value))
        position = _past_gap(html, match.end())
    return position + 1, found  # past the ">", or past the end


def _past_gap(html: str, position: int) -> int:
    gap = _GAP.match(html, position)
    return gap.end() if gap else position


def _unescape(text: str) -> str:
    try:
        return entities.unescape(text)
    except ValueError:  # a numeric reference of more digits than Python converts: nothing to be read
        return text


@dataclass(slots=True)
class _Page:
    """The text so far; blanks and line ends wait until there are words to separate."""

    out: list[str] = field(default_factory=list)
    gap: str = ""
    breaks: int = 0
    hidden: list[str] = field(default_factory=list)
    preformatted: int = 0
    link: tuple[str, int] | None = None

    def words(self, raw: str) -> None:
        """Add text, blanks collapsed as a browser does."""
        if self.hidden:
            return
        text = _unescape(raw)
        if self.preformatted:
            self._write(text)
            return
        shown = _BLANKS.sub(" ", text)
        if shown[:1] == " ":
            self.gap = " "
        if shown.strip():
            self._write(shown.strip())
            self.gap = " " if shown[-1] == " " else ""

    def _write(self, text: str) -> None:
        if self.breaks:
            self.out.append("\n" * self.breaks if self.out else "")
        elif self.out:
            self.out.append(self.gap)
        self.breaks, self.gap = 0, ""
        self.out.append(text)

    def tag(self, tag: _Tag) -> None:
        """Take one tag's effect."""
        if self.hidden or (tag.hides and not tag.closing and tag.name not in _VOID):
            self._hide(tag)
            return
        if tag.name in _PARAGRAPHS or (tag.name == "br" and self.breaks):
            self.breaks = 2
        elif tag.name in _LINES:
            self.breaks = max(self.breaks, 1)
        elif tag.name in ("td", "th"):
            self.gap = " "
        self._special(tag)

    def _special(self, tag: _Tag) -> None:
        if tag.name == "a":
            self._anchor(tag)
        elif tag.name == "li" and not tag.closing:
            self._write("-")
            self.gap = " "
        elif tag.name == "img" and tag.attributes.get("alt", "").strip():
            self._write(_BLANKS.sub(" ", tag.attributes["alt"].strip()))
        elif tag.name == "pre":
            self.preformatted = max(self.preformatted + (-1 if tag.closing else 1), 0)

    def _hide(self, tag: _Tag) -> None:
        # Only tags of the hiding element's own name are counted: the rest need not be balanced.
        if not self.hidden:
            self.hidden.append(tag.name)
        elif tag.name == self.hidden[0] and tag.closing:
            self.hidden.pop()
        elif tag.name == self.hidden[0]:
            self.hidden.append(tag.name)

    def _anchor(self, tag: _Tag) -> None:
        self._close_link()
        url = tag.attributes.get("href", "").strip()
        if not tag.closing and _SHOWN_LINK.match(url):
            self.link = (url, len(self.out))

    def _close_link(self) -> None:
        if self.link is None:
            return
        (url, start), self.link = self.link, None
        shown = "".join(self.out[start:]).strip()
        if shown in (url, url.partition(":")[2]):
            return
        after = (self.gap, self.breaks)
        self.gap, self.breaks = (" ", 0) if shown else after
        self._write(f"({url})" if shown else url)
        self.gap, self.breaks = after if shown else ("", 0)

    def finish(self) -> str:
        """The whole text, no blanks at line ends, never two empty lines in a row."""
        self._close_link()
        lines = [line.rstrip() for line in "".join(self.out).strip().split("\n")]
        kept = [line for number, line in enumerate(lines) if line or lines[number - 1]]
        return "\n".join(kept)
