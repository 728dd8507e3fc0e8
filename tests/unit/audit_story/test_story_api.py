"""``GET /v1/events/…``: one event's story over the embedded audit, for whom it is theirs."""

from datetime import timedelta
from urllib.parse import quote

import httpx
import pytest

from schemas.audit import Outcome, Reply
from tests.support.gates import as_, gate
from tests.unit.audit.audit_samples import NOON, audit_record
from worker.api.events import events_router
from worker.api.server import make_application
from worker.api.stories import stories_router
from worker.embedded.audit import SqliteAudit
from worker.errors import AuditUnavailable

NAMES = [
    ("/billing", "e1"),
    ("https://app.example/billing?x=1#y", "e1"),
    ("urn:a:b", "a/b/c"),
    ("//", "/"),
    ("a b+c%2Fd", "é€%"),
    ("story", "e1"),
    (".", ".."),
    ("s", "story"),
]


@pytest.fixture
async def audit(tmp_path):
    opened = await SqliteAudit(tmp_path / "audit.db").open()
    yield opened
    await opened.close()


@pytest.fixture
async def client(audit):
    application = make_application([events_router(None, gate()), stories_router(audit, gate())])
    transport = httpx.ASGITransport(application)
    headers = as_("viewer@org:acme/dev")
    async with httpx.AsyncClient(transport=transport, base_url="http://postbote", headers=headers) as opened:
        yield opened


def path_of(source, event_id):
    return f"/v1/events/{quote(source, safe='')}/{quote(event_id, safe='')}"


@pytest.mark.parametrize(("source", "event_id"), NAMES)
async def test_an_event_is_found_by_its_name_whatever_is_in_it(client, audit, source, event_id):
    await audit.write([audit_record(event_source=source, event_id=event_id), audit_record(7)])
    by_name = await client.get("/v1/events/story", params={"source": source, "id": event_id})
    assert by_name.status_code == 200, by_name.text
    assert (by_name.json()["source"], by_name.json()["id"], by_name.json()["records"]) == (source, event_id, 1)
    if "." not in {source, event_id}:  # clients take these for folders
        by_path = await client.get(path_of(source, event_id))
        assert (by_path.status_code, by_path.json()) == (200, by_name.json())


@pytest.mark.parametrize("path", ["/v1/events//billing/e1", "/v1/events/%2fbilling/e1", "/v1/events/%2Fbilling/e1?&"])
async def test_slashes_of_a_source_need_not_be_encoded(client, audit, path):
    await audit.write([audit_record(event_id="e1")])
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["source"]) == (200, "/billing")


async def test_the_answer_is_the_whole_story(client, audit):
    deferred = audit_record(
        event_id="e1",
        outcome=Outcome.DEFERRED,
        reply=Reply(code=450, enhanced="4.2.0", text="4.2.0 busy", phase="rcpt"),
        next_attempt_at=NOON + timedelta(minutes=1),
        recipient="bob@example.org",
    )
    accepted = audit_record(event_id="e1", seconds=65, attempt=2, recipient="bob@example.org")
    await audit.write([accepted, deferred])
    told = (await client.get("/v1/events/%2Fbilling/e1")).json()
    assert (told["where"]["state"], told["where"]["derived_from"]) == ("done", "records")
    assert (told["scope"], told["time"], told["records"], told["complete"]) == (
        "org:acme/dev",
        "2025-11-21T12:00:00Z",
        2,
        True,
    )
    [bob] = told["recipients"]
    assert (bob["recipient"], bob["took_ms"], len(bob["attempts"])) == ("bob@example.org", 65_000, 2)
    assert bob["attempts"][0]["next_attempt_at"] == "2025-11-21T12:01:00Z"
    assert bob["attempts"][0]["reply"]["text"] == "4.2.0 busy"
    assert bob["attempts"][1]["config"]["host"] == "smtp.example.org"


FOREIGN = [("globex", "dev"), ("globex", None), ("acme", "prod"), ("acme", None), (None, None)]


@pytest.mark.parametrize("scope", ["", "?scope=org:globex/dev", "?scope=controller", "?scope=org:acme/dev"])
async def test_anothers_event_is_as_if_it_were_not_there(client, audit, scope):
    await audit.write([audit_record(event_id=f"of-{p}-{o}", partner=p, org=o) for p, o in FOREIGN])
    there = [await client.get(path_of("/billing", f"of-{p}-{o}") + scope) for p, o in FOREIGN]
    not_there = await client.get(path_of("/billing", "no-such") + scope)
    unknown_path = await client.get("/v1/no-such-path")
    assert {answer.status_code for answer in there} == {404}
    assert {(answer.content, answer.headers["content-type"]) for answer in (*there, not_there, unknown_path)} == {
        (not_there.content, "application/problem+json")
    }
    theirs = await client.get(path_of("/billing", "of-globex-dev"), headers=as_("viewer@partner:globex"))
    assert theirs.status_code == 200


async def test_of_events_of_one_name_each_is_told_its_own(client, audit):
    await audit.write([audit_record(event_id="e1", partner=p, org=o) for p, o in [("acme", "dev"), *FOREIGN]])
    mine = await client.get("/v1/events/%2Fbilling/e1")
    assert (mine.status_code, mine.json()["scope"], mine.json()["records"]) == (200, "org:acme/dev", 1)
    assert "globex" not in mine.text
    assert "prod" not in mine.text
    partner = await client.get("/v1/events/%2Fbilling/e1", headers=as_("viewer@partner:acme"))
    assert partner.status_code == 409
    assert [e["message"].split()[0] for e in partner.json()["errors"]] == [
        "org:acme/dev",
        "org:acme/prod",
        "partner:acme",
    ]
    for scope in ("controller", "partner:acme", "org:globex/dev"):
        headers = as_("viewer@controller")
        named = await client.get("/v1/events/%2Fbilling/e1", params={"scope": scope}, headers=headers)
        assert (named.status_code, named.json()["scope"], named.json()["records"]) == (200, scope, 1)


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("", "source"),
        ("source=/billing", "id"),
        ("source=&id=e1", "source"),
        ("id=e1&source=a&source=b", "source"),
        ("source=a&id=e1&partner=acme", "partner"),
        ("source=a&id=e1&scope=acme", "scope"),
        ("source=a&id=e1&scope=org:acme/*", "scope"),
        (f"{'x' * 20_000}=1", "x" * 100),
    ],
)
async def test_a_wrong_parameter_is_named(client, query, path):
    answer = await client.get(f"/v1/events/story?{query}")
    assert answer.status_code == 400
    assert [error["path"] for error in answer.json()["errors"]] == [path]
    assert len(answer.content) < 2000


HOSTILE = [
    *("*", "%", "%2A", "_all", "e*", "' OR 1=1 --", "%00", "%0A", "%0D%0A", "%FF", "%C0%AF", "%ED%A0%80", "%2e%2e"),
    *(
        "..%2f..",
        "e1%00",
        "%E2%80%A8",
        "%D0%B51",
        "a" * 20_000,
        "%2F" * 500,
        "{}",
        "{id}",
        "e1;x",
        "e1%3Fscope=controller",
    ),
    *("a/b/c/d", "", "/", "//", "%252F", "\\", "e1#f", "$ne", "%7B%22term%22:1%7D"),
]


@pytest.mark.parametrize("who", ["viewer@controller", "admin@partner:acme", "viewer@org:acme/dev"])
async def test_no_name_breaks_anything_or_finds_what_it_does_not_name(client, audit, who):
    await audit.write([audit_record(event_id="secret", partner=p, org=o) for p, o in FOREIGN])
    for hostile in HOSTILE:
        for url in (f"/v1/events/{hostile}/{hostile}", f"/v1/events/%2Fbilling/{hostile}", f"/v1/events/{hostile}/e1"):
            answer = await client.get(url, headers=as_(who))
            assert answer.status_code in {404, 405}, (url, answer.status_code)  # no folder is ever a page
        answer = await client.get(f"/v1/events/story?source={hostile}&id={hostile}", headers=as_(who))
        assert answer.status_code in {400, 404}, (hostile, answer.status_code)


@pytest.mark.parametrize("path", ["/v1/events/%2Fbilling/e1", "/v1/events/story?source=a&id=b"])
@pytest.mark.parametrize("token", ["", "nobody", "viewer@nowhere"])
async def test_nobody_is_answered_without_a_principal(client, path, token):
    assert (await client.get(path, headers=as_(token))).status_code == 401


async def test_an_audit_that_is_away_is_said_so(client, audit, monkeypatch):
    async def away(_query):
        raise AuditUnavailable("OpenSearch cannot be reached: audit.internal")

    monkeypatch.setattr(audit, "search", away)
    answer = await client.get("/v1/events/%2Fbilling/e1")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "audit.internal" not in answer.text


async def test_publishing_is_still_where_it_was(client):
    assert (await client.get("/v1/events")).status_code == 405
    assert (await client.post("/v1/events", content=b"{}", headers=as_("admin@org:acme/dev"))).status_code == 400
