"""Secrets and bodies cannot get into a log line, whatever a caller does."""

import json
import logging

import pytest
import structlog
from pydantic import SecretStr

from worker.logs import LogFormat, configure_logging


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "geheim"),
        ("smtp_password", "geheim"),
        ("authorization", "Bearer geheim"),
        ("body", "geheim"),
        ("html", "geheim"),
        ("value", SecretStr("geheim")),
        ("raw", b"geheim"),
        ("url", "amqp://user:geheim@host/"),
        ("nested", {"token": "geheim", "deeper": {"secret": "geheim"}}),
        ("items", [SecretStr("geheim"), b"geheim", {"password": "geheim"}]),
    ],
)
def test_what_is_secret_is_removed(name, value, capsys) -> None:
    configure_logging("debug", LogFormat.JSON)
    structlog.get_logger("t").info("something", **{name: value, "event_id": "e1"})
    line = capsys.readouterr().err
    assert "geheim" not in line
    assert json.loads(line)["event_id"] == "e1"


def test_the_libraries_warnings_take_the_same_way(capsys) -> None:
    configure_logging("debug", LogFormat.JSON)
    logging.getLogger("some.library").warning("cannot reach amqp://user:geheim@host/")
    line = json.loads(capsys.readouterr().err)
    assert "geheim" not in json.dumps(line)
    assert line["level"] == "warning"
