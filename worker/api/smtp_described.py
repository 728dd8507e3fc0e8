"""The bodies of the SMTP endpoints in the OpenAPI schema: a record in any spelling."""

from collections.abc import Mapping
from typing import Any

from schemas.smtp_config import SmtpConfig

_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_PORT = {"type": ["integer", "string"], "description": "1 to 65535"}
_NOT_WRITTEN = ("partner", "org", "version")
_OTHERS: Mapping[str, Mapping[str, Any]] = {
    "port": _PORT,
    "password": {**_TEXT, "writeOnly": True, "maxLength": 2000},
    "secret": {**_TEXT, "description": "A stored secret's name, in place of password"},
    "password_ref": {**_TEXT, "description": "env:NAME or file:/PATH, for the controller's record"},
    "dkim_key": {**_TEXT, "writeOnly": True},
    "use_tls": {**_FLAG, "description": "Rafay: ssl on port 465, else starttls"},
    "use_insecure": {**_FLAG, "description": "Rafay: the opposite of verify_tls"},
    "fromAddress": {**_TEXT, "description": "Harness: from_address"},
    "useSSL": {**_FLAG, "description": "Harness: ssl"},
    "startTLS": {**_FLAG, "description": "Harness: starttls"},
    "smtpServer": {**_TEXT, "description": "Palette: host"},
    "smtpPort": {**_PORT, "description": "Palette: port"},
    "userName": {**_TEXT, "description": "Palette: username"},
    "fromEmailId": {**_TEXT, "description": "Palette: from_address"},
    "insecureSkipVerifyTls": {**_FLAG, "description": "Palette: the opposite of verify_tls"},
}


def spelled_fields() -> dict[str, Any]:
    """The schema of a record's fields, in any spelling."""
    own = SmtpConfig.model_json_schema()
    properties = {name: _inlined(schema, own) for name, schema in own["properties"].items() if name not in _NOT_WRITTEN}
    return {"type": "object", "properties": {**properties, **{name: dict(each) for name, each in _OTHERS.items()}}}


def wrapped() -> dict[str, Any]:
    """The schema of the documented body, whose fields stand two objects deep."""
    fields = {**spelled_fields(), "required": ["host", "port"]}
    inner = {"type": "object", "required": ["smtp_config"], "properties": {"smtp_config": fields}}
    return {"type": "object", "required": ["email_config"], "properties": {"email_config": inner}}


def body(schema: Mapping[str, Any], example: Any, **more: Any) -> dict[str, Any]:
    """FastAPI's ``openapi_extra`` for a body that the endpoint reads itself."""
    content = {"application/json": {"schema": dict(schema), "example": example}}
    return {"requestBody": {"required": True, "content": content}, **more}


EXAMPLE = {
    "username": "relay@example.com",
    "password": "app-password",
    "host": "smtp.example.com",
    "port": 587,
    "use_tls": True,
    "use_insecure": False,
    "retries": 3,
}
WRAPPED_EXAMPLE = {"email_config": {"smtp_config": EXAMPLE}}


def _inlined(schema: Any, document: Mapping[str, Any]) -> Any:
    reference = schema.get("$ref")
    return document["$defs"][reference.rpartition("/")[2]] if reference else schema
