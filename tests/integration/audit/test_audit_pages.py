"""Filters, order, pages by cursor and exports, over a real OpenSearch and over the embedded file."""

import asyncio
import csv
import io
import json
import resource
import socket
import tracemalloc
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from schemas.audit import ConfigUsed, Outcome, Reply
from schemas.audit_filters import Sort
from schemas.audit_query import AuditQuery, parse_audit_query
from tests.control.shipping.shipping_samples import change_record
from tests.support.gates import as_, gate
from tests.unit.audit.audit_samples import NOON, audit_record
from worker.api.audit_cursors import KEEP_S, Cursors
from worker.api.audit_export import Exports
from worker.api.audit_log import AuditDesk, audit_router
from worker.api.ops_audit_log import ops_audit_router
from worker.api.server import make_application, serving
from worker.audit.link import Call
from worker.control.audit_rows import COLUMNS
from worker.control.audit_walk import Walk
from worker.errors import AuditUnavailable, CursorExpired

MANY = 5_000
EXPORTED = 50_000
# One page of 1,000 records as OpenSearch sends it, as dictionaries and as lines is 18; a second one held makes it 24.
BOUND_MIB = 22
OPS = "/opsauditlogs/"


@pytest.fixture(params=["opensearch", "sqlite"])
def audit(request):
    # Resolved by name, so that the embedded half needs no server.
    return request.getfixturevalue(f"over_{request.param}")


class Desk:
    """The endpoints over an audit, with a clock of their own."""

    def __init__(self, audit, **options):
        self.now = 1_800_000_000.0
        desk = AuditDesk(audit.searcher, cursors=Cursors(b"shared", clock=lambda: self.now), **options)
        self.application = make_application([audit_router(desk, gate()), ops_audit_router(desk, gate())])
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.application), base_url="http://postbote")

    async def get(self, path=OPS, who="viewer@controller", **params):
        return await self.client.get(path, params=params, headers=as_(who))


@pytest.fixture
async def desk(audit):
    made = Desk(audit)
    yield made
    await made.client.aclose()


def used(scope, name="default"):
    return ConfigUsed(scope=scope, name=name, version=1, fingerprint="ab" * 8, host="smtp.example.org", port=587)


def found(records):
    return "".join(sorted(record["event_id"] for record in records if "event_id" in record))


SAMPLES = [
    {"event_id": "a", "recipient": "Ann.Lee@Example.ORG"},
    {
        "event_id": "b",
        "outcome": Outcome.REFUSED,
        "recipient": "bob@mx1.example.org",
        "config": used("org:acme/dev", "spare"),
        "reply": Reply(code=550, enhanced="5.1.1", text="5.1.1 <bob@mx1.example.org>: User unknown", phase="rcpt"),
        "reason": "no-such-recipient: the mailbox is not there",
    },
    {
        "event_id": "c",
        "outcome": Outcome.DEFERRED,
        "recipient": "eve@example.org.evil.test",
        "reply": Reply(code=451, enhanced="4.7.12", text="greylisted, come back; it's naïve Ok:queued", phase="rcpt"),
    },
    {
        "event_id": "d",
        "recipient": None,
        "outcome": Outcome.INVALID,
        "config": None,
        "reply": None,
        "reason": "data.to: is no mail address",
    },
    {
        "event_id": "e",
        "possible_duplicate": True,
        "recipient": '"odd@example.net"@example.org',
        "reply": Reply(code=250, enhanced="2.1.5", text="Ok user_unknown 4XyZ_1", phase="final"),
    },
    {
        "event_id": "f",
        "outcome": Outcome.EXHAUSTED,
        "reply": Reply(code=554, enhanced="5.7.1", text="* [x] (OR) \\"),
        "reason": "a b",
    },
]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("domain=example.org", "aef"),
        ("domain=EXAMPLE.org", "aef"),
        ("domain=@example.org", "aef"),
        ("domain=mx1.example.org", "b"),
        ("domain=org", ""),
        ("domain=ample.org", ""),
        ("domain=*", ""),
        ("domain=example.net", ""),
        ("config=spare", "b"),
        ("code=550", "b"),
        ("code=5xx", "bf"),
        ("code=5XX", "bf"),
        ("code=55x", "bf"),
        ("code=45x", "c"),
        ("code=250", "ae"),
        ("code=421", ""),
        ("enhanced=5.1.1", "b"),
        ("enhanced=5.1", "b"),
        ("enhanced=5", "bf"),
        ("enhanced=4.7.1", ""),
        ("enhanced=4.7.12", "c"),
        ("enhanced=2", "ae"),
        ("duplicate=true", "e"),
        ("duplicate=false", "abcdf"),
        ("text=unknown", "b"),
        ("text=UNKNOWN user", "b"),
        ("text=mailbox unknown", "b"),  # one in the reason, the other in the reply
        ("text=unknown greylisted", ""),
        ("text=unkn", ""),
        ("text=unknown*", "b"),
        ("text=*known", ""),
        ("text=user OR greylisted", ""),
        ("text=NOT greylisted", ""),
        ("text=_exists_:reply", ""),
        ('text="user unknown"', "b"),
        ("text=5.1.1", "b"),
        ("text=5.1", ""),
        ("text=user_unknown", "e"),
        ("text=example.org mx1", "b"),
        ("text=example", ""),
        ("text=it's NAÏVE", "c"),
        ("text=ok:queued", "c"),
        ("text=mail address", "d"),
        ("text=or x", "f"),
        ("outcome=refused", "b"),
        ("outcome=refused,deferred,refused", "bc"),
        ("outcome=accepted&duplicate=true", "e"),
        ("type=email.delivery", "abcdef"),
        ("type=smtp_config.changed", ""),
        ("code=5xx&enhanced=5.1&text=user&domain=mx1.example.org&config=spare&outcome=refused,expired", "b"),
    ],
)  # fmt: skip
async def test_every_filter_finds_what_it_says(audit, asked, expected):
    await audit.write(*(audit_record(n, **sample) for n, sample in enumerate(SAMPLES)))
    await audit.write_changes(change_record(1))
    query = parse_audit_query([tuple(pair.split("=", 1)) for pair in asked.split("&")], NOON, prefix="")
    page = await audit.search(query)
    assert found(page.records) == expected
    if "type=smtp" not in asked:
        assert page.total == len(expected)


TENANTS = [
    {"event_id": "o", "config": used("org:acme/dev", "relay"), "reply": Reply(code=550, text="own words", phase="rcpt")},
    {"event_id": "p", "config": used("partner:acme", "relay"), "reply": Reply(code=550, text="own words", phase="rcpt")},
    {"event_id": "h", "config": used("controller", "relay"), "reply": Reply(code=550, text="own words", phase="rcpt")},
    {"event_id": "q", "config": used("partner:acmeco", "relay"), "reply": Reply(code=550, text="own words", phase="rcpt")},
    {"event_id": "n", "config": None, "reply": None, "reason": "own words"},
    {
        "event_id": "u",
        "config": used("org:acme/dev"),
        "reason": "host-not-found: own words",
        "reply": Reply(text="own words", phase="resolve"),
    },
    {
        "event_id": "t",
        "config": used("org:acme/dev"),
        "reason": "timed-out: own words",
        "reply": Reply(text="own words", phase="connect"),
    },
]  # fmt: skip


@pytest.mark.parametrize(
    ("who", "by_text", "by_config"),
    [
        ("viewer@controller", "hnopqtu", "hopq"),
        ("viewer@partner:acme", "op", "op"),
        ("viewer@org:acme/dev", "o", "o"),
    ],
)
async def test_a_tenant_finds_by_words_and_names_only_what_it_is_shown(audit, desk, who, by_text, by_config):
    await audit.write(*(audit_record(n, **sample) for n, sample in enumerate(TENANTS)))
    audit.make_visible()
    assert found((await desk.get(who=who, limit=100)).json()["records"]) == "hnopqtu"
    in_time = {"text": "own words", "timefrom": NOON.isoformat()}
    for asked, expected in ((in_time, by_text), ({"config": "relay"}, by_config)):
        answers = [
            await desk.get(who=who, limit=100, **asked),
            await desk.get("/event/v1/auditlog", who, **{f"filter.{name}": value for name, value in asked.items()}),
            await desk.get(who=who, format="ndjson", **asked),
        ]
        assert [found(answer.json()["records"]) for answer in answers[:2]] == [expected] * 2
        assert answers[0].json()["total"] == len(expected)
        assert found(map(json.loads, answers[2].text.splitlines())) == expected


@pytest.mark.parametrize("sort", Sort)
async def test_both_orders_are_total_and_follow_each_other_by_offset_and_by_cursor(audit, sort):
    await audit.write(
        *(audit_record(n, seconds=n // 20, event_id=f"{n % 7}", recipient=f"{n:02}@x.test") for n in range(60))
    )
    await audit.write_changes(*(change_record(n, timestamp=NOON, partner=f"p{n % 3}", version=1) for n in range(9)))
    whole = (await audit.search(AuditQuery(limit=100, sort=sort))).records
    times = [record["@timestamp"] for record in whole]
    assert times == sorted(times, reverse=sort is Sort.NEWEST)
    assert len(whole) == 69
    by_offset = [await audit.search(AuditQuery(limit=7, offset=offset, sort=sort)) for offset in range(0, 69, 7)]
    assert [record for page in by_offset for record in page.records] == whole
    assert await cursor_through(audit, AuditQuery(limit=7, sort=sort)) == whole
    assert await cursor_through(audit, AuditQuery(limit=7, sort=sort, offset=14)) == whole[14:]


async def cursor_through(audit, query):
    page = await audit.search(query)
    records, total = list(page.records), page.total
    while page.next is not None:
        page = await audit.search(AuditQuery(limit=query.limit, sort=query.sort, after=page.next))
        assert page.total == total
        records += page.records
    return records


async def test_records_that_are_equal_in_all_that_sorts_them_are_all_given_once(audit):
    """Two acceptances of one mail in one millisecond differ in their workers alone; so do addresses in their case."""
    await audit.write(*(audit_record(0, worker_id=f"w{n}", recipient="ann@x.test") for n in range(5)))
    await audit.write(*(audit_record(0, recipient=each) for each in ("Ann@x.test", "aNn@x.test", "ANN@x.test")))
    audit.make_visible()
    there = (await audit.search(AuditQuery(limit=20))).total
    for limit in (1, 2, 3):
        records = await cursor_through(audit, AuditQuery(limit=limit))
        assert len({json.dumps(record) for record in records}) == len(records) == there


@pytest.mark.parametrize("sort", ["-time", "time"])
async def test_pages_by_cursor_have_no_gap_and_no_repeat_while_records_arrive(audit, desk, sort):
    for start in range(0, MANY, 1000):
        await audit.write(*(audit_record(n, seconds=n // 3, event_id=f"first-{n}") for n in range(start, start + 1000)))
    audit.make_visible()
    seen, cursor, arrived = [], {}, 0
    while cursor is not None:
        answer = await desk.get(sort=sort, limit=499, domain="example.org", **cursor)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["total"] == MANY
        seen += [record["event_id"] for record in body["records"]]
        cursor = {"cursor": body["next"]} if "next" in body else None
        # Before, among and behind what is being read.
        offsets = (-5, arrived * 100 + 0.5, MANY)
        await audit.write(*(audit_record(0, seconds=at, event_id=f"late-{arrived}-{at}") for at in offsets))
        audit.make_visible()
        arrived += 1
    early = [event_id for event_id in seen if event_id.startswith("first-")]
    assert sorted(early) == sorted(f"first-{n}" for n in range(MANY))
    assert arrived == 11
    assert len(set(seen)) == len(seen)
    # What arrived between the first page and the second may be in it; nothing that came later is.
    assert all(event_id.startswith("late-0-") for event_id in set(seen) - set(early))


async def test_a_cursor_keeps_the_hour_that_the_first_page_meant(audit, desk):
    await audit.write(*(audit_record(n, seconds=n) for n in range(30)))
    audit.make_visible()
    asked = {"timefrom": NOON.isoformat(), "timeto": "now", "sort": "time"}
    first = (await desk.get(**asked, limit=10)).json()
    assert first["total"] == 30
    await audit.write(audit_record(timestamp=datetime.now(UTC), event_id="after the first page's now"))
    audit.make_visible()
    further = (await desk.get(**asked, limit=25, cursor=first["next"])).json()
    assert [r["event_id"] for r in first["records"] + further["records"]] == [f"event-{n}" for n in range(30)]
    assert "next" not in further


@pytest.mark.parametrize(
    ("who", "params", "status"),
    [
        ("viewer@partner:acme", {}, 200),
        ("admin@partner:acme", {}, 200),  # the same scope
        ("viewer@partner:globex", {}, 400),
        ("viewer@controller", {}, 400),
        ("viewer@org:acme/dev", {}, 400),
        ("viewer@partner:acme", {"org": "dev"}, 400),
        ("viewer@partner:acme", {"outcome": "refused"}, 400),
        ("viewer@partner:acme", {"sort": "time"}, 400),
        ("viewer@partner:acme", {"partner": "globex"}, 400),
        ("viewer@partner:acme", {"offset": "0"}, 400),
        ("viewer@partner:acme", {"format": "csv"}, 400),
    ],
)
async def test_a_cursor_is_good_for_its_scope_and_its_question_alone(audit, desk, who, params, status):
    await audit.write(*(audit_record(n, seconds=n, partner=p) for n in range(6) for p in ("acme", "globex")))
    audit.make_visible()
    first = (await desk.get(who="viewer@partner:acme", limit=2)).json()
    second = (await desk.get(who="viewer@partner:acme", limit=2, cursor=first["next"])).json()
    for cursor in (first["next"], second["next"]):
        answer = await desk.get(who=who, limit=2, cursor=cursor, **params)
        assert answer.status_code == status, answer.text
        assert all(record["partner"] == "acme" for record in answer.json().get("records", []))
        assert status == 200 or "globex" not in answer.text.replace("partner=globex", "")


def torn(cursor):
    middle = len(cursor) // 2
    return [
        cursor[:-1],
        cursor[1:],
        cursor[:middle] + ("A" if cursor[middle] != "A" else "B") + cursor[middle + 1 :],
        cursor + "A",
        cursor.swapcase(),
        "x",
        "*",
        "=" * 8,
        "a" * 5000,
        "{}",
        "../" * 8,
    ]


async def test_a_cursor_that_somebody_made_up_is_refused_before_the_audit_hears_of_it(audit, desk):
    await audit.write(*(audit_record(n) for n in range(4)))
    audit.make_visible()
    cursor = (await desk.get(limit=2)).json()["next"]
    for made_up in torn(cursor):
        answer = await desk.get(limit=2, cursor=made_up)
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, "cursor"), made_up


async def test_an_old_cursor_is_gone_and_says_to_begin_again(audit, desk):
    await audit.write(*(audit_record(n) for n in range(4)))
    audit.make_visible()
    cursor = (await desk.get(limit=2)).json()["next"]
    desk.now += KEEP_S
    assert (await desk.get(limit=2, cursor=cursor)).status_code == 200
    desk.now += 1
    answer = await desk.get(limit=2, cursor=cursor)
    assert (answer.status_code, answer.json()["title"]) == (410, "Cursor expired")
    assert "begin again" in answer.json()["detail"]


async def open_points(audit):
    answer = await audit.audit._link.request(Call("GET", "/_search/point_in_time/_all"))
    return len(answer["pits"])


async def test_a_point_in_time_that_opensearch_dropped_is_said_so_and_none_is_left_open(over_opensearch):
    audit = over_opensearch
    desk = Desk(audit)
    await audit.write(*(audit_record(n, seconds=n) for n in range(9)))
    audit.make_visible()
    before = await open_points(audit)
    first = (await desk.get(limit=3)).json()
    assert await open_points(audit) == before  # an ordinary page keeps nothing
    second = (await desk.get(limit=3, cursor=first["next"])).json()
    assert await open_points(audit) == before + 1
    page = await audit.search(AuditQuery(limit=3))
    following = (await audit.search(AuditQuery(limit=3, after=page.next))).next
    await audit.searcher.release(following)
    await audit.searcher.release(following)  # gone already
    with pytest.raises(CursorExpired, match="begin again"):
        await audit.search(AuditQuery(limit=3, after=following))
    third = (await desk.get(limit=3, cursor=second["next"])).json()
    assert "next" not in third
    assert await open_points(audit) == before
    answer = await desk.get(limit=3, cursor=second["next"])
    assert answer.status_code == 410
    await desk.client.aclose()


async def test_beginning_very_many_cursors_at_once_is_slowed_down(over_opensearch):
    desk = Desk(over_opensearch)
    await over_opensearch.write(*(audit_record(n) for n in range(4)))
    over_opensearch.make_visible()
    cursor = (await desk.get(limit=2)).json()["next"]
    answers = [await desk.get(limit=2, cursor=cursor) for _ in range(40)]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert int(next(a for a in answers if a.status_code == 429).headers["retry-after"]) >= 1
    assert (await desk.get(who="viewer@partner:acme", limit=2)).status_code == 200
    await desk.client.aclose()


CELLS = [
    ("=1+1", "'=1+1"),
    ("+49 30", "'+49 30"),
    ("-2", "'-2"),
    ("@SUM(A1)", "'@SUM(A1)"),
    ("\t=1", "'\t=1"),
    ("\r=1", "'\r=1"),
    ("\n=1", "'\n=1"),
    ("\uff1d1", "'\uff1d1"),
    ("5.1.1 =1", "5.1.1 =1"),
    ('a "quoted", cell\nof two lines', 'a "quoted", cell\nof two lines'),
    ("", ""),
    ("ünïcode ✓", "ünïcode ✓"),
]


@pytest.mark.parametrize(("text", "cell"), CELLS)
async def test_no_cell_of_a_csv_is_a_formula(audit, desk, text, cell):
    await audit.write(audit_record(event_id=f"id{text}", reason=text, reply=Reply(code=550, text=text), attempt=2))
    await audit.write_changes(change_record(1, subject=text or "x", changed=("=a", "b")))
    audit.make_visible()
    answer = await desk.get(format="csv")
    assert answer.headers["content-type"].startswith("text/csv; charset=utf-8")
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert answer.text.splitlines()[0] == ",".join(COLUMNS)
    mail, change = sorted(rows, key=lambda row: row["type"])
    assert (mail["reason"], mail["reply"], mail["attempt"], mail["code"]) == (cell, cell, "2", "550")
    assert (mail["event_id"], mail["action"]) == (f"id{text}", "")
    assert (change["subject"], change["changed"], change["outcome"]) == (cell or "x", "'=a b", "")


@pytest.mark.parametrize("path", [OPS, "/event/v1/auditlog"])
async def test_an_export_shows_of_each_record_what_the_asker_may_see(audit, desk, path):
    await audit.write(
        audit_record(event_id="own"),
        audit_record(
            event_id="house", config=used("controller", "secret-name"), reply=Reply(code=250, text="secret words")
        ),
        audit_record(event_id="foreign", partner="globex"),
    )
    audit.make_visible()
    for form in ("csv", "ndjson"):
        answer = await desk.get(path, "viewer@org:acme/dev", format=form)
        assert "own" in answer.text
        assert "house" in answer.text
        assert "foreign" not in answer.text
        assert "secret" not in answer.text
        assert answer.headers["cache-control"] == "no-store"
        assert (await desk.get(path, "viewer@partner:globex", format=form)).text.count("foreign") == 1


async def test_an_export_that_finds_nothing_or_may_find_nothing_is_empty(audit, desk):
    header = ",".join(COLUMNS) + "\r\n"
    for params in ({"recipient": "nobody@x.test"}, {"partner": "globex"}):
        assert (await desk.get(who="viewer@partner:acme", format="csv", **params)).text == header
        assert (await desk.get(who="viewer@partner:acme", format="ndjson", **params)).text == ""


@pytest.mark.parametrize(("most", "cut"), [(2500, False), (2499, True), (1000, True), (1, True)])
async def test_an_export_beyond_its_bound_says_so_in_its_last_line(audit, most, cut):
    desk = Desk(audit, exports=Exports(audit.searcher, most=most))
    await audit.write(*(audit_record(n, seconds=n) for n in range(2500)))
    audit.make_visible()
    lines = (await desk.get(format="ndjson")).text.splitlines()
    rows = list(csv.reader(io.StringIO((await desk.get(format="csv", sort="time")).text)))
    assert len(lines) == most + cut
    assert len(rows) == 1 + most + cut
    assert (json.loads(lines[-1]) == {"cut": True, "records": most}) is cut
    assert (rows[-1] == [f"# cut after {most} records: ask for less at once"]) is cut
    assert json.loads(lines[0])["event_id"] == "event-2499"
    assert rows[1][list(COLUMNS).index("event_id")] == "event-0"
    await desk.client.aclose()


async def loaded(audit, count):
    for start in range(0, count, 2500):
        await audit.write(*(audit_record(n, seconds=n / 10) for n in range(start, start + 2500)))
    audit.make_visible()


async def test_an_export_of_50_000_records_takes_the_memory_of_a_page(audit):
    desk = Desk(audit)
    await loaded(audit, EXPORTED)
    numbers = 0
    async with serving(desk.application, "127.0.0.1", 0) as port:
        tracemalloc.start()
        try:
            async with (
                httpx.AsyncClient(trust_env=False, timeout=60) as client,
                client.stream(
                    "GET", f"http://127.0.0.1:{port}{OPS}?format=ndjson", headers=as_("viewer@controller")
                ) as answer,
            ):
                async for line in answer.aiter_lines():
                    numbers += len(line) > 0
            peak_mib = tracemalloc.get_traced_memory()[1] / 2**20
        finally:
            tracemalloc.stop()
    print(
        f"{numbers} records, {peak_mib:.1f} MiB at most, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB RSS"
    )
    assert numbers == EXPORTED
    assert peak_mib < BOUND_MIB
    await desk.client.aclose()


class Counting:
    """Counts the pages that are asked for, and says when a walk has been let go."""

    def __init__(self, search):
        self._search = search
        self.pages = 0
        self.released = asyncio.Event()

    async def search(self, query):
        self.pages += 1
        return await self._search.search(query)

    async def release(self, after):
        await self._search.release(after)
        self.released.set()


async def test_a_client_that_goes_away_ends_the_export(audit):
    counting = Counting(audit.searcher)
    exports = Exports(counting)
    desk = Desk(audit, exports=exports)
    await loaded(audit, 20_000)
    async with serving(desk.application, "127.0.0.1", 0) as port:
        for _ in range(3):  # more than may run at once: each one's place is free again
            counting.released.clear()
            client = socket.create_connection(("127.0.0.1", port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(
                f"GET {OPS}?format=csv HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer viewer@controller\r\n\r\n".encode()
            )
            head = await asyncio.to_thread(client.recv, 400)
            assert b" 200 " in head
            client.close()
            async with asyncio.timeout(20):
                await counting.released.wait()
    assert counting.pages < 3 * 20
    await desk.client.aclose()


class BreaksOff(Counting):
    """An audit that is away from its third page on."""

    async def search(self, query):
        if self.pages == 2:
            raise AuditUnavailable("gone")
        return await super().search(query)


@pytest.mark.parametrize("form", ["csv", "ndjson"])
async def test_an_export_that_breaks_off_is_an_error_to_its_reader(over_sqlite, form):
    await loaded(over_sqlite, 5000)
    desk = Desk(over_sqlite, exports=Exports(BreaksOff(over_sqlite.searcher)))
    async with serving(desk.application, "127.0.0.1", 0) as port, httpx.AsyncClient(trust_env=False) as client:
        url = f"http://127.0.0.1:{port}{OPS}?format={form}"
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
            await client.get(url, headers=as_("viewer@controller"))
        assert (await client.get(url, headers=as_("viewer@controller"))).status_code == 503  # from its first page on
    await desk.client.aclose()


async def test_of_one_scope_two_exports_run_at_once(audit):
    desk = Desk(audit)
    await loaded(audit, 20_000)
    async with serving(desk.application, "127.0.0.1", 0) as port:
        url = f"http://127.0.0.1:{port}{OPS}?format=csv"
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            mine = as_("viewer@controller")
            async with client.stream("GET", url, headers=mine), client.stream("GET", url, headers=mine):
                third = await client.get(url, headers=mine)
                other = await client.get(url, headers=as_("viewer@org:acme/dev"))
    assert (third.status_code, other.status_code) == (429, 200)
    assert other.text.count("\n") == 20_001
    await desk.client.aclose()


async def test_a_walk_is_let_go_when_it_is_left(over_opensearch):
    audit = over_opensearch
    await loaded(audit, 5000)
    before = await open_points(audit)
    pages = Walk(audit.searcher, AuditQuery()).pages()
    await anext(pages)
    await anext(pages)
    assert await open_points(audit) == before + 1
    await pages.aclose()
    assert await open_points(audit) == before


async def test_a_range_of_time_bounds_a_walk(audit):
    await audit.write(*(audit_record(n, seconds=n) for n in range(2500)))
    audit.make_visible()
    query = AuditQuery(
        time_from=NOON + timedelta(seconds=100), time_to=NOON + timedelta(seconds=2199), sort=Sort.OLDEST
    )
    records = [record async for page in Walk(audit.searcher, query).pages() for record in page]
    assert [record["event_id"] for record in records] == [f"event-{n}" for n in range(100, 2200)]
