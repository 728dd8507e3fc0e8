"""A whole worker whose audit keeps no addresses: nothing that it leaves behind names one; and forgetting, by command."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.integration.conftest import PATIENCE_S, Site
from tests.support.access import bearer
from tests.support.events import make_event
from tests.support.process import run_postbote
from tests.unit.audit.audit_samples import audit_record
from worker.delivery.privacy import Privacy, RecipientMode
from worker.embedded.audit import SqliteAudit
from worker.proof.chain import Chain
from worker.proof.sealed import SealedAudit

PARTNER = "partner@partner.test"
KEY = "a key of the tests of some length, no secret"
ZEBEDEE, QUENTIN, OPHELIA = (f"{name}@example.com" for name in ("zebedee.quirk", "quentin", "ophelia"))
SCOPE = {"partner": "acme"}
MASKED_IN = {
    "the audit",
    "the audit as CSV",
    "the audit as NDJSON",
    "one person's",
    "the story",
    "the indices",
    "the command",
    "the story by command",
}


def tenant(site: Site, postfix: Any, **variables: str) -> None:
    ca, password = str(postfix.ca_file), postfix.users[PARTNER]
    server = ("localhost", postfix.port_starttls, "--username", PARTNER, "--tls", "starttls", "--ca-bundle", ca)
    site.configure("partner:acme", *server, password=password)
    site.env_extra |= {f"POSTBOTE_AUDIT_{name}": value for name, value in variables.items()}


def everything_in(site: Site) -> str:
    """Every document of the audit, its proofs and its claims, hidden indices too."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    base = f"{site.opensearch_url}/{site.index_prefix}-*"
    with opener.open(urllib.request.Request(f"{base}/_refresh?expand_wildcards=all", method="POST"), timeout=30):
        pass
    with opener.open(f"{base}/_search?size=1000&expand_wildcards=all", timeout=30) as answer:
        return str(answer.read().decode())


def answers_of(site: Site, base: str, source: str) -> dict[str, str]:
    """What the API says about all of it; the question alone names the address."""
    paths = {
        "the audit": "/event/v1/auditlog?&filter.timefrom=now-1h&filter.limit=100",
        "the audit as CSV": "/event/v1/auditlog?&filter.timefrom=now-1h&filter.format=csv",
        "the audit as NDJSON": "/event/v1/auditlog?&filter.timefrom=now-1h&filter.format=ndjson",
        "one person's": f"/event/v1/auditlog?&filter.timefrom=now-1h&filter.recipient={ZEBEDEE}",
        "the story": f"/v1/events/{source}/private",
        "the metrics": "/metrics",
    }
    return {name: text_of(base + path, site.token) for name, path in paths.items()}


def text_of(url: str, token: str) -> str:
    asked = urllib.request.Request(url, headers=bearer(token))
    deadline = time.monotonic() + 3 * PATIENCE_S
    while True:
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=30) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            told_to_wait = error.headers["Retry-After"]
            if error.code != 503 or told_to_wait is None or time.monotonic() > deadline:
                msg = f"{url}: {error.code} {error.read().decode()}"
                raise AssertionError(msg) from None
            time.sleep(float(told_to_wait))  # as every client is to


def files_below(folder: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("mode", "shown"), [("hashed", None), ("masked", "z***@example.com")])
def test_nothing_that_a_worker_leaves_behind_names_a_recipient_of_a_masked_or_hashed_audit(
    mode: str, shown: str | None, site: Site, mailbox: Any
) -> None:
    tenant(site, mailbox, RECIPIENTS=mode, HASH_KEY=KEY)
    site.env_extra["POSTBOTE_RETRY_FIRST_WAIT_S"] = "0.3"
    mailbox.refuse(ZEBEDEE, f"550 5.1.1 <{ZEBEDEE.upper()}> zebedee.quirk is unknown, ask {QUENTIN}")
    mailbox.refuse(QUENTIN, f"450 4.2.0 {QUENTIN}: greylisted")
    event = make_event(ZEBEDEE, QUENTIN, OPHELIA, id="private", scope=SCOPE)
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(event, make_event(OPHELIA, id="nowhere"))
        reader = site.reader(running)
        for outcome in ("refused", "deferred", "accepted"):
            reader.wait_for(1, eventid="private", outcome=outcome)
        reader.wait_for(1, eventid="nowhere")
        source = event["source"].replace("/", "%2F")
        seen = answers_of(site, running.base_url, source)
        (found,) = reader.wait_for(1, recipient=ZEBEDEE.upper())
        assert len(reader.wait_for(1, recipient=OPHELIA, outcome="accepted")) == 1
        assert running.terminate() == 0
        seen |= {"the log": "\n".join(running.lines)}
    seen |= {"the indices": everything_in(site), "the journal": files_below(site.folder / "journal")}
    seen["the command"] = site.run("audit", "search", "--recipient", ZEBEDEE, "--json")
    seen["the table"] = site.run("audit", "search", "--recipient", QUENTIN)
    seen["the story by command"] = site.run("audit", "story", "--id", "private")
    named = {
        place: name
        for place, text in seen.items()
        for name in ("zebedee", "quentin", "ophelia", "quirk")
        if name in text.replace(f"filter.recipient={ZEBEDEE}", "").lower()
    }
    assert named == {}
    keyed_hash = Privacy(RecipientMode.HASHED, KEY.encode()).hash_of(ZEBEDEE)
    assert (found["recipient_hash"], found.get("recipient")) == (keyed_hash, shown)
    masked_in = {place for place, text in seen.items() if f"{ZEBEDEE[0]}***@" in text}
    assert masked_in == (set() if shown is None else MASKED_IN)
    assert all(found["recipient_hash"] in seen[place] for place in ("the indices", "the audit", "the story"))
    assert found["reply"]["text"].endswith("<recipient> <recipient> is unknown, ask <address>")
    assert [mail["Delivered-To"] for mail in mailbox.wait_for(1)] == [OPHELIA]
    assert site.run("audit", "verify", "--since", "1h")


def test_a_redelivered_event_of_a_hashed_audit_is_known_and_not_sent_again(site: Site, mailbox: Any) -> None:
    """Also one that was recorded in plain, before the mode was another."""
    tenant(site, mailbox, HASH_KEY=KEY)
    event = make_event(OPHELIA, id="once", scope=SCOPE)
    for mode, words in (("plain", None), ("hashed", "event is recorded already: nothing left to send")):
        site.env_extra["POSTBOTE_AUDIT_RECIPIENTS"] = mode
        with site.worker() as running:
            running.wait_for("consuming")
            publish_suspect(site, event)
            site.reader(running).wait_for(1, eventid="once")
            if words is not None:
                running.wait_for(words)
            assert running.terminate() == 0
    assert len(mailbox.wait_for(1)) == 1


def publish_suspect(site: Site, event: dict[str, Any]) -> None:
    """As the broker brings back an event that was delivered before without an end."""
    from tests.support.events import body_of
    from worker.delivery.progress import SUSPECT, Progress
    from worker.rabbit import topology
    from worker.rabbit.publisher import open_publisher

    headers = Progress(suspect=True).headers()
    assert SUSPECT in headers

    async def send() -> None:
        async with open_publisher(site.amqp_url) as publisher:
            await publisher.publish(
                topology.EVENTS_EXCHANGE,
                topology.routing_key(topology.Lane.TRANSACTIONAL, "test"),
                body_of(event),
                content_type="application/cloudevents+json",
                headers=headers,
            )

    asyncio.run(send())


def test_a_forgotten_address_is_in_no_record_and_the_chain_still_holds(site: Site, mailbox: Any) -> None:
    tenant(site, mailbox)
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(make_event(ZEBEDEE, id="before-the-key", scope=SCOPE))
        site.reader(running).wait_for(1)
        assert running.terminate() == 0
    command = ("audit", "forget", "--recipient", ZEBEDEE.upper())
    keyless = run_postbote(*command, "--yes", env=site.env)
    assert keyless.returncode == 2
    assert "POSTBOTE_AUDIT_HASH_KEY" in keyless.stderr

    site.env_extra["POSTBOTE_AUDIT_HASH_KEY"] = KEY
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(*(make_event(ZEBEDEE, QUENTIN, id=f"keyed-{n}", scope=SCOPE) for n in range(3)))
        site.reader(running).wait_for(7)
        assert running.terminate() == 0
    unasked = run_postbote(*command, env=site.env)
    assert (unasked.returncode, "confirm with --yes" in unasked.stderr) == (2, True)
    counted = run_postbote(*command, "--dry-run", "--json", env=site.env)
    assert counted.returncode == 1
    assert without_hash(counted.stdout) == {"dry_run": True, "rewritten": 3, "unprovable": 1, "contested": 0}
    done = run_postbote(*command, "--yes", env=site.env)
    assert done.returncode == 1
    assert "3 records rewritten" in done.stdout
    assert "1 record left" in done.stderr
    assert site.run("audit", "verify", "--since", "1h")
    found = records_of(site.run("audit", "search", "--recipient", ZEBEDEE, "--json"))
    assert {r["event_id"] for r in found} == {"before-the-key", "keyed-0", "keyed-1", "keyed-2"}
    assert [r["event_id"] for r in found if "recipient" in r] == ["before-the-key"]

    assert run_postbote(*command, "--yes", "--unprovable", env=site.env).returncode == 0
    assert "zebedee" not in everything_in(site).lower()
    assert site.run(*command, "--yes").startswith("0 records rewritten")
    assert run_postbote("audit", "verify", "--since", "1h", env=site.env).returncode == 1
    deeds = records_of(site.run("audit", "search", "--type", "audit.changed", "--json"))
    assert [(d["action"], d["subject"]) for d in deeds] == [("forgotten", found[0]["recipient_hash"])] * 2


def test_the_embedded_form_forgets_by_the_same_command(tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path / "audit.db"))
    env = {"POSTBOTE_DATA_DIR": str(tmp_path), "POSTBOTE_AUDIT_HASH_KEY": KEY}
    command = ("audit", "forget", "--recipient", ZEBEDEE, "--yes", "--embedded")
    done = run_postbote(*command, "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert without_hash(done.stdout) == {"dry_run": False, "rewritten": 3, "unprovable": 0, "contested": 0}
    assert "zebedee" not in files_below(tmp_path)
    found = run_postbote("audit", "search", "--since", "1000d", "--recipient", ZEBEDEE, "--json", "--embedded", env=env)
    assert len(records_of(found.stdout)) == 3
    verified = run_postbote("audit", "verify", "--since", "1000d", "--embedded", env=env)
    assert verified.returncode == 0, verified.stdout + verified.stderr


async def fill(path: Path) -> None:
    audit = await SqliteAudit(path).open()
    sealed = SealedAudit(audit, Chain("w/1"), privacy=Privacy(RecipientMode.PLAIN, KEY.encode()))
    await sealed.write([audit_record(number, recipient=ZEBEDEE) for number in range(3)])
    await sealed.close()
    await audit.close()


def without_hash(line: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(line).items() if name != "recipient_hash"}


def records_of(lines: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in lines.splitlines()]
