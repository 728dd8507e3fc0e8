"""The audit's endpoints over a real OpenSearch and over the embedded file: nobody finds a foreign record, whatever they ask."""

import csv
import io
import json

import httpx
import pytest

from tests.control.shipping.shipping_samples import change_record
from tests.support.gates import as_, gate, principal_of
from tests.unit.audit.audit_samples import audit_record
from worker.api.audit_log import AuditDesk, audit_router
from worker.api.ops_audit_log import ops_audit_router
from worker.api.server import make_application

SCOPES = [(None, None), ("acme", None), ("acme", "dev"), ("acme", "prod"), ("globex", None), ("globex", "dev")]
WHO = [
    "viewer@controller",
    "viewer@partner:acme",
    "admin@org:acme/dev",
    "viewer@org:globex/dev",
    "admin@partner:not-there",
]
PATHS = ["/event/v1/auditlog?{}", "/opsauditlogs/?{}", "/opsauditlogs?{}"]

HOSTILE = [
    *("org=*", "partner=*", "org=?", "partner=globe?", "org=d*v", "partner=*:*", "org=.*", "org=%25", "partner=_all"),
    *(
        "partner=acme%20OR%20partner:globex",
        "org=dev%20AND%20NOT%20x",
        "partner=globex%22%7D%7D",
        "partner=%7B%22match_all%22:%7B%7D%7D",
    ),
    *(
        "partner=acme,globex",
        "partner=acme%2Cglobex",
        "partner=acme%26filter.partner%3Dglobex",
        "partner=acme%00",
        "partner=acme%0Aglobex",
    ),
    *(
        "partner=acme%2Fdev",
        "org=acme%2Fdev",
        "org=dev%3Borg%3Dprod",
        "org=dev;org=prod",
        "partner=acme%252Cglobex",
        "org=%2e%2e",
    ),
    *(
        "partner=acme&partner=globex",
        "org=dev&org=prod",
        "partner=globex&partner=acme",
        "org=&org=prod",
        "partner=&org=",
    ),
    *(
        "org[]=prod",
        "partner[]=globex",
        "org[0]=prod",
        "org.keyword=prod",
        "partner.keyword=globex",
        "Partner=globex",
        "PARTNER=globex",
    ),
    *(
        "partner=%D0%B0cme",
        "partner=acm%D0%B5",
        "partner=ACME",
        "partner=acme%E2%80%8B",
        "partner=%EF%BD%81cme",
        "partner=%C0%AF",
        "org=%FF",
    ),
    *(
        "partner=globex",
        "org=prod",
        "partner=globex&org=dev",
        "partner=acme&org=dev",
        "partner=acme&org=prod",
        "org=dev",
        "partner=null",
    ),
    *(
        "type=*",
        "type=smtp_config.changed",
        "type=email.delivery",
        "category=*",
        "recipient=*",
        "eventid=*",
        "source=/billing",
        "outcome=*",
    ),
    *(
        "eventid=globex-dev",
        "recipient=globex-dev@example.org",
        "config=*",
        "config=default",
        "config_scope=controller",
        "_id=1",
    ),
    *(
        "q=partner:globex",
        "query=*",
        "size=1000",
        "index=*",
        "scope=controller",
        "offset=-1",
        "limit=1000000",
        "limit=1e3",
        "sort=partner",
    ),
    *("timefrom=now-100y", "timefrom=%2A", "timeto=9999999999999999", "timefrom=now-1h%7C%7C/d", "timefrom[gte]=0"),
    *(
        f"partner={'a' * 513}",
        f"org={'*' * 20_000}",
        f"{'x' * 20_000}=1",
        "&".join(["org=dev"] * 500),
        "&" * 1000,
        "=",
        "=x",
        "%",
        "partner",
    ),
    *(
        "domain=globex-dev",
        "domain=example.org&limit=1000",
        "domain=*",
        "domain=%40example.org",
        "domain=a%40example.org",
        "domain=%00",
        "text=*&timefrom=2025-11-21T00:00:00Z",
        "text=*:*&timefrom=2025-11-21T00:00:00Z",
        "text=queued&limit=1000&timefrom=2025-11-21T00:00:00Z",
        "text=queued%20OR%20partner:globex&timefrom=2025-11-21T00:00:00Z",
        "text=partner:globex&timefrom=2025-11-21T00:00:00Z",
        "text=_all&timefrom=2025-11-21T00:00:00Z",
        "text=%22&timefrom=2025-11-21T00:00:00Z",
        "text=(&timefrom=2025-11-21T00:00:00Z",
        "text=%7B%22match_all%22:%7B%7D%7D&timefrom=2025-11-21T00:00:00Z",
        f"text={'a%20' * 120}",
        "text=queued&config=default&limit=1000&timefrom=2025-11-21T00:00:00Z",
    ),
    *(
        "code=2xx&limit=1000",
        "code=*",
        "code=xxx",
        "code=250%20OR%20*",
        "code=[200%20TO%20599]",
        "code=-1",
        "code=%D9%A2%D9%A5%D9%A0",
        "enhanced=2&limit=1000",
        "enhanced=*",
        "enhanced=2.%2A",
        "enhanced=2.0.0.0",
        "duplicate=*",
        "duplicate=false&limit=1000",
        "duplicate=1",
        "duplicate=True",
    ),
    *(
        "outcome=accepted,refused&limit=1000",
        "outcome=,",
        "outcome=accepted,*",
        "sort=time&limit=1000",
        "sort=-time,partner",
        "sort=_id",
        "sort=%7B%22_script%22:%7B%7D%7D",
        "sort=time&sort=-time",
        "cursor=",
        "cursor=*",
        "cursor=../../_search/point_in_time/_all",
        "cursor=%00",
        f"cursor={'A' * 17_000}",
        "cursor=gAAAAABm" + "A" * 92,
        "cursor=_all&partner=globex",
    ),
    *(
        "format=csv",
        "format=ndjson",
        "format=ndjson&partner=globex",
        "format=ndjson&org=*",
        "format=ndjson&text=queued",
        "format=ndjson&text=queued&timefrom=2025-11-21T00:00:00Z",
        "format=xml",
        "format=csv&format=ndjson",
        "format=csv&cursor=x",
    ),
    *("limit=1000", "&limit=1000", "?&limit=1000", "limit=1000#partner=globex"),
]


def as_params(hostile, path):
    """As one of the endpoints' spellings, with each name that could be a filter under its prefix."""
    if not path.startswith("/event"):
        return hostile
    named = [part if part[:1] in {"", "?", "=", "%"} else f"filter.{part}" for part in hostile.split("&")]
    return "&".join(named)


@pytest.fixture(params=["opensearch", "sqlite"])
def audit(request):
    # Resolved by name, so that the embedded half needs no server.
    return request.getfixturevalue(f"over_{request.param}")


@pytest.fixture
async def client(audit):
    names = {scope: "-".join(part for part in scope if part) or "controller" for scope in SCOPES}
    await audit.write(
        *(
            audit_record(event_id=name, partner=p, org=o, recipient=f"{name}@example.org")
            for (p, o), name in names.items()
        )
    )
    await audit.write_changes(*(change_record(i, partner=p, org=o) for i, (p, o) in enumerate(SCOPES)))
    audit.make_visible()
    desk = AuditDesk(audit.searcher)
    routers = [audit_router(desk, gate()), ops_audit_router(desk, gate())]
    transport = httpx.ASGITransport(make_application(routers))
    async with httpx.AsyncClient(transport=transport, base_url="http://postbote") as opened:
        yield opened


def within(who, records):
    scope = principal_of(who).scope
    return all(
        scope.partner in {None, record.get("partner")} and scope.org in {None, record.get("org")} for record in records
    )


def records_of(answer):
    kind = answer.headers["content-type"].partition(";")[0]
    if kind == "application/x-ndjson":
        return [json.loads(line) for line in answer.text.splitlines()]
    if kind == "text/csv":
        rows = csv.DictReader(io.StringIO(answer.text, newline=""))
        return [{name: value or None for name, value in row.items()} for row in rows]
    return answer.json().get("records", [])


async def test_everybody_finds_what_is_theirs_and_nothing_else(client):
    found = {}
    for who in WHO:
        answers = [await client.get(path.format(""), params={}, headers=as_(who)) for path in PATHS]
        assert {answer.status_code for answer in answers} == {200}
        own = {"took_ms", "next"}  # of each answer: how long it took, and its sealed cursor
        pages = [{name: value for name, value in answer.json().items() if name not in own} for answer in answers]
        assert pages[0] == pages[1] == pages[2]
        assert within(who, pages[0]["records"])
        found[who] = pages[0]["total"]
    assert found == dict(zip(WHO, [12, 6, 2, 2, 0], strict=True))


async def test_no_filter_finds_a_foreign_record_or_breaks_anything(client):
    seen = 0
    for hostile in HOSTILE:
        for path in PATHS[:2]:
            for who in WHO:
                answer = await client.get(path.format(as_params(hostile, path)), headers=as_(who))
                # Of streams each scope has ten a minute.
                assert answer.status_code in ({200, 400, 429} if "format" in hostile else {200, 400}), (
                    hostile,
                    path,
                    who,
                    answer.text,
                )
                records = records_of(answer)
                assert within(who, records), (hostile, path, who)
                seen += len(records)
    assert seen > 100  # some of them are honest, so that the check above has something to check


@pytest.mark.parametrize("who", ["viewer@partner:acme", "viewer@org:acme/dev"])
async def test_there_is_no_difference_between_what_is_foreign_and_what_is_not_there(client, who):
    answers = [
        await client.get("/opsauditlogs/", params={"partner": partner, "org": org}, headers=as_(who))
        for partner, org in (("globex", "dev"), ("globex", "no-such"), ("no-such", "dev"))
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


async def test_a_tenant_sees_of_wider_records_only_that_they_were_used(client):
    mine = (await client.get("/opsauditlogs/", headers=as_("viewer@org:globex/dev"))).json()["records"]
    [mail], [change] = ([each for each in mine if name in each] for name in ("outcome", "actor"))
    assert mail["config"] == {"scope": "org:acme/dev"}  # the sample's: no scope of this one's
    assert change["actor"] == {"kind": "user", "name": "ann@acme.example", "scope": "partner:acme"}
