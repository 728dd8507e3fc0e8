"""Log lines name no mail address where the audit doesn't."""

import json
import logging

import pytest
import structlog

from worker.logs import LogFormat, configure_logging


@pytest.fixture(autouse=True)
def as_before():
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()


def logged(capsys, *, keep_addresses):
    configure_logging("debug", LogFormat.JSON, keep_addresses=keep_addresses)
    log = structlog.get_logger("test")
    log.info(
        "recipient", reason="timed-out: so. (<bob@x.example>)", pending=["bob@x.example"], one={"a": "bob@x.example"}
    )
    try:
        {}["bob@x.example"]
    except KeyError:
        log.exception("surprised by %s")
    logging.getLogger("library").warning("about %s", "bob@x.example")
    return capsys.readouterr().err


def test_no_line_names_an_address(capsys):
    lines = logged(capsys, keep_addresses=False)
    assert "bob" not in lines
    first, second, third = (json.loads(line) for line in lines.splitlines())
    assert (first["reason"], first["pending"]) == ("timed-out: so. (<address>)", ["<address>"])
    assert "KeyError: '<address>'" in second["exception"]
    assert third["event"] == "about <address>"


def test_plain_lines_stay_as_they_are(capsys):
    assert logged(capsys, keep_addresses=True).count("bob@x.example") == 6
