"""Reading the documented ``filter.*`` parameters."""

import contextlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.audit import Outcome
from schemas.audit_filters import CodeRange, Enhanced, Format, Sort
from schemas.audit_query import AuditQuery, AuditQueryError, epoch_ms, parse_audit_query, parse_audit_request

NOW = datetime(2025, 11, 21, 14, 35, 50, 123_456, tzinfo=UTC)  # a Friday


def at(text):
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("value", "earliest", "latest"),
    [
        ("now", "2025-11-21T14:35:50.123456Z", None),
        ("now-1h", "2025-11-21T13:35:50.123456Z", None),
        ("now-90s", "2025-11-21T14:34:20.123456Z", None),
        ("now-5m", "2025-11-21T14:30:50.123456Z", None),
        ("now-7d", "2025-11-14T14:35:50.123456Z", None),
        ("now-2w", "2025-11-07T14:35:50.123456Z", None),
        ("now-9M", "2025-02-21T14:35:50.123456Z", None),
        ("now-1y", "2024-11-21T14:35:50.123456Z", None),
        ("now+1d", "2025-11-22T14:35:50.123456Z", None),
        ("now-1d+2h", "2025-11-20T16:35:50.123456Z", None),
        ("now/s", "2025-11-21T14:35:50Z", "2025-11-21T14:35:50.999Z"),
        ("now/m", "2025-11-21T14:35:00Z", "2025-11-21T14:35:59.999Z"),
        ("now/h", "2025-11-21T14:00:00Z", "2025-11-21T14:59:59.999Z"),
        ("now/d", "2025-11-21T00:00:00Z", "2025-11-21T23:59:59.999Z"),
        ("now-7d/d", "2025-11-14T00:00:00Z", "2025-11-14T23:59:59.999Z"),
        ("now/w", "2025-11-17T00:00:00Z", "2025-11-23T23:59:59.999Z"),
        ("now/M", "2025-11-01T00:00:00Z", "2025-11-30T23:59:59.999Z"),
        ("now-1M/M", "2025-10-01T00:00:00Z", "2025-10-31T23:59:59.999Z"),
        ("now/y", "2025-01-01T00:00:00Z", "2025-12-31T23:59:59.999Z"),
        ("2025-11-20T10:00:00Z", "2025-11-20T10:00:00Z", None),
        ("2025-11-20T10:00:00.5+02:00", "2025-11-20T08:00:00.500Z", None),
        ("2025-11-20T10:00:00 02:00", "2025-11-20T08:00:00Z", None),  # a "+" that was not encoded
        ("2025-11-20T10:00-0530", "2025-11-20T15:30:00Z", None),
        ("1763647200", "2025-11-20T14:00:00Z", None),
        ("1763647200250", "2025-11-20T14:00:00.250Z", None),
        ("0", "1970-01-01T00:00:00Z", None),
    ],
)
def test_a_time_is_read(value, earliest, latest):
    query = parse_audit_query([("filter.timefrom", value)], NOW)
    assert query.time_from == at(earliest)
    query = parse_audit_query([("filter.timeto", value)], NOW)
    assert query.time_to == at(latest or earliest)


@pytest.mark.parametrize(
    ("now", "value", "expected"),
    [
        ("2025-03-31T12:00:00Z", "now-1M", "2025-02-28T12:00:00Z"),
        ("2024-03-31T12:00:00Z", "now-1M", "2024-02-29T12:00:00Z"),
        ("2024-02-29T12:00:00Z", "now-1y", "2023-02-28T12:00:00Z"),
        ("2025-01-15T12:00:00Z", "now-1M", "2024-12-15T12:00:00Z"),
        ("2025-12-15T12:00:00Z", "now+1M", "2026-01-15T12:00:00Z"),
        ("2025-11-21T01:30:00+02:00", "now/d", "2025-11-20T00:00:00Z"),
    ],
)
def test_the_calendar_is_kept_to_in_utc(now, value, expected):
    assert parse_audit_query([("filter.timefrom", value)], at(now)).time_from == at(expected)


@pytest.mark.parametrize(
    "value",
    [
        *("", "yesterday", "now-", "now-1", "now-1x", "now - 1h", "NOW", "now/", "now-1h/", "now//d", "-1", "1e9"),
        *("2025-11-20", "2025-11-20T10:00:00", "2025-13-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "١٢٣"),
        *("1969-12-31T23:59:59Z", "2200-01-01T00:00:00Z", "now-60y", "now-9999y", "now-999999y"),
        *("now+999999M", "now+999999w", "9" * 13, "9" * 15, "9" * 40, "9" * 5000),
    ],
)
def test_what_is_no_time_is_refused_under_its_own_name(value):
    for name in ("filter.timefrom", "filter.timeto"):
        with pytest.raises(AuditQueryError) as caught:
            parse_audit_query([(name, value)], NOW)
        assert caught.value.path == name


def test_the_documented_spelling_is_read():
    pairs = [
        ("", ""),  # from "?&"
        ("filter.timefrom", "now-1h"),
        ("filter.offset", "20"),
        ("filter.limit", "10"),
        ("filter.category", "SYSTEMAUDIT"),
        ("filter.type", "email.delivery"),
        ("filter.outcome", "in_doubt"),
        ("filter.partner", "acme"),
        ("filter.org", "dev"),
        ("filter.recipient", "Ann@example.org"),
        ("filter.eventid", "e-1"),
        ("filter.source", "/billing"),
        ("filter.timeto", "now"),
    ]
    assert parse_audit_query(pairs, NOW) == AuditQuery(
        time_from=NOW - timedelta(hours=1),
        time_to=NOW,
        offset=20,
        limit=10,
        category="SYSTEMAUDIT",
        type="email.delivery",
        outcome=Outcome.IN_DOUBT,
        partner="acme",
        org="dev",
        recipient="Ann@example.org",
        event_id="e-1",
        event_source="/billing",
    )


def test_the_other_filters_are_read_and_what_chooses_no_records_needs_no_prefix():
    pairs = [
        ("filter.outcome", "refused,accepted,refused"),
        ("filter.domain", "@Example.ORG"),
        ("filter.code", "5XX"),
        ("filter.enhanced", "5.1"),
        ("filter.duplicate", "false"),
        ("filter.text", "user unknown"),
        ("sort", "time"),
        ("filter.cursor", "abc"),
        ("format", "json"),
    ]
    read = parse_audit_request(pairs, NOW)
    assert read.query == AuditQuery(
        outcomes=(Outcome.ACCEPTED, Outcome.REFUSED),
        domain="example.org",
        code=CodeRange(500, 599),
        enhanced=Enhanced("5.1"),
        possible_duplicate=False,
        text="user unknown",
        sort=Sort.OLDEST,
    )
    assert (read.cursor, read.format) == ("abc", Format.JSON)
    assert set(read.question) == {"outcome", "domain", "code", "enhanced", "duplicate", "text", "sort"}


def test_no_filter_admits_all_ten_at_a_time():
    assert parse_audit_query([], NOW) == AuditQuery(limit=10)


@pytest.mark.parametrize(
    ("pairs", "path", "words"),
    [
        ([("filter.color", "red")], "filter.color", "known: filter.timefrom, filter.timeto"),
        ([("recipient", "a@b")], "recipient", "not a known filter"),
        ([("filter.Org", "dev")], "filter.Org", "not a known filter"),
        ([("", "x")], "", "not a known filter"),
        ([("filter.org", "a"), ("filter.org", "a")], "filter.org", "more than once"),
        ([("filter.limit", "0")], "filter.limit", "from 1 to 1000"),
        ([("filter.limit", "1001")], "filter.limit", "from 1 to 1000"),
        ([("filter.limit", "ten")], "filter.limit", "whole number"),
        ([("filter.limit", "1.0")], "filter.limit", "whole number"),
        ([("filter.limit", "+1")], "filter.limit", "whole number"),
        ([("filter.limit", "1_0")], "filter.limit", "whole number"),
        ([("filter.limit", "9" * 5000)], "filter.limit", "whole number"),
        ([("filter.offset", "-1")], "filter.offset", "whole number"),
        ([("filter.offset", "9999")], "filter.offset", "beyond record 10000"),
        ([("filter.offset", "9001"), ("filter.limit", "1000")], "filter.offset", "beyond record 10000"),
        ([("filter.outcome", "sent")], "filter.outcome", "known: accepted, refused"),
        ([("filter.outcome", "ACCEPTED")], "filter.outcome", "known: accepted"),
        ([("filter.org", "")], "filter.org", "is empty"),
        ([("filter.recipient", "a\r\nb")], "filter.recipient", "control character"),
        ([("filter.recipient", "a" * 513)], "filter.recipient", "longer than 512"),
        ([("filter.timefrom", "now"), ("filter.timeto", "now-1h")], "filter.timefrom", "later than filter.timeto"),
        ([("filter.timefrom", "2025-11-20T10:00:00")], "filter.timefrom", "has no zone"),
        ([("filter.outcome", "accepted,sent")], "filter.outcome", "known: accepted, refused"),
        ([("filter.outcome", "accepted,")], "filter.outcome", "known: accepted"),
        ([("filter.domain", "ann@x.test")], "filter.domain", "behind the @"),
        ([("filter.domain", "@")], "filter.domain", "behind the @"),
        ([("filter.code", "6xx")], "filter.code", "such as 550"),
        ([("filter.code", "5x0")], "filter.code", "such as 550"),
        ([("filter.code", "5500")], "filter.code", "such as 550"),
        ([("filter.enhanced", "3.1.1")], "filter.enhanced", "such as 5.1.1"),
        ([("filter.enhanced", "5.")], "filter.enhanced", "such as 5.1.1"),
        ([("filter.enhanced", "5.1.1.1")], "filter.enhanced", "such as 5.1.1"),
        ([("filter.duplicate", "yes")], "filter.duplicate", "true or false"),
        ([("filter.text", "*?")], "filter.text", "no wildcards"),
        ([("filter.text", "a " * 17)], "filter.text", "more than 16 words"),
        ([("filter.sort", "time,id")], "filter.sort", "expected one of: -time, time"),
        ([("sort", "time"), ("filter.sort", "time")], "filter.sort", "more than once"),
        ([("format", "xml")], "format", "expected one of: json, csv, ndjson"),
        ([("cursor", "")], "cursor", "is no cursor"),
        ([("cursor", "x"), ("filter.offset", "0")], "filter.offset", "does not go with a cursor"),
        ([("cursor", "x"), ("format", "csv")], "format", "does not go with a cursor"),
        ([("format", "csv"), ("filter.limit", "5")], "filter.limit", "does not go with a stream"),
        ([("format", "ndjson"), ("filter.offset", "5")], "filter.offset", "does not go with a stream"),
    ],
)
def test_a_wrong_question_names_its_parameter(pairs, path, words):
    with pytest.raises(AuditQueryError) as caught:
        parse_audit_query(pairs, NOW)
    assert caught.value.path == path
    assert words in caught.value.message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("offset", "limit"), [(0, 1), (9000, 1000), (9999, 1)])
def test_the_deepest_pages_are_allowed(offset, limit):
    query = parse_audit_query([("filter.offset", str(offset)), ("filter.limit", str(limit))], NOW)
    assert (query.offset, query.limit) == (offset, limit)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["filter.timefrom", "filter.limit", "filter.outcome", "x"]), st.text(max_size=12)),
        max_size=3,
    )
)
def test_whatever_is_asked_is_read_or_refused(pairs):
    with contextlib.suppress(AuditQueryError):
        assert isinstance(parse_audit_query(pairs, NOW), AuditQuery)


@settings(max_examples=60, deadline=None)
@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2198, 1, 1), timezones=st.just(timezone(timedelta(hours=-7)))),  # noqa: DTZ001
    st.sampled_from("smhdwMy"),
)
def test_a_rounded_range_holds_now_and_its_neighbour_does_not(now, unit):
    query = parse_audit_query([("filter.timefrom", f"now/{unit}"), ("filter.timeto", f"now/{unit}")], now)
    assert epoch_ms(query.time_from) <= epoch_ms(now) <= epoch_ms(query.time_to)
    following = parse_audit_query([("filter.timefrom", f"now+1{unit}/{unit}")], query.time_from)
    assert epoch_ms(following.time_from) == epoch_ms(query.time_to) + 1
