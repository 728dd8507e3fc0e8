"""Pages that are asked for by time alone are the pages of the full order, however milliseconds are cut."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.audit_filters import MAX_DEPTH, Sort
from schemas.audit_query import AuditQuery, Continuation
from worker.audit.pages import first_page, further_page, page_body
from worker.audit.search_body import tie_of


class SortingServer:
    """Answers the bodies of pages as OpenSearch does: (millisecond, event) in any order, each with a number of Lucene."""

    def __init__(self, records):
        self.documents = [
            {"_id": f"{n}", "at": at, "doc": n, "_source": {"event_id": f"{event:03}"}}
            for n, (at, event) in enumerate(records)
        ]
        self.asked = []

    def _place(self, body, document):
        values = []
        for clause in body["sort"]:
            [(name, how)] = clause.items()
            value = {"@timestamp": document["at"], "_doc": document["doc"]}.get(name)
            if value is None and name == "event_id":
                value = document["_source"]["event_id"]
            elif value is not None and how["order"] == "desc":
                value = -value
            values.append(value if value is not None else "")
        return values

    async def ask(self, body):
        self.asked.append(body)
        bounds = [clause["range"]["@timestamp"] for clause in body["query"]["bool"]["filter"]]
        matching = [d for d in self.documents if all(self._admits(bound, d["at"]) for bound in bounds)]
        total = len(matching)
        if "sort" in body:
            matching.sort(key=lambda d: self._place(body, d))
        if "search_after" in body:
            after = [-v if n == 0 and self._newest(body) else v for n, v in enumerate(body["search_after"])]
            matching = [d for d in matching if self._place(body, d) > after]
        start, size = body.get("from", 0), body["size"]
        assert start + size <= MAX_DEPTH
        hits = [{**d, "sort": [d["at"], *self._place(body, d)[1:]]} for d in matching[start : start + size]]
        return {"took": 1, "timed_out": False, "hits": {"total": {"value": total}, "hits": hits}}

    @staticmethod
    def _newest(body):
        return body["sort"][0]["@timestamp"]["order"] == "desc"

    @staticmethod
    def _admits(bound, at):
        compared = {"gt": at.__gt__, "gte": at.__ge__, "lt": at.__lt__, "lte": at.__le__}
        return all(compared[name](value) for name, value in bound.items() if name != "format")

    def whole(self, sort):
        sign = -1 if sort is Sort.NEWEST else 1
        return sorted(self.documents, key=lambda d: (sign * d["at"], d["_source"]["event_id"], d["doc"]))


def ids(hits):
    return [hit["_id"] for hit in hits]


def places(hits):
    """What is promised of the order: time and event. Those that are equal in both may change places."""
    return [(hit["at"], hit["_source"]["event_id"]) for hit in hits]


RECORDS = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), max_size=40)
LIMITS, SORTS = st.integers(1, 12), st.sampled_from(list(Sort))


@given(RECORDS, LIMITS, SORTS)
@settings(max_examples=150, deadline=None)
async def test_pages_by_offset_are_the_full_order_in_pieces(records, limit, sort):
    server = SortingServer(records)
    found = []
    for offset in range(0, len(records) + 1, limit):
        page = await first_page(server.ask, AuditQuery(limit=limit, offset=offset, sort=sort))
        assert page.total == len(records)
        assert (page.next is None) == (offset + limit >= len(records))
        found += page.hits
    assert places(found) == places(server.whole(sort))


@given(RECORDS, LIMITS, SORTS, st.integers(0, 5))
@settings(max_examples=150, deadline=None)
@example([(1, 0)] * 3, 1, Sort.NEWEST, 1)  # the offset ends among records that nothing tells apart
async def test_pages_by_cursor_give_every_record_once_and_in_order(records, limit, sort, offset):
    server = SortingServer(records)
    query = AuditQuery(limit=limit, offset=offset, sort=sort)
    page = await first_page(server.ask, query)
    found, here = list(page.hits), page.next
    while here is not None:
        if here.snapshot is None:  # as a point in time is opened (see `cursors.opened`)
            among = (-1,) if len(here.position) > 1 else ()
            here = replace(here, snapshot="it", position=(*here.position, *among))
        page = await further_page(server.ask, query, here)
        assert len(page.hits) == limit or page.next is None
        found, here = [*found, *page.hits], page.next
    assert places(found) == places(server.whole(sort)[offset:])
    if offset == 0:
        assert sorted(ids(found)) == sorted(ids(server.documents))


@pytest.mark.parametrize("sort", Sort)
async def test_a_page_of_whole_milliseconds_is_one_request_by_time_alone(sort):
    server = SortingServer([(n // 2, n) for n in range(100)])
    first = await first_page(server.ask, AuditQuery(limit=10, sort=sort))
    assert (len(server.asked), len(first.next.position)) == (1, 1)
    await further_page(server.ask, AuditQuery(limit=10, sort=sort), replace(first.next, snapshot="it"))
    assert len(server.asked) == 2
    assert [len(body["sort"]) for body in server.asked] == [1, 1]


async def test_the_last_page_that_may_be_asked_for_asks_for_no_record_beyond():
    body = page_body(AuditQuery(offset=MAX_DEPTH - 10, limit=10))
    assert (body["from"], body["from"] + body["size"]) == (MAX_DEPTH - 11, MAX_DEPTH)
    assert page_body(AuditQuery(limit=10))["from"] == 0


async def test_a_place_that_an_older_version_sealed_is_gone_on_from():
    server = SortingServer([(1, n) for n in range(5)])
    whole = server.whole(Sort.NEWEST)
    position = (1, whole[1]["_source"]["event_id"], *[""] * 11, whole[1]["doc"])
    page = await further_page(server.ask, AuditQuery(limit=10), Continuation(position, "it", 5))
    assert ids(page.hits) == ids(whole[2:])


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"event_id": "a"}, {"event_id": "b"}),
        ({"event_id": "Z"}, {"event_id": "a"}),
        ({"event_id": "b"}, {}),
        ({"event_id": "a", "recipient": "Ann@x.test"}, {"event_id": "a", "recipient": "bob@x.test"}),
        ({"event_id": "a", "recipient": "ann@x.test"}, {"event_id": "a"}),
        ({"event_id": "a", "attempt": 2}, {"event_id": "a", "attempt": 1}),
        ({"event_id": "a", "attempt": 1}, {"event_id": "a"}),
        ({"event_id": "a"}, {"event_id": "z" * 1025}),
        ({"type": "t", "version": 3}, {"type": "t", "version": 2}),
        ({"event_id": "a"}, {"type": "t"}),
    ],
)
def test_records_of_one_millisecond_are_told_apart_as_opensearch_sorts_them(earlier, later):
    assert tie_of(earlier) < tie_of(later)
    assert tie_of({"recipient": "ANN@x.test"}) == tie_of({"recipient": "ann@x.test"})
