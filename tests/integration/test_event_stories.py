"""The story of real mails through a real worker: deferred and then accepted, parked; and counted."""

import json
from itertools import pairwise
from typing import Any
from urllib.parse import quote

from tests.integration.conftest import Site
from tests.support.access import request, token_for
from tests.support.events import make_event

PARTNER = "partner@partner.test"


def test_a_mail_that_had_to_wait_and_a_parked_one_are_told_and_counted(site: Site, mailbox: Any) -> None:
    ca, password = str(mailbox.ca_file), mailbox.users[PARTNER]
    server = ("localhost", mailbox.port_starttls, "--username", PARTNER, "--tls", "starttls", "--ca-bundle", ca)
    site.configure("partner:acme", *server, password=password)
    site.env_extra["POSTBOTE_RETRY_FIRST_WAIT_S"] = "0.5"
    mailbox.refuse("slow@example.com", "450 4.2.0 Greylisted")
    waits = make_event("slow@example.com", "quick@example.com", id="waits", scope={"partner": "acme"})
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(waits, make_event("nobody@example.com", id="parked"))
        reader = site.reader(running)
        reader.wait_for(1, eventid="waits", outcome="deferred")
        url = f"{running.base_url}/v1/events/{quote(waits['source'], safe='')}"

        _, early, _ = request("GET", f"{url}/waits", site.token)
        assert early["where"]["state"] in {"waiting", "due"}
        assert {r["recipient"]: r["where"]["state"] for r in early["recipients"]}["quick@example.com"] == "done"

        mailbox.refuse("slow@example.com", None)
        reader.wait_for(2, eventid="waits", outcome="accepted")
        reader.wait_for(1, eventid="parked")
        told_in_full(request("GET", f"{url}/waits", site.token)[1])
        parked_for_want_of_a_record(request("GET", f"{url}/parked", site.token)[1])

        theirs, foreign = (token_for(site.env["POSTBOTE_DATABASE_URL"], f"partner:{p}") for p in ("acme", "globex"))
        assert request("GET", f"{url}/waits", theirs)[0] == 200
        hidden, missing = (request("GET", f"{url}/{name}", foreign) for name in ("waits", "no-such"))
        assert hidden[:2] == missing[:2]
        assert hidden[0] == 404

        _, counted, _ = request(
            "GET", f"{running.base_url}/v1/stats?by=partner&interval=1h&timefrom=now-1h", site.token
        )
        assert running.terminate() == 0
    assert counted["outcomes"]["accepted"] == 2
    assert counted["outcomes"]["unconfigured"] == 1
    assert (counted["groups"][0]["key"], counted["without"]) == ("acme", 1)
    assert sum(bucket["count"] for bucket in counted["buckets"]) == counted["total"]
    assert counted["percentiles"]["total_ms"]["count"] >= 3
    by_command(site)


def told_in_full(story: dict[str, Any]) -> None:
    assert (story["where"]["state"], story["scope"], story["complete"]) == ("done", "partner:acme", True)
    by_name = {r["recipient"]: r for r in story["recipients"]}
    slow = by_name["slow@example.com"]["attempts"]
    assert [each["attempt"] for each in slow] == list(range(1, len(slow) + 1))
    assert [each["outcome"] for each in slow] == [*["deferred"] * (len(slow) - 1), "accepted"]
    assert len(slow) > 1
    for before, after in pairwise(slow):
        assert before["reply"]["code"] == 450
        assert before["at"] < before["next_attempt_at"] <= after["at"]
    assert slow[-1]["reply"]["code"] == 250
    assert slow[-1]["config"]["scope"] == "partner:acme"
    assert slow[-1]["tls"]["verified"]
    assert slow[-1]["timings"]["total_ms"] > 0
    assert by_name["slow@example.com"]["took_ms"] > by_name["quick@example.com"]["took_ms"]


def parked_for_want_of_a_record(story: dict[str, Any]) -> None:
    assert (story["where"]["state"], story["where"]["outcome"]) == ("parked", "unconfigured")
    assert "no SMTP record" in story["where"]["reason"]
    assert story["where"]["derived_from"] == "records"


def by_command(site: Site) -> None:
    shown = site.run("audit", "story", "--id", "waits")
    for words in ("done: every recipient", "slow@example.com: done: accepted", "450 4.2.0", "TLSv1"):
        assert words in shown
    parked = json.loads(site.run("audit", "story", "--id", "parked", "--json"))
    assert parked["where"]["state"] == "parked"
    counted = site.run("audit", "stats", "--since", "1h", "--by", "outcome")
    assert "unconfigured" in counted
