"""``GET /event/v1/auditlog`` and ``GET /opsauditlogs/`` over an audit that answers by script."""

import httpx
import pytest

from schemas.audit import Outcome
from schemas.audit_query import AuditPage, parse_audit_query
from tests.support.gates import as_, gate
from worker.api.audit_log import FILTERS, AuditDesk, audit_router
from worker.api.ops_audit_log import ops_audit_router
from worker.api.problem import problem
from worker.api.server import make_application
from worker.errors import AuditUnavailable


class ScriptedSearch:
    def __init__(self):
        self.asked = []
        self.failure = None

    async def search(self, query):
        self.asked.append(query)
        if self.failure:
            raise self.failure
        return AuditPage(total=31, records=[{"outcome": "accepted"}], offset=query.offset, limit=query.limit, took_ms=4)


@pytest.fixture
def search():
    return ScriptedSearch()


@pytest.fixture
async def client(search):
    desk = AuditDesk(search)
    application = make_application([audit_router(desk, gate()), ops_audit_router(desk, gate())])
    transport = httpx.ASGITransport(application)
    headers = as_("viewer@controller")
    async with httpx.AsyncClient(transport=transport, base_url="http://postbote", headers=headers) as opened:
        yield opened


async def test_the_documented_request_is_answered(client, search):
    url = "/event/v1/auditlog?&filter.timefrom=now-1h&filter.offset=0&filter.limit=10&filter.category=SYSTEMAUDIT"
    answer = await client.get(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"total": 31, "offset": 0, "limit": 10, "took_ms": 4, "records": [{"outcome": "accepted"}]}
    assert search.asked[0].category == "SYSTEMAUDIT"


async def test_filters_reach_the_audit(client, search):
    await client.get("/event/v1/auditlog?filter.outcome=refused&filter.recipient=a%2Bb@example.org&filter.limit=3")
    assert (search.asked[0].outcome, search.asked[0].recipient, search.asked[0].limit) == (
        Outcome.REFUSED,
        "a+b@example.org",
        3,
    )


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("filter.colour=red", "filter.colour"),
        ("filter.org=a&filter.org=b", "filter.org"),
        ("filter.limit=0", "filter.limit"),
        ("filter.org=", "filter.org"),
    ],
)
async def test_a_wrong_filter_is_named_and_nothing_is_asked(client, search, query, path):
    answer = await client.get(f"/event/v1/auditlog?{query}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["type"], body["title"], body["status"]) == ("about:blank", "Invalid filter", 400)
    assert [error["path"] for error in body["errors"]] == [path]
    assert search.asked == []


async def test_an_audit_that_is_away_is_said_so(client, search):
    search.failure = AuditUnavailable("OpenSearch cannot be reached: audit.internal")
    answer = await client.get("/event/v1/auditlog")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["title"] == "Audit unavailable"
    assert "audit.internal" not in answer.text
    assert "errors" not in answer.json()


async def test_every_filter_that_is_read_is_in_the_schema(client):
    schema = (await client.get("/openapi.json")).json()
    described = {parameter["name"] for parameter in schema["paths"]["/event/v1/auditlog"]["get"]["parameters"]}
    with pytest.raises(ValueError, match="known: ") as caught:
        parse_audit_query([("x", "y")], None)
    assert described == set(caught.value.message.partition("known: ")[2].split(", "))
    assert described == {f"filter.{name}" for name in FILTERS}
    described = {parameter["name"] for parameter in schema["paths"]["/opsauditlogs/"]["get"]["parameters"]}
    assert described == set(FILTERS)


def test_a_problem_keeps_its_headers_and_paths():
    answer = problem(409, "Conflict", "is newer", [("version", "is 3")], {"ETag": "3"})
    assert answer.status_code == 409
    assert answer.headers["etag"] == "3"
    assert answer.body == (
        b'{"type":"about:blank","title":"Conflict","status":409,"detail":"is newer",'
        b'"errors":[{"path":"version","message":"is 3"}]}'
    )


@pytest.mark.parametrize("path", ["/opsauditlogs/?timefrom=now-7d&category=SYSTEMAUDIT", "/opsauditlogs?&limit=3"])
async def test_those_who_operate_leave_the_prefix_out(client, search, path):
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.json()["total"] == 31
    assert search.asked[0].category == ("SYSTEMAUDIT" if "category" in path else None)


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("filter.org=a", "filter.org"),
        ("org=a&org=b", "org"),
        ("limit=0", "limit"),
        ("timefrom=now&timeto=now-1h", "timefrom"),
        ("offset=9999&limit=1000", "offset"),
        ("org[]=a", "org[]"),
    ],
)
async def test_and_are_told_of_a_wrong_one_by_the_name_that_they_typed(client, search, query, path):
    answer = await client.get(f"/opsauditlogs/?{query}")
    assert answer.status_code == 400
    assert [error["path"] for error in answer.json()["errors"]] == [path]
    assert "filter." not in answer.json()["detail"].removeprefix("filter.org")
    assert search.asked == []


@pytest.mark.parametrize("path", ["/event/v1/auditlog", "/opsauditlogs/", "/opsauditlogs"])
@pytest.mark.parametrize("token", ["", "nobody", "viewer@nowhere"])
async def test_nobody_is_answered_without_a_principal(client, search, path, token):
    answer = await client.get(path, headers=as_(token))
    assert (answer.status_code, search.asked) == (401, [])


@pytest.mark.parametrize("path", ["/event/v1/auditlog?filter.", "/opsauditlogs/?"])
@pytest.mark.parametrize(
    ("who", "filters", "asked"),
    [
        ("viewer@partner:acme", "", ("acme", None)),
        ("viewer@partner:acme", "partner=acme", ("acme", None)),
        ("viewer@partner:acme", "org=dev", ("acme", "dev")),
        ("viewer@org:acme/dev", "", ("acme", "dev")),
        ("admin@org:acme/dev", "org=dev", ("acme", "dev")),
        ("viewer@controller", "partner=globex", ("globex", None)),
    ],
)
async def test_the_askers_scope_is_part_of_every_question(client, search, path, who, filters, asked):
    answer = await client.get(f"{path}{filters or 'limit=10'}", headers=as_(who))
    assert answer.status_code == 200
    assert (search.asked[0].partner, search.asked[0].org) == asked


@pytest.mark.parametrize("prefix", ["/event/v1/auditlog?filter.limit=7&filter.", "/opsauditlogs/?limit=7&"])
@pytest.mark.parametrize(
    ("who", "filters"),
    [
        ("viewer@partner:acme", "partner=globex"),
        ("viewer@partner:acme", "partner=not-there-at-all"),
        ("viewer@partner:acme", "partner=*"),
        ("viewer@partner:acme", "partner=ACME"),
        ("viewer@partner:acme", "partner=acme%20"),
        ("viewer@org:acme/dev", "partner=globex"),
        ("viewer@org:acme/dev", "org=prod"),
        ("viewer@org:acme/dev", "org=*"),
    ],
)
async def test_others_records_are_as_if_there_were_none(client, search, prefix, who, filters):
    answer = await client.get(f"{prefix}{filters}", headers=as_(who))
    assert answer.status_code == 200
    assert answer.json() == {"total": 0, "offset": 0, "limit": 7, "took_ms": 0, "records": []}
    assert search.asked == []


async def test_a_name_that_is_no_filter_is_not_repeated_without_end(client):
    answer = await client.get("/event/v1/auditlog", params={"x" * 20_000: "y"})
    assert answer.status_code == 400
    assert len(answer.content) < 2000
