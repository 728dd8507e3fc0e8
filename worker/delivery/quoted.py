"""Taking mail addresses out of words that a stranger wrote: replies of servers, and reasons made of them.

The recipient's own address is found in every form that servers quote it in: in angle brackets, in
any case, as xtext (RFC 3461 section 4), percent-encoded, with ``=`` for ``@`` as in return paths, or
just its local part. Whatever else looks like an address may be another recipient's of the same event.
"""

import re
from functools import lru_cache
from urllib.parse import quote

from schemas.audit import MAX_REPLY_CHARS
from worker.delivery.outcome_rules import FAULT_RULES, REPLY_RULES, FaultRule, ReplyRule

RECIPIENT = "<recipient>"
ADDRESS = "<address>"

_LEAST_WORD = 3
_AT = r"(?:@|%40|\+40|=)"
_WITHIN = r"[^\s<>()\[\]{},;:\"'`|\\@]"
# Begins where a word does, so that each character is looked at once.
_ANY = re.compile(
    rf"<?(?:\"[^\"]{{1,64}}\"|(?<![^\s<>()\[\]{{}},;:\"'`|\\]){_WITHIN}+)@"
    r"(?:\[[^\]\s]{1,64}\]|[\w-]+(?:\.[\w-]+)*)?>?"
)
_ENCODED = re.compile(r"(?<![\w.%+-])[\w.%+-]+?(?:%40|\+40)[\w-]+(?:\.[\w-]+)*", re.IGNORECASE)
# How reasons begin, and the rules that they name: whoever reads them goes by these words (worker.control.audit_masks).
_RULES: tuple[ReplyRule | FaultRule, ...] = (*REPLY_RULES, *FAULT_RULES)
_OURS = {rule.name: f"{rule.name}: {rule.reason}" for rule in _RULES}
_UNCHANGED = re.compile(r"[a-z0-9]+")
_LAST_WORD = re.compile(r"[^\s<>]+\Z")
_HEAD = re.compile(r"[a-z][a-z0-9-]*: ")
_NAMED = re.compile(r"(\([a-z0-9-]+\))")


def without_addresses(text: str, own: str | None, *, kept: str | None = None) -> str:
    """The text with `own`, in whatever form, as ``<recipient>`` and every other address as ``<address>``.

    `kept` is an identifier that looks like an address and is none: a Message-ID.
    """
    whole, local = _forms(own) if own is not None and _may_quote(text, own) else (None, None)
    if whole is not None:
        text = whole.sub(RECIPIENT, text)
    if "@" in text:
        bare = kept.strip("<>") if kept else None
        text = _ANY.sub(lambda found: found[0] if found[0].strip("<>") == bare else ADDRESS, text)
    if "%40" in text or "+40" in text:
        text = _ENCODED.sub(ADDRESS, text)
    return text if local is None else local.sub(lambda found: found[1] or RECIPIENT, text)


def reply_without_addresses(text: str, own: str | None, message_id: str | None) -> str:
    """The same of a reply's cleaned words, which may have been cut in the middle of the address; at most 512."""
    if own is not None and len(text) == MAX_REPLY_CHARS:
        cut = _LAST_WORD.search(text)
        if cut is not None and own.lower().startswith(cut[0].lower()):
            text = text[: cut.start()]
    return without_addresses(text, own, kept=message_id)[:MAX_REPLY_CHARS]


def without_own(text: str, own: str, *, words: bool) -> str:
    """The text with `own` as ``<recipient>`` and everybody else as they are; `words`: also its local part alone."""
    if not _may_quote(text, own):
        return text
    whole, local = _forms(own)
    text = whole.sub(RECIPIENT, text)
    return local.sub(lambda found: found[1] or RECIPIENT, text) if words and local is not None else text


def reason_without_addresses(reason: str, own: str | None) -> str:
    """The same of a record's reason, whose own words stay: a local part may be one of them."""
    head = _OURS.get(reason.partition(": ")[0], "")
    if not reason.startswith(head) or not head:
        found = _HEAD.match(reason)
        head = found[0] if found else ""
    parts = _NAMED.split(reason[len(head) :])
    return head + "".join(each if _NAMED.fullmatch(each) else without_addresses(each, own) for each in parts)


def _may_quote(text: str, own: str) -> bool:
    """Whether a piece of the local part is there that no encoding changes; making the patterns takes half a ms."""
    pieces = _UNCHANGED.findall(own.rpartition("@")[0].lower())
    return not pieces or max(pieces, key=len) in text.lower()


@lru_cache(maxsize=1024)
def _forms(own: str) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
    """What the address is quoted as, and what its local part is, where that is long enough to tell."""
    local, _, domain = own.rpartition("@")
    bare = local.strip('"')
    spelt = {local, bare, _xtext(bare), quote(bare), quote(bare, safe="+")} - {""}
    one_of = "|".join(map(re.escape, sorted(spelt, key=len, reverse=True)))
    domains = "|".join(map(re.escape, {domain, _as_read(domain)} - {""}))
    whole = rf"<?(?<![\w.+%-])(?:\"(?:{one_of})\"|(?:{one_of})){_AT}(?:{domains})(?![\w-]|\.[\w-])>?"
    words = "|".join(
        rf"(?<!\w){re.escape(each)}(?!\w)"
        for each in sorted({*spelt, bare.partition("+")[0]}, key=len, reverse=True)
        if len(each) >= _LEAST_WORD
    )
    alone = re.compile(rf"({RECIPIENT}|{ADDRESS})|{words}", re.IGNORECASE) if words else None
    return re.compile(whole, re.IGNORECASE), alone


def _xtext(local: str) -> str:
    return "".join(c if "!" <= c <= "~" and c not in "+=" else "".join(f"+{o:02X}" for o in c.encode()) for c in local)


def _as_read(domain: str) -> str:
    """An international domain as it is read; as it is where it cannot be decoded."""
    try:
        return domain.encode("ascii").decode("idna")
    except UnicodeError:
        return domain
