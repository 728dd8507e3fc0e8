"""Secrets and bodies cannot get into a log line, whatever a caller does."""

import asyncio
import json
import logging

import pytest
import structlog
from pydantic import SecretStr

from worker.delivery.identity import IN_HAND, EventKey
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


async def test_every_line_of_a_task_names_the_event_in_hand_and_no_other_does(capsys) -> None:
    configure_logging("debug", LogFormat.JSON)

    async def work(key: EventKey) -> None:
        IN_HAND.set(key)
        await asyncio.sleep(0)
        structlog.get_logger("t").info("sent", source="its own")
        logging.getLogger("some.library").warning("of a library")

    keys = [EventKey(None, None, "/a", "1"), EventKey("acme", "dev", "/b", "2")]
    await asyncio.gather(*(work(key) for key in keys))
    structlog.get_logger("t").info("idle")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    named = [(line.get("event_id"), line.get("source"), line.get("scope"), line["event"]) for line in lines]
    assert named == [
        ("1", "its own", "controller", "sent"),
        ("1", "/a", "controller", "of a library"),
        ("2", "its own", "org:acme/dev", "sent"),
        ("2", "/b", "org:acme/dev", "of a library"),
        (None, None, None, "idle"),
    ]


def test_of_what_is_too_long_both_ends_are_kept(capsys) -> None:
    """A traceback says at its end what went wrong."""

    def deep(turns: int) -> None:
        if turns == 0:
            raise ValueError("the reason")
        deep_too(turns)

    def deep_too(turns: int) -> None:  # Python leaves out lines that repeat themselves
        deep(turns - 1)

    configure_logging("debug", LogFormat.JSON)
    try:
        deep(60)
    except ValueError:
        structlog.get_logger("t").exception("failed")
    line = json.loads(capsys.readouterr().err)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: the reason")
    assert len(line["exception"]) < 2100
