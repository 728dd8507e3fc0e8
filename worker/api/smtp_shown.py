"""SMTP records as answers show them: everything but their secrets, and the schemas of these answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.smtp_config import CONTROLLER, SECRETS, SmtpConfig, TlsMode
from worker.api.described import Answers
from worker.control.records import HistoryEntry, StoredRecord

# Shown beside the documented fields, under our own names.
_BESIDE = (
    "display_name",
    "tls",
    "ca_bundle",
    "from_address",
    "reply_to",
    "allowed_from",
    "max_connections",
    "rate_per_minute",
    "timeout_s",
    "chunking",
    "require_tls",
    "dkim_domain",
    "dkim_selector",
    "password_set",
    "dkim_key_set",
    "secret",
    "reference",
)
_ABOUT = ("scope", "version", "fingerprint", "updated_at", "updated_by", "read_only", "warnings", "notices")


def flat(record: StoredRecord, notices: Sequence[str] = ()) -> dict[str, Any]:
    """A record under our own field names."""
    return {**record.to_json(), "read_only": False, "notices": list(notices)}


def flat_from_environment(config: SmtpConfig) -> dict[str, Any]:
    """The controller's record of the process's environment, in the same shape."""
    return {
        "scope": str(CONTROLLER),
        **config.model_dump(mode="json", exclude=set(SECRETS)),
        "is_default": True,
        "fallback": None,
        "password_set": config.password is not None,
        "secret": None,
        "reference": None,
        "dkim_key_set": False,
        "fingerprint": config.fingerprint,
        "updated_at": None,
        "updated_by": None,
        "warnings": list(config.warnings()),
        "read_only": True,
        "notices": [],
    }


def documented(shown: Mapping[str, Any]) -> dict[str, Any]:
    """A flat record in the documented shape, with what is ours beside it."""
    smtp_config = {
        "username": shown["username"],
        "host": shown["host"],
        "port": shown["port"],
        "use_tls": shown["tls"] != TlsMode.NONE,
        "use_insecure": not shown["verify_tls"],
        "retries": shown["retries"],
        **{name: shown[name] for name in _BESIDE},
    }
    return {"email_config": {"smtp_config": smtp_config}, **{name: shown[name] for name in _ABOUT}}


def past(entry: HistoryEntry) -> dict[str, Any]:
    """One version of a record's history."""
    return {
        "version": entry.version,
        "action": entry.action.value,
        "at": entry.at.isoformat(),
        "actor": {"kind": entry.actor.kind.value, "name": entry.actor.name, "scope": str(entry.actor.scope)},
        "changed": list(entry.changed),
        "fields": dict(entry.fields),
    }


def answer(description: str, schema: Mapping[str, Any], *, tagged: bool = False) -> dict[str, Any]:
    """One success answer for FastAPI's ``responses``; `tagged`: it has an ETag."""
    found: dict[str, Any] = {"description": description, "content": {"application/json": {"schema": dict(schema)}}}
    if tagged:
        found["headers"] = {"ETag": {"description": "The version, for If-Match", "schema": {"type": "string"}}}
    return found


def answers(status: int, description: str, schema: Mapping[str, Any], *, tagged: bool = False) -> Answers:
    """The same as a mapping."""
    return {status: answer(description, schema, tagged=tagged)}


def an_object(required: Mapping[str, Mapping[str, Any]], **optional: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an answer that always has `required`."""
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def a_list(name: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an answer that is a list under its name."""
    return an_object({name: {"type": "array", "items": dict(item)}})


TEXT: Mapping[str, Any] = {"type": "string"}
FLAG: Mapping[str, Any] = {"type": "boolean"}
NUMBER: Mapping[str, Any] = {"type": "integer"}
MAYBE_TEXT: Mapping[str, Any] = {"type": ["string", "null"]}
MAYBE_NUMBER: Mapping[str, Any] = {"type": ["integer", "null"]}
TEXTS: Mapping[str, Any] = {"type": "array", "items": TEXT}
ANYTHING: Mapping[str, Any] = {"type": "object"}

_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "display_name": TEXT,
    "host": TEXT,
    "port": NUMBER,
    "tls": {"enum": [mode.value for mode in TlsMode]},
    "username": MAYBE_TEXT,
    "from_address": MAYBE_TEXT,
    "reply_to": MAYBE_TEXT,
    "allowed_from": TEXTS,
    "retries": NUMBER,
    "max_connections": NUMBER,
    "rate_per_minute": MAYBE_NUMBER,
    "timeout_s": {"type": "number"},
    "password_set": FLAG,
    "dkim_key_set": FLAG,
    "secret": MAYBE_TEXT,
    "reference": MAYBE_TEXT,
}
_SHOWN_ABOUT: Mapping[str, Mapping[str, Any]] = {
    "scope": TEXT,
    "version": NUMBER,
    "fingerprint": TEXT,
    "read_only": FLAG,
    "warnings": TEXTS,
    "notices": TEXTS,
}
RECORD = an_object({**_FIELDS, "verify_tls": FLAG, "is_default": FLAG, "fallback": MAYBE_NUMBER, **_SHOWN_ABOUT})
DOCUMENTED = an_object(
    {
        "email_config": an_object({"smtp_config": an_object({**_FIELDS, "use_tls": FLAG, "use_insecure": FLAG})}),
        **_SHOWN_ABOUT,
    }
)
VERSION = an_object(
    {"version": NUMBER, "action": TEXT, "at": TEXT, "actor": ANYTHING, "changed": TEXTS, "fields": ANYTHING}
)
DELETED = an_object(
    {
        "deleted": an_object({"scope": TEXT, "display_name": TEXT}),
        "now_applies": an_object({"scope": {"enum": ["org", "partner", "controller", None]}}),
    }
)
