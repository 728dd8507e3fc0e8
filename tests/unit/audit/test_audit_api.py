"""``GET /event/v1/auditlog`` over an audit that answers by script."""

import httpx
import pytest
from fastapi import FastAPI

from schemas.audit import Outcome
from schemas.audit_query import AuditPage, parse_audit_query
from worker.api import audit_log
from worker.api.audit_log import audit_router
from worker.api.problem import problem
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
    application = FastAPI()
    application.include_router(audit_router(search))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://postbote") as opened:
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
    search.failure = AuditUnavailable("OpenSearch cannot be reached")
    answer = await client.get("/event/v1/auditlog")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["detail"] == "OpenSearch cannot be reached"
    assert "errors" not in answer.json()


async def test_every_filter_that_is_read_is_in_the_schema(client):
    schema = (await client.get("/openapi.json")).json()
    described = {parameter["name"] for parameter in schema["paths"]["/event/v1/auditlog"]["get"]["parameters"]}
    with pytest.raises(ValueError, match="known: ") as caught:
        parse_audit_query([("x", "y")], None)
    assert described == set(caught.value.message.partition("known: ")[2].split(", "))
    assert described == {f"filter.{name}" for name in audit_log._FILTERS}


def test_a_problem_keeps_its_headers_and_paths():
    answer = problem(409, "Conflict", "is newer", [("version", "is 3")], {"ETag": "3"})
    assert answer.status_code == 409
    assert answer.headers["etag"] == "3"
    assert answer.body == (
        b'{"type":"about:blank","title":"Conflict","status":409,"detail":"is newer",'
        b'"errors":[{"path":"version","message":"is 3"}]}'
    )
