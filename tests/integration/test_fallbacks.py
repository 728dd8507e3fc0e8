"""A default whose server refuses the login, and a fallback that works: a whole worker on real servers.

By the store and by the topic alike. And a password that is a file, rotated while mail goes out.
"""

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from schemas.smtp_config import CONTROLLER
from tests.integration.conftest import Site
from tests.support.events import make_event
from tests.unit.config_topic.samples import put
from worker.control.references import KEPT_S, Opening
from worker.delivery.breakers import FIRST_BACKOFF_S
from worker.delivery.ports import Answer, MailEnvelope, Phase, RenderedMessage
from worker.rabbit.config_publisher import open_config_publisher
from worker.rabbit.config_topic import open_config_topic
from worker.smtp import destination
from worker.smtp.pool import SmtpPool

PARTNER = "partner:acme"
ACCOUNT = "partner@partner.test"
PATIENCE_S = 120.0
MAIL_S = 40.0


class Records:
    """The partner's two records, of which the first one's password is wrong at first."""

    def __init__(self, site: Site, mailbox: Any) -> None:
        self.site = site
        self.mailbox = mailbox

    def save(self, name: str, password: str) -> None:
        self.site.configure(
            PARTNER, "localhost", self.mailbox.port_starttls,
            "--name", name, "--from", f"{name}@acme.example", "--username", ACCOUNT, "--tls", "starttls",
            "--ca-bundle", str(self.mailbox.ca_file), password=password,
        )  # fmt: skip

    def refused_logins(self) -> int:
        return len(re.findall(r"SASL \w+ authentication failed", self.mailbox.log())) - self.before

    def prepare(self) -> None:
        self.before = 0
        self.before = self.refused_logins()
        self.save("main", "not the password")
        self.save("spare", self.mailbox.users[ACCOUNT])
        self.site.run("config", "order", "--scope", PARTNER, "main", "spare")


@pytest.fixture(params=["store", "topic"])
def records(request: Any, site: Site, mailbox: Any) -> Records:
    site.env_extra["POSTBOTE_CONFIG_SOURCE"] = request.param
    if request.param == "topic":
        site.run("topology", "declare")
    found = Records(site, mailbox)
    found.prepare()
    return found


def test_mail_goes_by_the_fallback_the_default_is_tried_once_a_backoff_and_by_its_new_version_again(
    site: Site, mailbox: Any, records: Records
) -> None:
    published: list[str] = []

    def publish(count: int) -> None:
        ids = [f"e{len(published) + n}" for n in range(count)]
        site.publish(*(make_event(f"{each}@example.com", id=each, scope={"partner": "acme"}) for each in ids))
        published.extend(ids)

    with site.worker() as running:
        running.wait_for("consuming", count=2)
        began = time.monotonic()
        publish(30)
        mailbox.wait_for(30)
        assert records.refused_logins() == 1
        while records.refused_logins() < 2:  # until the probe, mail comes steadily, and none of it waits
            assert time.monotonic() - began < PATIENCE_S
            publish(1)
            mailbox.wait_for(len(published), timeout=MAIL_S)
        assert time.monotonic() - began > FIRST_BACKOFF_S
        assert {mail["From"] for mail in mailbox.mails()} == {"spare@acme.example"}
        before = len(published)
        records.save("main", mailbox.users[ACCOUNT])
        deadline = time.monotonic() + PATIENCE_S
        while mailbox.mails()[-1]["From"] != "main@acme.example":
            assert time.monotonic() < deadline
            publish(1)
            mailbox.wait_for(len(published), timeout=MAIL_S)
        assert records.refused_logins() == 2
        found = site.reader(running).wait_for(len(published), outcome="accepted")
        faults = site.reader(running).wait_for(1, outcome="config_fault")
        assert running.terminate() == 0
    assert Counter(mail["Delivered-To"] for mail in mailbox.mails()) == Counter(f"{e}@example.com" for e in published)
    used = {record["event_id"]: record["config"]["name"] for record in found}
    assert {used[each] for each in published[:before]} == {"spare"}
    assert used[published[-1]] == "main"
    assert {record["config"]["name"] for record in faults} == {"main"}
    # Who rests is recorded without a reply, and tried once more; who met a refusal goes on by the fallback at once.
    assert {record.get("reply", {}).get("code") for record in faults} == {535}, "none of it waits"
    again = {record["event_id"] for record in found if record["attempt"] > 1}
    assert again == {record["event_id"] for record in faults}


async def test_a_password_file_that_is_rotated_is_used_for_the_next_login(
    amqp_url: str, mailbox: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(destination, "REFUSED_S", 0.0)  # or the second mail would be told of the first one's refusal
    file, now = tmp_path / "password", [1000.0]
    file.write_text("not the password\n")
    server = {"host": "localhost", "port": mailbox.port_starttls, "ca_bundle": mailbox.ca_file.read_text()}
    pool = SmtpPool("client.test")

    async def answer() -> Answer:
        config = (await topic.configs_for(CONTROLLER)).records[CONTROLLER]
        envelope = MailEnvelope("a@example.com", ("b@example.com",))
        message = RenderedMessage(b"From: a@example.com\r\n\r\nhello\r\n", "<1@example.com>")
        return (await pool.send(config, envelope, message)).answers["b@example.com"]

    async with open_config_publisher(amqp_url) as publisher:
        await publisher.publish([put(secret=f"file:{file}", username=ACCOUNT, **server)])
    async with open_config_topic(amqp_url, Opening(str, {}.get, lambda: now[0])) as topic:
        assert (await answer()).phase is Phase.AUTH
        file.write_text(mailbox.users[ACCOUNT] + "\n")
        assert (await answer()).phase is Phase.AUTH
        now[0] += KEPT_S
        accepted = await answer()
    await pool.close()
    assert accepted.reply is not None
    assert (accepted.phase, accepted.reply.code) == (Phase.FINAL, 250)
