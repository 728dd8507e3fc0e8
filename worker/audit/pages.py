"""Pages in their full order, asked for by time alone.

To sort a million records by time costs OpenSearch 0.1 s; by time and all that tells records of one
millisecond apart, 13 s, since it looks up each record's event, recipient and so on that is newer than those before.
So a page is asked for by time, which says for certain which milliseconds it is made of, and with one record more
on either side. Those that stand in it whole are put in order here. One that the page's end cuts through is asked
for once more, by itself and in the full order: so no record is on two pages, or on none.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from schemas.audit_filters import MAX_DEPTH
from schemas.audit_query import AuditQuery, Continuation
from worker.audit.search_body import body_of, count_body, hits_of, sort_of, tie_of, within

Hit = dict[str, Any]
Ask = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Asks OpenSearch what the body says: a whole answer, or AuditUnavailable."""

_DOC: Mapping[str, Any] = {"_doc": {"order": "asc"}}  # Lucene's number, which a point in time keeps


@dataclass(frozen=True, slots=True)
class Page:
    """The hits of one page in order, what all of them are, the server's own time, and where it goes on.

    Without a point in time, which only who goes on needs.
    """

    hits: Sequence[Hit]
    total: int
    took_ms: int
    next: Continuation | None


def page_body(query: AuditQuery) -> dict[str, Any]:
    """The request for a page by offset: by time, with the record before it and the one behind it."""
    first = max(query.offset - 1, 0)
    size = min(query.offset + query.limit + 1, MAX_DEPTH) - first
    return {**body_of(query), "sort": sort_of(query)[:1], "from": first, "size": size, "track_total_hits": True}


def beyond_body(query: AuditQuery, milliseconds: int, size: int) -> dict[str, Any]:
    """The request for so many records behind a millisecond: by time alone, and uncounted."""
    # Not by a range: behind a place OpenSearch leaves out whole blocks of records that cannot be on the page.
    place = {"search_after": [milliseconds], "sort": sort_of(query)[:1]}
    return {**body_of(query), **place, "size": size, "track_total_hits": False}


async def first_page(ask: Ask, query: AuditQuery) -> Page:
    """The page at the query's offset. Raises AuditUnavailable."""
    answer = await ask(page_body(query))
    rows, total = hits_of(answer), int(answer["hits"]["total"]["value"])
    before = rows[: min(query.offset, 1)]
    page, behind = rows[len(before) :][: query.limit], rows[len(before) :][query.limit :]
    if not page or (query.offset and not before):
        return Page((), total, answer["took"], None)
    groups = _groups(page)
    last = _at(page[-1])
    more = query.offset + len(page) < total
    cut = more and (not behind or _at(behind[0]) == last)
    skipped = 0
    if before and _at(before[0]) == _at(page[0]):
        counted = await ask(count_body(query, _at(page[0])))
        skipped = query.offset - int(counted["hits"]["total"]["value"])
        groups[0] = await _group(ask, query, _at(page[0]), skipped, len(groups[0])) or groups[0]
    if cut and (len(groups) > 1 or "full" not in groups[0][0]):
        groups[-1] = await _group(ask, query, last, 0, len(groups[-1])) or groups[-1]
    found = [hit for group in groups for hit in group]
    if not more:
        return Page(found, total, answer["took"], None)
    if not cut:
        return Page(found, total, answer["took"], Continuation((last,), total=total))
    # Records that the offset passed over may stand at the very place where the page ends.
    passed = await _group(ask, query, last, 0, skipped) if skipped and len(groups) == 1 else []
    return Page(found, total, answer["took"], _cut_at([*passed, *groups[-1]], total))


async def further_page(ask: Ask, query: AuditQuery, here: Continuation) -> Page:
    """The page behind `here`, within its point in time. Raises AuditUnavailable, CursorExpired."""
    rest: list[Hit] = []
    took, here = 0, replace(here, position=tuple(here.position))
    if len(here.position) > 1:
        answer = await ask(_rest_body(query, here))
        took = answer["took"]
        rest = [hit for hit in hits_of(answer) if hit["_id"] not in here.shown]
        if len(rest) > query.limit:
            page = rest[: query.limit]
            return Page(page, here.total, took, _after(here, page[-1]["sort"]))
    wanted = query.limit - len(rest)
    answer = await ask(beyond_body(query, here.position[0], wanted + 1))
    rows, took = hits_of(answer), took + answer["took"]
    page, behind = rows[:wanted], rows[wanted:]
    groups = _groups(page)
    place = [_at(page[-1]) if page else here.position[0]]
    if page and behind and _at(behind[0]) == place[0]:
        groups[-1] = await _group(ask, query, place[0], 0, len(groups[-1]), (_DOC,)) or groups[-1]
        place = groups[-1][-1]["sort"]
    found = [*rest, *(hit for group in groups for hit in group)]
    return Page(found, here.total, took, _after(here, place) if behind else None)


def _after(here: Continuation, place: Sequence[Any]) -> Continuation:
    return replace(here, position=tuple(place), shown=())


def _cut_at(group: Sequence[Hit], total: int) -> Continuation:
    """Behind the last of a millisecond's records that is not all given; `shown` stand at the very place."""
    place = group[-1]["sort"]
    return Continuation(tuple(place), total=total, shown=tuple(hit["_id"] for hit in group if hit["sort"] == place))


def _rest_body(query: AuditQuery, here: Continuation) -> dict[str, Any]:
    found = body_of(query, within(here.position[0]))
    found |= {"sort": [*sort_of(query), _DOC], "search_after": list(here.position)}
    return found | {"size": query.limit + len(here.shown) + 1, "track_total_hits": False}


async def _group(
    ask: Ask, query: AuditQuery, at: int, skipped: int, size: int, ties: Sequence[Mapping[str, Any]] = ()
) -> list[Hit]:
    """`size` records of one millisecond, behind those `skipped`, in the full order."""
    found = body_of(query, within(at))
    found |= {"sort": [*sort_of(query), *ties], "from": skipped, "size": size, "track_total_hits": False}
    return [{**hit, "full": True} for hit in hits_of(await ask(found))]


def _groups(hits: Sequence[Hit]) -> list[list[Hit]]:
    """The records of each millisecond, in order."""
    return [_in_order(list(group)) for _, group in groupby(hits, key=_at)]


def _in_order(group: list[Hit]) -> list[Hit]:
    return group if len(group) == 1 else sorted(group, key=lambda hit: tie_of(hit["_source"]))


def _at(hit: Mapping[str, Any]) -> int:
    return int(hit["sort"][0])
