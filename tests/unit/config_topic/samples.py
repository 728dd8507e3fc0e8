"""Changes, messages and keys that the config topic's tests share."""

from datetime import UTC, datetime
from typing import Any

from schemas.config_change import Changes, Delete, Feature, PublishedConfig, Put, SnapshotBegin, SnapshotEnd
from schemas.smtp_config import SECRETS, Scope, SmtpConfig
from worker.store.secrets import SecretBox

KEY = "zJq4n0D1c3N3VtFQb6mTzX8cQ2s5bqk5Xb0V2o7mJ3E="
OTHER_KEY = "Yk9wQ2hX0mQ2c1Jv4T8n6bL3zR7dE5fG1hI9jK0lM2o="
PASSWORD = "correct-horse-battery-staple"
BOX = SecretBox([KEY])
SEALED = BOX.seal(PASSWORD)
DKIM_KEY = "the key that signs, in PEM"
SEALED_KEY = BOX.seal(DKIM_KEY)
NOW = datetime(2026, 11, 21, 8, tzinfo=UTC)

CONTROLLER = Scope()
ACME = Scope("acme")
DEV = Scope("acme", "dev")
OTHER = Scope("umbrella")


def put(
    scope: Scope = CONTROLLER,
    name: str = "default",
    version: int = 1,
    *,
    order: int = 1,
    fallback: bool = False,
    secret: str | None = None,
    dkim_secret: str | None = None,
    **fields: Any,
) -> Put:
    given = {"host": f"v{version}.example.net", "port": 587, "tls": "starttls", **fields}
    if secret:
        given = {"username": "mailer", "password": "stand-in", **given}
    if dkim_secret:
        given = {"dkim_domain": "acme.example", "dkim_selector": "s1", "dkim_key": "stand-in", **given}
    record = SmtpConfig(partner=scope.partner, org=scope.org, display_name=name, version=version, **given)
    published = PublishedConfig.model_validate(record.model_dump(exclude=set(SECRETS)))
    return Put(config=published, secret=secret, dkim_secret=dkim_secret, order=order, fallback=fallback)


def delete(scope: Scope = CONTROLLER, name: str = "default", version: int = 1) -> Delete:
    return Delete(partner=scope.partner, org=scope.org, display_name=name, version=version)


def feature(scope: Scope = DEV, version: int = 1, *, on: bool = True) -> Feature:
    return Feature(partner=scope.partner, org=scope.org, org_smtp=on, version=version)


def changes(*items: Put | Delete | Feature, snapshot: str | None = None) -> Changes:
    return Changes(published_at=NOW, snapshot=snapshot, items=items)


def begin(snapshot: str = "s") -> SnapshotBegin:
    return SnapshotBegin(published_at=NOW, snapshot=snapshot)


def end(count: int, snapshot: str = "s") -> SnapshotEnd:
    return SnapshotEnd(published_at=NOW, snapshot=snapshot, count=count)
