"""How far back a question to the audit looks where that costs: words are looked for in a range of time.

A filter by a name or an address is a look into an index. Words stand in millions of replies, and each month's
have to be scored through: without a bound one careless question takes all of the cluster's time.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from schemas.audit_query import AuditQuery

TEXT_RANGE = timedelta(days=31)
"""So far back from its end words are looked for where the asker does not say from when."""
MAX_TEXT_RANGE = timedelta(days=800)
"""And so far at most, as counts are."""


def bounded(query: AuditQuery, now: datetime) -> AuditQuery:
    """The same question with a beginning, where one about words has none."""
    if query.text is None or query.time_from is not None:
        return query
    return replace(query, time_from=(query.time_to or now) - TEXT_RANGE)


def too_long(query: AuditQuery, now: datetime) -> bool:
    """Whether words are asked for in more time than may be looked through."""
    if query.text is None or query.time_from is None:
        return False
    return (query.time_to or now) - query.time_from > MAX_TEXT_RANGE
