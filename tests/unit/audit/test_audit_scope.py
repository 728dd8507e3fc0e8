"""How far a principal sees into the audit, as a decision over values."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.audit_query import AuditQuery
from tests.support.gates import principal_of
from worker.control.audit_scope import scoped, shown_to

PARTNERS, ORGS = ["acme", "globex"], ["dev", "prod"]
# What somebody types, and what could be taken for it.
WORDS = st.one_of(
    st.none(),
    st.sampled_from([*PARTNERS, *ORGS, "*", "", "a*", "ACME", "аcme", "ac\N{ZERO WIDTH SPACE}me", "acme/dev"]),
    st.text(max_size=8),
)
WHO = st.sampled_from(
    [
        "viewer@controller",
        *(f"viewer@partner:{p}" for p in PARTNERS),
        *(f"viewer@org:{p}/{o}" for p in PARTNERS for o in ORGS),
    ]
)
RECORDS = [(None, None), *((p, None) for p in PARTNERS), *((p, o) for p in PARTNERS for o in ORGS)]


def found(query):
    """The records that an audit with exact filters finds."""
    return {r for r in RECORDS if query.partner in {None, r[0]} and query.org in {None, r[1]}}


def within(principal):
    scope = principal.scope
    return {(p, o) for p, o in RECORDS if scope.partner in {None, p} and scope.org in {None, o}}


@given(WHO, WORDS, WORDS)
def test_a_scoped_question_finds_what_the_question_finds_within_the_scope(who, partner, org):
    principal, query = principal_of(who), AuditQuery(partner=partner, org=org, limit=7)
    narrowed = scoped(query, principal)
    assert (found(narrowed) if narrowed else set()) == found(query) & within(principal)
    assert narrowed is None or narrowed.limit == 7


def test_nothing_else_of_the_question_changes():
    query = AuditQuery(recipient="ann@example.org", time_from=datetime(2025, 1, 1, tzinfo=UTC), offset=5, type="x")
    narrowed = scoped(query, principal_of("viewer@org:acme/dev"))
    assert narrowed == AuditQuery(
        recipient=query.recipient, time_from=query.time_from, offset=5, type="x", partner="acme", org="dev"
    )


@pytest.mark.parametrize("asked", [{"config": "default"}, {"text": "relay"}], ids=str)
@pytest.mark.parametrize(
    ("who", "within"),
    [
        ("viewer@controller", None),
        ("viewer@partner:acme", "partner:acme"),
        ("viewer@org:acme/dev", "org:acme/dev"),
    ],
)
def test_a_tenant_finds_nothing_by_names_or_words_that_it_is_not_shown(who, within, asked):
    narrowed = scoped(AuditQuery(**asked), principal_of(who))
    assert ({name: getattr(narrowed, name) for name in asked}, narrowed.config_within) == (asked, within)


CONFIG = {"name": "default", "version": 3, "fingerprint": "abcd", "host": "smtp.internal", "port": 587}
ACTOR = {"kind": "user", "name": "ann@acme.example", "origin": "192.0.2.7"}


@pytest.mark.parametrize(
    ("who", "scope", "whole"),
    [
        ("viewer@controller", "controller", True),
        ("viewer@controller", "org:acme/dev", True),
        ("viewer@controller", "not a scope", True),
        ("viewer@partner:acme", "partner:acme", True),
        ("viewer@partner:acme", "org:acme/dev", True),
        ("viewer@partner:acme", "controller", False),
        ("viewer@org:acme/dev", "org:acme/dev", True),
        ("viewer@org:acme/dev", "partner:acme", False),
        ("viewer@org:acme/dev", "controller", False),
        ("viewer@org:acme/dev", "not a scope", False),
        ("viewer@org:acme/dev", None, False),
    ],
)
def test_of_what_belongs_to_a_wider_scope_only_that_it_was_used_is_shown(who, scope, whole):
    record = {"outcome": "accepted", "config": {"scope": scope, **CONFIG}, "actor": {"scope": scope, **ACTOR}}
    shown = shown_to(record, principal_of(who))
    assert shown["outcome"] == "accepted"
    assert shown["config"] == (record["config"] if whole else {"scope": scope})
    assert ("origin" in shown["actor"]) is whole
    assert shown["actor"]["name"] == "ann@acme.example"
    assert record["config"]["host"] == "smtp.internal"


def test_records_without_either_are_shown_as_they_are():
    record = {"outcome": "invalid", "config": None}
    assert shown_to(record, principal_of("viewer@org:acme/dev")) == record
