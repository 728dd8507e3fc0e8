"""A worker that reads its SMTP records from the topic: it never opens the database, and changes reach it at once."""

from typing import Any

from tests.integration.conftest import Site
from tests.support.events import make_event
from tests.support.process import Postbote


def test_a_worker_on_the_topic_sends_by_what_was_published(site: Site, mailbox: Any) -> None:
    site.env_extra["POSTBOTE_CONFIG_SOURCE"] = "topic"
    site.run("topology", "declare")
    configure(site, mailbox, "first@example.com")
    nowhere = {"POSTBOTE_DATABASE_URL": "sqlite:////nowhere/at/all.db"}
    with Postbote("worker", env=site.env | nowhere) as running, Postbote("api", env=site.env) as api:
        running.wait_for("consuming")
        reader = site.reader(api)
        site.publish(make_event("a@example.com", id="first"))
        [record] = reader.wait_for(1, eventid="first", outcome="accepted")
        assert record["config"]["version"] == 1
        configure(site, mailbox, "second@example.com")
        site.publish(make_event("b@example.com", id="second"))
        [record] = reader.wait_for(1, eventid="second", outcome="accepted")
        assert record["config"]["version"] == 2
        assert running.terminate() == 0
    assert [mail["From"] for mail in mailbox.wait_for(2)] == ["first@example.com", "second@example.com"]


def configure(site: Site, mailbox: Any, sender: str) -> None:
    site.configure("controller", "localhost", mailbox.port_plain, "--tls", "none", "--from", sender)
