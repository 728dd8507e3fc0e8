"""One SMTP record in any of the spellings that people know, read into `SmtpConfig`'s fields.

Native: `SmtpConfig`'s own names. Rafay: ``{"email_config": {"smtp_config": {...}}}`` with ``use_tls`` and
``use_insecure``. Harness: ``fromAddress``, ``useSSL``, ``startTLS``. Palette: ``smtpServer``, ``smtpPort``,
``userName``, ``fromEmailId``, ``insecureSkipVerifyTls``. They may be mixed; where two of them say
different things about the same field, it is an error that names both.

Without any word about TLS it is what the port speaks: TLS at once on 465, STARTTLS on every other one.
An empty text is like none. Errors carry the path as it was spelled, and never a value.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from schemas.cloudevents import FieldError
from schemas.smtp_checks import (
    REMEDIES,
    check_display_name,
    check_dkim_key,
    check_password,
    check_reference,
    check_secret_name,
    read_text,
    read_value,
)
from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig, TlsMode
from schemas.smtp_tls_spellings import TLS_NAMES, differs, read_tls

_NATIVE = tuple(
    name
    for name in SmtpConfig.model_fields
    if name not in {"partner", "org", "version", "display_name", "tls", "password", "dkim_key"}
)
_OTHER_NAMES = {
    "smtpServer": "host",
    "smtpPort": "port",
    "userName": "username",
    "fromAddress": "from_address",
    "fromEmailId": "from_address",
    "use_insecure": "verify_tls",
    "insecureSkipVerifyTls": "verify_tls",
}
_FIELD_OF = {**{name: name for name in _NATIVE}, **_OTHER_NAMES}
_NEGATED = {"use_insecure", "insecureSkipVerifyTls"}
_OF_PALETTE = {"smtpServer", "smtpPort", "userName", "fromEmailId", "insecureSkipVerifyTls"}
_PASSWORDS = ("password", "secret", "password_ref")
_SCOPE = ("scope", "partner", "org")
# What answers show beside a record's fields: who sends an answer back changed need not take them out.
_SHOWN = (
    "is_default",
    "fallback",
    "password_set",
    "dkim_key_set",
    "reference",
    "fingerprint",
    "version",
    "updated_at",
    "updated_by",
    "warnings",
    "notices",
    "read_only",
)
_KNOWN = (*_FIELD_OF, *TLS_NAMES, *_PASSWORDS, *_SCOPE, *_SHOWN, "display_name", "dkim_key")
_MAX_ERRORS = 20
_MAX_PATH_CHARS = 100

_NO_TLS = (
    "credentials are not sent without TLS: authentication would not work, and the connection would show the password;"
)


class InvalidSpelling(ValueError):
    """A record that cannot be saved as it is written; `errors` are all its faults, none quotes a value."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        """Keep the errors, the first ones in the message."""
        super().__init__("; ".join(str(error) for error in errors[:3]))
        self.errors = tuple(errors[:_MAX_ERRORS])


@dataclass(frozen=True, slots=True, repr=False)
class GivenPassword:
    """A password that stands in the record itself."""

    value: str


@dataclass(frozen=True, slots=True)
class NamedSecret:
    """A stored secret's name."""

    name: str


@dataclass(frozen=True, slots=True)
class PasswordReference:
    """``env:NAME`` or ``file:PATH``."""

    reference: str


@dataclass(frozen=True, slots=True)
class Unsaid:
    """Nothing about a password, but a user name: whatever is stored stays."""


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Neither a user name nor a password."""


PasswordIntention = GivenPassword | NamedSecret | PasswordReference | Unsaid | Anonymous


@dataclass(frozen=True, slots=True, repr=False)
class Spelled:
    """A record as it was written: `fields` are valid JSON values of `SmtpConfig`, without name and secrets.

    `notices` say what was understood in a way that may surprise. `paths` lead from our field names to
    those of the writer; `path` finds the one to name in an error.
    """

    fields: Mapping[str, Any]
    name: str | None
    password: PasswordIntention
    dkim_key: str | None
    notices: tuple[str, ...]
    prefix: str
    paths: Mapping[str, str] = field(default_factory=dict)

    def path(self, name: str) -> str:
        """Where the writer put our field `name`, or would have."""
        return self.prefix + self.paths.get(name, name)


def read_smtp_config(document: Any, scope: Scope, prefix: str = "") -> Spelled:
    """Read one record that is to belong to `scope`; `prefix` (``email_config.``) says where it stands.

    Raises InvalidSpelling with everything that is wrong with it.
    """
    return _Reading(scope).read(document, prefix)


class _Reading:
    """One record under way: what was understood, and what was wrong."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._prefix = ""
        self._given: dict[str, Any] = {}
        self._fields: dict[str, Any] = {}
        self._paths: dict[str, str] = {}
        self._notices: list[str] = []
        self._errors: list[FieldError] = []

    def read(self, document: Any, prefix: str) -> Spelled:
        self._given = self._unwrapped(document, prefix)
        self._refuse_unknown()
        self._look_at_shown(self._given, self._prefix)
        self._merge()
        self._name_missing()
        self._choose_tls()
        password = self._password()
        name = self._text("display_name", check_display_name)
        dkim_key = self._text("dkim_key", check_dkim_key)
        self._check_whole(password, dkim_key)
        if self._errors:
            raise InvalidSpelling(self._errors)
        return Spelled(self._fields, name, password, dkim_key, tuple(self._notices), self._prefix, self._paths)

    def _unwrapped(self, document: Any, prefix: str) -> dict[str, Any]:
        """The object that holds the fields; Rafay's stands two objects deep."""
        outer = _object(document, prefix)
        if not prefix and "email_config" in outer:
            prefix = "email_config."
            beside = {name: value for name, value in outer.items() if name != "email_config"}
            self._only_shown(beside, "")
            outer = _object(outer["email_config"], prefix)
            if "smtp_config" not in outer:
                raise InvalidSpelling([FieldError(f"{prefix}smtp_config", "is missing")])
        if prefix and "smtp_config" in outer:
            self._only_shown({name: value for name, value in outer.items() if name != "smtp_config"}, prefix)
            prefix += "smtp_config."
            outer = _object(outer["smtp_config"], prefix)
        self._prefix = prefix
        return outer

    def _only_shown(self, beside: Mapping[str, Any], prefix: str) -> None:
        unknown = [name for name in beside if name not in (*_SHOWN, *_SCOPE)]
        for name in unknown[:_MAX_ERRORS]:
            self._errors.append(FieldError(prefix + name[:_MAX_PATH_CHARS], "is not a known field"))
        self._look_at_shown(beside, prefix)

    def _refuse_unknown(self) -> None:
        unknown = [name for name in self._given if name not in _KNOWN]
        for name in unknown[:_MAX_ERRORS]:  # there may be a hundred thousand
            near = difflib.get_close_matches(name[:_MAX_PATH_CHARS], _KNOWN, 1)
            self._fault(name, f"is not a known field{f': did you mean {near[0]}?' if near else ''}")

    def _look_at_shown(self, given: Mapping[str, Any], prefix: str) -> None:
        own = {"scope": str(self._scope), "partner": self._scope.partner, "org": self._scope.org}
        for name in given:
            if name in _SCOPE and given[name] != own[name]:
                message = "is not yours: a record belongs to the scope of whoever saves it"
                self._errors.append(FieldError(prefix + name, message))
        for name in ("is_default", "fallback"):
            if name in given:
                self._notices.append(f"{name} is shown only: PUT /v1/smtp-configs/order says who sends")

    def _merge(self) -> None:
        """Each field under our name; the same one in two spellings must say the same."""
        for name, value in self._given.items():
            ours = _FIELD_OF.get(name)
            if ours is None:
                continue
            try:
                read = read_value(ours, value, negated=name in _NEGATED)
            except ValueError as error:
                self._paths.setdefault(ours, name)
                self._fault(name, str(error))
                continue
            if read is None:
                continue
            if self._fields.setdefault(ours, read) != read:
                self._fault(name, differs(self._paths[ours]))
            self._paths.setdefault(ours, name)

    def _name_missing(self) -> None:
        palette = any(name in _OF_PALETTE for name in self._given)
        for ours, theirs in (("host", "smtpServer"), ("port", "smtpPort")):
            self._paths.setdefault(ours, theirs if palette else ours)
            if ours not in self._fields and not self._is_faulty(ours):
                self._fault(self._paths[ours], f"is missing: {REMEDIES[ours]}")

    def _choose_tls(self) -> None:
        try:
            read = read_tls(self._given, self._fields.get("port", 0))
        except ValueError as error:
            self._paths["tls"], message = error.args
            self._fault(self._paths["tls"], message)
            return
        self._paths["tls"], self._fields["tls"] = read.said_by, read.mode.value
        self._notices += read.notices

    def _password(self) -> PasswordIntention:
        given = [name for name in _PASSWORDS if self._given.get(name) not in (None, "")]
        named = self._fields.get("username") is not None
        if len(given) > 1:
            self._fault(given[1], f"stands beside {given[0]}: give one of them")
        if not given:
            return Unsaid() if named else Anonymous()
        self._paths["password"] = given[0]
        if not named and not self._is_faulty("username"):
            self._fault(
                given[0], f"is given without {self._user_name()}: give both, or neither for an anonymous server"
            )
        return self._intention(given[0])

    def _intention(self, name: str) -> PasswordIntention:
        if name == "password":
            return GivenPassword(self._text(name, check_password) or "")
        if name == "secret":
            return NamedSecret(self._text(name, check_secret_name) or "")
        if self._scope != CONTROLLER:
            self._fault(name, "is for the controller's records only: give password, or the name of a secret")
        return PasswordReference(self._text(name, check_reference) or "")

    def _text(self, name: str, check: Callable[[str], str]) -> str | None:
        value = self._given.get(name)
        if value is None or value == "":
            return None
        try:
            return check(read_text(value))
        except ValueError as error:
            self._fault(name, str(error))
            return None

    def _check_whole(self, password: PasswordIntention, dkim_key: str | None) -> None:
        if not isinstance(password, Anonymous) and self._fields.get("tls") == TlsMode.NONE:
            wanted = {"tls": "starttls or ssl"}.get(self._paths["tls"], "true")
            remedy = f"set {self._paths['tls']} to {wanted}, or leave out {self._user_name()} and password"
            self._fault(self._paths["tls"], f"{_NO_TLS} {remedy}")
        try:
            config = SmtpConfig.model_validate({**self._fields, **self._stand_ins(password, dkim_key)})
            self._fields = config.model_dump(mode="json", include=set(self._fields))
        except ValidationError as error:
            # Where there are errors already, a rule about several fields may only follow from these.
            known = {fault.path for fault in self._errors}
            found = faults_of(error, self._prefix, self._paths, whole=not known)
            self._errors += [fault for fault in found if fault.path not in known]

    def _stand_ins(self, password: PasswordIntention, dkim_key: str | None) -> dict[str, str | None]:
        """Secrets that nobody will see: the rules about them ask whether there are any."""
        signs = dkim_key is not None or ("dkim_domain" in self._fields and "dkim_selector" in self._fields)
        return {
            "password": None if isinstance(password, Anonymous) else "-",
            "dkim_key": "-" if signs else None,
        }

    def _user_name(self) -> str:
        return self._paths.get("username", "username")

    def _fault(self, name: str, message: str) -> None:
        self._errors.append(FieldError(self._prefix + name[:_MAX_PATH_CHARS], message))

    def _is_faulty(self, ours: str) -> bool:
        return any(error.path == self._prefix + self._paths.get(ours, ours) for error in self._errors)


def faults_of(
    error: ValidationError, prefix: str = "", paths: Mapping[str, str] | None = None, *, whole: bool = True
) -> list[FieldError]:
    """Pydantic's complaint about an `SmtpConfig` as errors at the writer's own paths; no value is quoted.

    `whole`: with the rules about several fields together.
    """
    found = []
    for fault in error.errors(include_input=False, include_url=False, include_context=False):
        if not (fault["loc"] or whole):
            continue
        ours, *rest = map(str, fault["loc"] or (_about(fault["msg"]),))
        message = fault["msg"].removeprefix("Value error, ")
        if fault["loc"]:
            message = REMEDIES.get(ours, message)
        found.append(FieldError(prefix + ".".join([(paths or {}).get(ours, ours), *rest]), message))
    return found


def _about(message: str) -> str:
    """The field that a rule about several names first."""
    first = message.removeprefix("Value error, ").split(" ", 1)[0]
    return first if first in SmtpConfig.model_fields else "smtp_config"


def _object(value: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidSpelling([FieldError(prefix.removesuffix(".") or "body", "is not a JSON object")])
    return value
