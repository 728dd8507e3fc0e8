"""What a draft amounts to beside what is stored: the record to write, and where its password comes from.

Decides and reads nothing. No decision needs the password of a stored record, so a lost key hides no rule.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import RowMapping

from schemas.config_change import SecretReference, is_reference
from schemas.smtp_config import CONTROLLER, SmtpConfig
from worker.control.errors import PasswordNeeded, Refused
from worker.control.records import (
    INLINE,
    Draft,
    KeepPassword,
    NewPassword,
    NoPassword,
    SecretName,
    UseReference,
    UseSecret,
)
from worker.errors import SecretKeyMissing, SecretUnreadable
from worker.store.rows import Secrets, field_columns, source_columns, source_of, stored_fields, to_columns
from worker.store.secrets import SecretBox

# A token has four thirds of what it seals, and the config topic takes one of 20,000 characters.
MAX_SECRET_BYTES = 8192
# Four octets a character at most: PostgreSQL's index takes 2,700 in all.
MAX_NAME_CHARS = 256
_STAND_IN = ""  # where only the presence of a secret matters
_REFERENCES: TypeAdapter[str] = TypeAdapter(SecretReference)


class Placed(NamedTuple):
    """What is stored for a password: a token or a reference, and the named secret that it is a copy of."""

    secret: str | None = None
    source: SecretName | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The record to store; the secrets in `config` are stand-ins. `changed`: its fields that differ from the stored."""

    config: SmtpConfig
    password: Placed
    dkim_secret: str | None
    changed: tuple[str, ...]

    @property
    def sealed(self) -> Secrets:
        """Its secrets as they are stored."""
        return Secrets(self.password.secret, self.dkim_secret)

    def columns(self) -> dict[str, Any]:
        """The columns to write, but for key, version and place."""
        return {
            **field_columns(self.config),
            **to_columns(self.sealed),
            **source_columns(self.password.source),
        }


def inline_name(name: str) -> str:
    """How the secret of a password is named that was given with the record `name`."""
    return INLINE + name


def plan(draft: Draft, stored: RowMapping | None, found: Placed | None, box: SecretBox) -> Plan:
    """Decide what storing `draft` over `stored` would write; `found` is the secret that it names.

    Raises Refused, PasswordNeeded, pydantic's ValidationError, and SecretKeyMissing where something
    is to be sealed and no key is set.
    """
    config = validated(draft)
    password = _place(draft, config, stored, found or Placed(), box)
    dkim_secret = _place_key(draft, config, stored, box)
    return Plan(config, password, dkim_secret, _changed(draft, config, stored, password, box))


def check_secret(path: str, value: str) -> str:
    """Return a secret that can be stored, or raise Refused."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise Refused(path, "holds a character that cannot be encoded") from None
    if not size:
        raise Refused(path, "is empty")
    if size > MAX_SECRET_BYTES:
        raise Refused(path, f"has {size} bytes: {MAX_SECRET_BYTES} are the most that can be stored")
    return value


def validated(draft: Draft) -> SmtpConfig:
    """The record that `draft` describes, with stand-ins for its secrets; raises ValidationError and Refused."""
    fields = dict(draft.fields)
    if fields.pop("display_name", draft.name) != draft.name:
        raise Refused("display_name", "a record keeps its name: store a new one and delete this one")
    if len(draft.name) > MAX_NAME_CHARS:
        raise Refused("display_name", f"has more than {MAX_NAME_CHARS} characters")
    if "\0" in str(fields.get("ca_bundle")):
        raise Refused("ca_bundle", "is no PEM text")
    own = {"partner": draft.scope.partner, "org": draft.scope.org, "display_name": draft.name}
    stand_ins = {
        "password": _STAND_IN if _brings_password(draft) else None,
        "dkim_key": _STAND_IN if _signs(draft) else None,
    }
    return SmtpConfig.model_validate({**fields, **own, **stand_ins})


def _brings_password(draft: Draft) -> bool:
    match draft.password:
        case NoPassword():
            return False
        case KeepPassword():  # whether there is one to keep is asked later: without it, the username is not at fault
            return draft.fields.get("username") is not None
        case _:
            return True


def _signs(draft: Draft) -> bool:
    both = ("dkim_domain", "dkim_selector")
    return draft.dkim_key is not None or all(draft.fields.get(name) is not None for name in both)


def _place(draft: Draft, config: SmtpConfig, stored: RowMapping | None, found: Placed, box: SecretBox) -> Placed:
    match draft.password:
        case NoPassword():
            return Placed()
        case NewPassword(value):
            sealed = box.seal(check_secret("password", value))
            return Placed(sealed, SecretName(draft.scope, inline_name(draft.name)))
        case UseSecret():
            return found
        case UseReference(reference):
            return Placed(_reference(draft, reference))
        case KeepPassword():
            return _keep(config, stored)


def _reference(draft: Draft, reference: str) -> str:
    if draft.scope != CONTROLLER:
        raise Refused("password_ref", "only the controller's record may refer to the environment and files of workers")
    try:
        return _REFERENCES.validate_python(reference)
    except ValidationError:
        raise Refused("password_ref", "expected env:NAME or file:/PATH") from None


def _keep(config: SmtpConfig, stored: RowMapping | None) -> Placed:
    """The stored password, which goes to the very server that it was given for and to no other."""
    if stored is None:
        if config.username is None:
            return Placed()
        raise PasswordNeeded("password", "there is no stored record that it could be taken from: give it")
    other = [name for name in ("host", "port", "username") if stored[name] != getattr(config, name)]
    if other:
        raise PasswordNeeded(
            "password",
            f"{' and '.join(other)} differ{'s' if len(other) == 1 else ''} from the stored record: "
            "its password could be sent to another server, so give the password",
        )
    return Placed(stored["secret"], source_of(stored))


def _place_key(draft: Draft, config: SmtpConfig, stored: RowMapping | None, box: SecretBox) -> str | None:
    if draft.dkim_key is not None:
        return box.seal(check_secret("dkim_key", draft.dkim_key))
    if config.dkim_domain is None:
        return None
    same = ("dkim_domain", "dkim_selector")
    if stored is None or any(stored[name] != getattr(config, name) for name in same):
        raise Refused("dkim_key", "is missing: none is stored for this domain and selector, and a signature needs it")
    return str(stored["dkim_secret"])


def _changed(
    draft: Draft, config: SmtpConfig, stored: RowMapping | None, password: Placed, box: SecretBox
) -> tuple[str, ...]:
    if stored is None:
        return ()
    before = stored_fields(stored)
    changed = [name for name, value in field_columns(config).items() if before[name] != value]
    if _other_password(draft, stored, password, box):
        changed.append("password")
    if _other_key(draft, config, stored, box):
        changed.append("dkim_key")
    return tuple(changed)


def _other_password(draft: Draft, stored: RowMapping, password: Placed, box: SecretBox) -> bool:
    if source_of(stored) != password.source:
        return True
    if isinstance(draft.password, NewPassword):
        return not _opens_to(box, stored["secret"], draft.password.value)
    if isinstance(draft.password, UseReference) or (stored["secret"] and is_reference(stored["secret"])):
        return bool(stored["secret"] != password.secret)
    return False


def _other_key(draft: Draft, config: SmtpConfig, stored: RowMapping, box: SecretBox) -> bool:
    if draft.dkim_key is not None:
        return not _opens_to(box, stored["dkim_secret"], draft.dkim_key)
    return stored["dkim_secret"] is not None and config.dkim_domain is None


def _opens_to(box: SecretBox, token: str | None, value: str) -> bool:
    try:
        return token is not None and box.open(token) == value
    except (SecretUnreadable, SecretKeyMissing):
        return False
