"""An event's story read from a real OpenSearch and from the embedded file: the same one."""

from datetime import timedelta

import pytest

from schemas.audit import Outcome
from schemas.audit_story import Standing
from schemas.smtp_config import Scope
from tests.control.shipping.shipping_samples import change_record
from tests.support.gates import principal_of
from tests.unit.audit.audit_samples import NOON, audit_record
from worker.control.stories import Wanted, read_stories

OPERATOR = principal_of("viewer@controller")


@pytest.fixture(params=["opensearch", "sqlite"])
def audit(request):
    # Resolved by name, so that the embedded half needs no server.
    return request.getfixturevalue(f"over_{request.param}")


async def read(audit, wanted, who=OPERATOR, now=NOON + timedelta(hours=2)):
    audit.make_visible()
    return await read_stories(audit.searcher, wanted, who, now)


def deferred(number, recipient, **changes):
    again = NOON + timedelta(minutes=number + 1)
    values = {"outcome": Outcome.DEFERRED, "next_attempt_at": again, "attempt": number + 1, "event_id": "e1"}
    return audit_record(recipient=recipient, seconds=60 * number, **values, **changes)


async def test_all_records_of_one_event_make_one_story_however_many(audit):
    recipients = [f"r{n}@example.org" for n in range(120)]
    tries = [deferred(n, recipient) for n in range(10) for recipient in recipients]
    ends = [audit_record(event_id="e1", recipient=r, seconds=900, attempt=11) for r in recipients[:-1]]
    of_others = [audit_record(event_id="e1", event_source="/crm"), audit_record(event_id="E1"), audit_record(5)]
    await audit.write(*tries, *ends, *of_others)
    await audit.write_changes(change_record(1))
    [story] = await read(audit, Wanted("e1", "/billing"))
    assert (story.records, story.complete) == (120 * 10 + 119, True)
    assert {each.recipient for each in story.recipients} == set(recipients)
    assert {len(each.attempts) for each in story.recipients} == {10, 11}
    assert all([a.at for a in each.attempts] == sorted(a.at for a in each.attempts) for each in story.recipients)
    assert story.where.state is Standing.DUE  # one of them was never heard of again
    states = [each.where.state for each in story.recipients]
    assert (states.count(Standing.DONE), states.count(Standing.DUE)) == (119, 1)


async def test_an_event_whose_months_differ_is_one_story(audit):
    later = NOON + timedelta(days=20)
    await audit.write(
        deferred(0, "bob@example.org"),
        audit_record(event_id="e1", recipient="bob@example.org", event_time=None, timestamp=later),
    )
    [story] = await read(audit, Wanted("e1", "/billing"))
    assert (story.records, story.where.state) == (2, Standing.DONE)


SCOPES = [(None, None), ("acme", None), ("acme", "dev"), ("acme", "prod"), ("globex", None), ("globex", "dev")]


@pytest.mark.parametrize(
    ("who", "scope", "seen"),
    [
        ("viewer@controller", None, SCOPES),
        ("viewer@controller", "controller", [(None, None)]),
        ("viewer@controller", "partner:acme", [("acme", None)]),
        ("viewer@partner:acme", None, [s for s in SCOPES if s[0] == "acme"]),
        ("viewer@partner:acme", "org:acme/prod", [("acme", "prod")]),
        ("viewer@partner:acme", "controller", []),
        ("viewer@partner:acme", "org:globex/dev", []),
        ("admin@org:acme/dev", None, [("acme", "dev")]),
        ("admin@org:acme/dev", "partner:acme", []),
        ("admin@org:acme/dev", "org:acme/prod", []),
        ("viewer@org:initech/dev", None, []),
    ],
)
async def test_of_one_name_everybody_reads_what_is_theirs(audit, who, scope, seen):
    await audit.write(*(audit_record(event_id="e1", partner=p, org=o) for p, o in SCOPES))
    wanted = Wanted("e1", "/billing", None if scope is None else Scope.parse(scope))
    found = await read(audit, wanted, principal_of(who))
    assert [(story.partner, story.org) for story in found] == sorted(seen, key=lambda s: str(Scope(*s)))
    assert {story.records for story in found} <= {1}
