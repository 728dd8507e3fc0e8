"""Whose name a mail bears: From, Reply-To and the reverse path, out of the event and the SMTP record."""

from dataclasses import dataclass, replace
from functools import lru_cache

from schemas.address import Mailbox, normalize_address
from schemas.event import EmailEvent
from schemas.smtp_config import SmtpConfig
from worker.message.dkim import DkimKey


@dataclass(frozen=True, slots=True)
class Sender:
    """The sending side of one mail.

    `mail_from` is the reverse path (RFC 5321 section 4.1.1.2), `from_` the author shown,
    `message_id_domain` the right side of the Message-ID, `bulk` whether the mail came down the
    bulk lane and says so in its headers, `dkim` what it is signed with.
    """

    mail_from: str
    from_: Mailbox
    reply_to: Mailbox | None
    message_id_domain: str
    bulk: bool = False
    dkim: DkimKey | None = None


@dataclass(frozen=True, slots=True)
class ConfigFaultReason:
    """Why an SMTP record cannot name a sender: a short code and a sentence for its owner."""

    code: str
    detail: str


_NO_SENDER = ConfigFaultReason(
    "no_from_address",
    "the record names no sender: set from_address, or use a username that is a mail address",
)


def choose_sender(event: EmailEvent, config: SmtpConfig) -> Sender | ConfigFaultReason:
    """Return the sender of `event` when it goes out through `config`, or what the record lacks.

    From is the event's where the record admits it, else the record's `from_address`, else its
    username where that is an address. A replaced From keeps nothing of the event's display name:
    a name that was asked for one address must not decorate another.
    """
    chosen = _choose(event, config)
    if config.dkim_key is None or isinstance(chosen, ConfigFaultReason):
        return chosen
    key = config.dkim_key.get_secret_value().encode()
    return replace(chosen, dkim=DkimKey(config.dkim_domain or "", config.dkim_selector or "", key))


def default_from(config: SmtpConfig) -> str | None:
    """Return the From of mail whose event brings none that the record admits, or None where it names none."""
    return config.from_address or _as_address(config.username)


def _choose(event: EmailEvent, config: SmtpConfig) -> Sender | ConfigFaultReason:
    default = default_from(config)
    asked = event.data.from_
    if asked is not None and _admits(config.allowed_from, default, asked.email):
        return _sender(asked, event, config)
    if default is None:
        return _NO_SENDER
    if event.data.reply_to is None:
        return _own_sender(default, config.reply_to)
    return _sender(_mailbox(default), event, config)


def _sender(author: Mailbox, event: EmailEvent, config: SmtpConfig) -> Sender:
    reply_to = event.data.reply_to or (_mailbox(config.reply_to) if config.reply_to else None)
    return Sender(author.email, author, reply_to, author.email.rpartition("@")[2])


@lru_cache(maxsize=4096)
def _own_sender(address: str, reply_to: str | None) -> Sender:
    """The sender that a record names by itself, the same for all such mail."""
    author = _mailbox(address)
    return Sender(address, author, None if reply_to is None else _mailbox(reply_to), address.rpartition("@")[2])


@lru_cache(maxsize=4096)
def _mailbox(address: str) -> Mailbox:
    """A record's own address; validating it again for each of its mails would be for nothing."""
    return Mailbox(email=address)


def _admits(allowed: tuple[str, ...], default: str | None, address: str) -> bool:
    # The record's own address needs no permission: mail leaves under it anyway.
    if address == default:
        return True
    domain = address.rpartition("@")[2]
    return any(_pattern(entry) in (address, f"@{domain}") for entry in allowed)


@lru_cache(maxsize=4096)
def _pattern(entry: str) -> str | None:
    """`local@domain` or `@domain` with the domain as lower-case A-labels; None admits nothing."""
    bare = entry.strip().removeprefix("*")
    if not bare.startswith("@"):
        return _as_address(bare)
    example = _as_address(f"anybody{bare}")
    return None if example is None else example.removeprefix("anybody")


def _as_address(value: str | None) -> str | None:
    if value is None or "@" not in value:
        return None
    try:
        return normalize_address(value)
    except ValueError:
        return None  # a user name or an entry that merely contains an @
