"""A worker that reads its SMTP records from PostgreSQL, to the mail's arrival, while the keys are rotated under it."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.control.store.samples import ACME
from tests.integration.conftest import Site
from tests.support.events import make_event
from tests.support.process import run_postbote
from worker.rabbit.config_topic import open_config_topic
from worker.store.secrets import SecretBox, new_key

PARTNER = "partner@partner.test"
PATIENCE_S = 30
OLD, NEW = new_key(), new_key()


@pytest.fixture
def site(amqp_url: str, opensearch, index_prefix: str, tmp_path: Path, postgres_url: str) -> Site:
    made = Site(amqp_url, opensearch.url, index_prefix, tmp_path, env_extra={"POSTBOTE_DATABASE_URL": postgres_url})
    with_keys(made, OLD)
    made.run("db", "upgrade")
    return made


def with_keys(site: Site, *keys: str) -> None:
    """What the processes that start from now on have."""
    site.env_extra["POSTBOTE_SECRET_KEYS"] = ",".join(keys)


def save_partner(site: Site, postfix) -> None:
    site.configure(
        "partner:acme", "localhost", postfix.port_starttls,
        "--username", PARTNER, "--tls", "starttls", "--ca-bundle", str(postfix.ca_file), password=postfix.users[PARTNER],
    )  # fmt: skip


def send(site: Site, name: str) -> None:
    site.publish(make_event(f"{name}@example.com", id=name, scope={"partner": "acme"}))


def test_mail_goes_out_by_a_record_in_postgresql_before_while_and_after_its_keys_are_rotated(
    site: Site, mailbox, opensearch
) -> None:
    save_partner(site, mailbox)
    with_keys(site, OLD, NEW)  # the new key is everywhere before anything is sealed with it
    with site.worker() as running:
        running.wait_for("consuming")
        send(site, "before")
        mailbox.wait_for(1)
        with_keys(site, NEW, OLD)
        assert json.loads(site.run("secrets", "rotate-key", "--json"))["resealed"] == 1
        send(site, "rotated")
        mailbox.wait_for(2)
        save_partner(site, mailbox)
        send(site, "saved")
        records = site.reader(running).wait_for(3)
        assert running.terminate() == 0
    assert {(r["config"]["scope"], r["outcome"]) for r in records} == {("partner:acme", "accepted")}
    assert sorted(r["config"]["version"] for r in records) == [1, 1, 2]
    with_keys(site, NEW)
    with site.worker() as running:
        running.wait_for("consuming")
        send(site, "after")
        mailbox.wait_for(4)
        assert running.terminate() == 0
    with_keys(site, OLD)
    refused = run_postbote("worker", env=site.env)
    assert refused.returncode == 2
    assert "record 'default' of partner:acme" in refused.stderr


def test_after_a_rotation_and_a_snapshot_readers_of_the_topic_need_the_new_key_alone(site: Site, mailbox) -> None:
    site.env_extra["POSTBOTE_CONFIG_SOURCE"] = "topic"
    save_partner(site, mailbox)
    with_keys(site, NEW, OLD)
    site.run("secrets", "rotate-key")
    site.run("config", "publish-snapshot")

    async def password() -> str:
        async with open_config_topic(site.amqp_url, SecretBox([NEW]).open) as topic, asyncio.timeout(PATIENCE_S):
            await topic.caught_up()
            found = (await topic.configs_for(ACME)).records[ACME]
            assert found.password
            return found.password.get_secret_value()

    assert asyncio.run(password()) == mailbox.users[PARTNER]
