"""Keys, scopes and records that the store's tests share."""

from typing import Any

from schemas.smtp_config import Scope, SmtpConfig
from worker.control.principals import Actor, Kind
from worker.control.records import Draft, NoPassword, Password

KEY = "zJq4n0D1c3N3VtFQb6mTzX8cQ2s5bqk5Xb0V2o7mJ3E="
OTHER_KEY = "Yk9wQ2hX0mQ2c1Jv4T8n6bL3zR7dE5fG1hI9jK0lM2o="
PASSWORD = "correct-horse-battery-staple"

CONTROLLER = Scope()
ACME = Scope("acme")
DEV = Scope("acme", "dev")
OPS = Scope("acme", "ops")
OTHER = Scope("umbrella")


def record(scope: Scope = CONTROLLER, name: str = "default", **fields: Any) -> SmtpConfig:
    given = {"host": "smtp.example.net", "port": 587, "tls": "starttls", **fields}
    return SmtpConfig(partner=scope.partner, org=scope.org, display_name=name, **given)


def with_password(scope: Scope = CONTROLLER, name: str = "default", **fields: Any) -> SmtpConfig:
    return record(scope, name, **{"username": "mailer", "password": PASSWORD, **fields})


ADA = Actor(Kind.USER, "ada@example.com", ACME, "192.0.2.7")
OPERATOR = Actor(Kind.COMMAND, "root", CONTROLLER)


def draft(scope: Scope = ACME, name: str = "default", password: Password | None = None, **fields: Any) -> Draft:
    """An anonymous record, or with `password` that of the user mailer."""
    login = {} if password is None or isinstance(password, NoPassword) else {"username": "mailer"}
    given = {"host": "smtp.example.net", "port": 587, "tls": "starttls", **login, **fields}
    dkim_key = given.pop("dkim_key", None)
    return Draft(scope, name, given, password or NoPassword(), dkim_key)
