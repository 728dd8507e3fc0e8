"""From an event's records to its story: what happened to each recipient, and where the event is now.

Nothing is asked but the audit, so nothing is said that the records don't say. What parks an event,
and what lets it rest, is `worker.delivery.settling`'s; here it is read backwards from what was recorded.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from schemas.audit import Outcome
from schemas.audit_query import AuditPage, AuditQuery
from schemas.audit_story import Attempt, RecipientStory, Standing, Story, Whereabouts
from schemas.smtp_config import Scope
from worker.control.audit_scope import scoped, shown_to
from worker.control.principals import Principal
from worker.delivery.ports import Tier
from worker.delivery.retry import MAX_WAIT_S

MAX_RECORDS = 10_000
"""So many records are read of one event, the newest; OpenSearch's max_result_window."""

_DELIVERY = "email.delivery"
_FINAL = {Outcome.ACCEPTED, Outcome.REFUSED, Outcome.EXPIRED, Outcome.SUPPRESSED}
_PARKS = {Outcome.UNCONFIGURED, Outcome.CONFIG_FAULT, Outcome.INVALID, Outcome.EXHAUSTED, Outcome.PARKED}
_DOUBTS_THAT_PARK = 2  # the same mail is sent once more and no oftener
# The most pressing first: as long as one recipient waits, the event does.
_ORDER = tuple(Standing[name] for name in ("WAITING", "DUE", "IN_DOUBT", "UNKNOWN", "HELD", "PARKED", "DONE"))
_NEVER = datetime.min.replace(tzinfo=UTC)

Record = Mapping[str, Any]


class Search(Protocol):
    """Answers questions to the audit."""

    async def search(self, query: AuditQuery) -> AuditPage:
        """Return one page, newest first; raises AuditUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which event; without `source` or `scope`, every one of that id."""

    id: str
    source: str | None = None
    scope: Scope | None = None


async def read_stories(search: Search, wanted: Wanted, principal: Principal, now: datetime) -> tuple[Story, ...]:
    """Tell each event that `wanted` fits and `principal` may see, in the order of source and scope; often one.

    None at all for an event that is not there or not theirs: it makes no difference. Raises AuditUnavailable.
    """
    scope = wanted.scope or Scope()
    asked = AuditQuery(
        event_id=wanted.id, event_source=wanted.source, partner=scope.partner, org=scope.org, limit=MAX_RECORDS
    )
    query = scoped(asked, principal)
    if query is None:
        return ()
    page = await search.search(query)
    shown = [shown_to(record, principal) for record in page.records]
    told = tell(shown, now, complete=page.total <= len(page.records))
    return tuple(story for story in told if wanted.scope is None or story.scope == str(wanted.scope))


def tell(records: Iterable[Record], now: datetime, *, complete: bool = True) -> tuple[Story, ...]:
    """Tell the stories of these records, in any order: one for each source, id and scope. Pure.

    `now` (aware) parts who waits from who is due; `complete` is False where there are more records.
    """
    events: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        if isinstance(record.get("event_id"), str) and isinstance(record.get("outcome"), str):
            key = (str(record.get("event_source", "")), str(record["event_id"]), _scope(record))
            events[key].append(record)
    return tuple(_story(events[key], now, complete=complete) for key in sorted(events))


def _story(records: Sequence[Record], now: datetime, *, complete: bool) -> Story:
    ordered = sorted(records, key=_age)
    of_recipients: dict[str | None, list[Record]] = defaultdict(list)
    for record in ordered:
        # By the hash first: masked, two recipients may look alike, and a forgotten one has no address any more.
        of_recipients[_text(record, "recipient_hash") or _text(record, "recipient")].append(record)
    recipients = [_recipient(about, now) for about in of_recipients.values()]
    where = _whereabouts([each.where for each in recipients], complete=complete)
    last = ordered[-1]
    return Story(
        source=str(last.get("event_source", "")),
        id=last["event_id"],
        scope=_scope(last),
        partner=_text(last, "partner"),
        org=_text(last, "org"),
        type=_last(ordered, "event_type"),
        category=_last(ordered, "event_category"),
        time=_moment(_last(ordered, "event_time")),
        record_type=str(last.get("type", "")),
        message_id=_last(ordered, "message_id"),
        trace_id=_last(ordered, "trace_id"),
        where=where,
        records=len(ordered),
        complete=complete,
        recipients=tuple(_held_while(each, where) for each in recipients),
    )


def _recipient(records: Sequence[Record], now: datetime) -> RecipientStory:
    where = _standing(records, now)
    began, ended = _moment(_last(records, "event_time")), where.since
    took = None
    if where.state is Standing.DONE and began is not None and ended is not None:
        took = max(0.0, (ended - began) / timedelta(milliseconds=1))
    return RecipientStory(
        recipient=_last(records, "recipient"),
        recipient_hash=_last(records, "recipient_hash"),
        where=where,
        took_ms=took,
        attempts=tuple(_attempt(one) for one in records),
    )


def _attempt(record: Record) -> Attempt:
    return Attempt(
        at=_moment(record.get("@timestamp")),
        outcome=record["outcome"],
        attempt=_number(record),
        possible_duplicate=bool(record.get("possible_duplicate")),
        next_attempt_at=_moment(record.get("next_attempt_at")),
        **{name: _text(record, name) for name in ("reason", "remote_queue_id", "worker_id")},
        **{name: _object(record, name) for name in ("reply", "config", "tls", "timings")},
    )


# Where one recipient is


def _standing(records: Sequence[Record], now: datetime) -> Whereabouts:
    """Read the last record; an acceptance is an end, whatever was recorded after it."""
    accepted = [record for record in records if record["outcome"] == Outcome.ACCEPTED]
    record = accepted[0] if accepted else records[-1]
    outcome, again_at = record["outcome"], _moment(record.get("next_attempt_at"))
    if outcome in _FINAL:
        return _where(record, Standing.DONE, f"done: {outcome}")
    if record.get("type") != _DELIVERY:
        return _where(record, Standing.DONE, f"done: {outcome}; a test mail is tried once")
    if again_at is not None:
        return _resting(record, again_at, now)
    if outcome == Outcome.IN_DOUBT:
        return _doubtful(record, sum(one["outcome"] == Outcome.IN_DOUBT for one in records))
    if outcome in _PARKS:
        said = f"parked: {outcome}; what an operator did since is recorded only once it is tried again"
        return _where(record, Standing.PARKED, said)
    return _where(record, Standing.UNKNOWN, f"unknown: {outcome}, and no record says what follows")


def _doubtful(record: Record, doubts: int) -> Whereabouts:
    if doubts >= _DOUBTS_THAT_PARK:
        return _where(record, Standing.PARKED, "parked: in doubt twice, so an operator decides")
    said = "in doubt: sent once more after a minute, or parked where the event asks to hold it; the records don't say"
    return _where(record, Standing.IN_DOUBT, said)


def _resting(record: Record, again_at: datetime, now: datetime) -> Whereabouts:
    tier, place = _place(record, again_at)
    if again_at > now:
        said = f"waiting until {_clock(again_at)}, {place}"
        return _where(record, Standing.WAITING, said, next_attempt_at=again_at, tier=tier)
    said = f"due since {_clock(again_at)}: at the head of its queue, in its lane, or being tried now"
    return _where(record, Standing.DUE, said, next_attempt_at=again_at)


def _place(record: Record, again_at: datetime) -> tuple[str | None, str]:
    """Where it rests: waits of some seconds may be a worker's own, longer ones are a tier's."""
    rested_from = _moment(record.get("@timestamp"))
    if rested_from is None:
        return None, "where, the records don't say"
    wait_s = (again_at - rested_from).total_seconds()
    if wait_s <= MAX_WAIT_S:
        return None, "in the worker that tried it, or in a short tier"
    tier = next((each for each in Tier if each.seconds >= wait_s), Tier.TWO_HOURS)
    return tier.label, f"in the tier {tier.label}"


def _where(record: Record, state: Standing, says: str, **more: Any) -> Whereabouts:
    since, outcome, reason = _moment(record.get("@timestamp")), record["outcome"], _text(record, "reason")
    return Whereabouts(state=state, says=says, since=since, outcome=outcome, reason=reason, **more)


# Where the event is: its recipients travel as one message


def _whereabouts(recipients: Sequence[Whereabouts], *, complete: bool) -> Whereabouts:
    state = next(each for each in _ORDER if any(one.state is each for one in recipients))
    among = [one for one in recipients if one.state is state]
    latest = max(among, key=lambda one: (one.next_attempt_at or _NEVER, one.since or _NEVER))
    if state is not Standing.DONE:
        return latest
    if not complete:
        said = "unknown: who is read has an end, and there are more records than are read"
        return Whereabouts(state=Standing.UNKNOWN, says=said, since=latest.since)
    said = "done: every recipient that the records name has an end"
    return Whereabouts(state=state, says=said, since=latest.since)


def _held_while(story: RecipientStory, event: Whereabouts) -> RecipientStory:
    """Whoever needs an operator stays with the event as long as others wait."""
    if story.where.state is not Standing.PARKED or event.state not in {Standing.WAITING, Standing.DUE}:
        return story
    said = f"held: {story.where.outcome}; parked once nobody else of the event waits"
    where = story.where.model_copy(update={"state": Standing.HELD, "says": said})
    return story.model_copy(update={"where": where})


# Reading records


def _scope(record: Record) -> str:
    partner, org = _text(record, "partner"), _text(record, "org")
    if partner is None:
        return "controller"
    return f"partner:{partner}" if org is None else f"org:{partner}/{org}"


def _age(record: Record) -> tuple[datetime, int]:
    return _moment(record.get("@timestamp")) or _NEVER, _number(record) or 0


def _last(records: Sequence[Record], name: str) -> str | None:
    return next((text for record in reversed(records) if (text := _text(record, name)) is not None), None)


# An index takes documents of others, too: whatever is of another kind than ours is as if it were not there.


def _text(record: Record, name: str) -> str | None:
    value = record.get(name)
    return value if isinstance(value, str) else None


def _object(record: Record, name: str) -> dict[str, Any] | None:
    value = record.get(name)
    return dict(value) if isinstance(value, Mapping) else None


def _number(record: Record) -> int | None:
    value = record.get("attempt")
    return value if isinstance(value, int) else None


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo is not None else None


def _clock(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
