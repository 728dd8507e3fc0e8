"""Some thousand records of many tenants, and a count of them in Python, against which the audits' counts are held."""

import random
from collections import Counter
from datetime import timedelta

from schemas.audit import ConfigUsed, Outcome, Reply, Timings
from schemas.audit_stats import By
from tests.unit.audit.audit_samples import NOON, audit_record

PARTNERS = [None, "acme", "globex", *(f"partner-{n:02}" for n in range(40))]
ORGS = [None, "dev", "prod"]
CODES = [None, 250, 250, 250, 421, 450, 451, 452, 535, 550, 552, 554]


def _config(draw, partner, org):
    scope = draw.choice(["controller", "own", "own", None])
    if scope is None:
        return None
    own = "controller" if partner is None else f"partner:{partner}" if org is None else f"org:{partner}/{org}"
    scope = own if scope == "own" else scope
    number = draw.randrange(3)
    host = f"smtp{number}.{partner or 'operator'}.example" if scope != "controller" else f"mx{number}.operator.example"
    return ConfigUsed(scope=scope, name=f"record {number}", version=1, fingerprint="ab" * 8, host=host, port=587)


def _timings(draw):
    if draw.random() < 0.2:
        return None
    transaction = round(draw.lognormvariate(3, 1), 3)
    queued = round(draw.expovariate(1 / 200), 3)
    return Timings(queued_ms=queued, transaction_ms=transaction, total_ms=round(transaction * 1.1 + 2, 3))


def many_records(count=3000, seed=7):
    """Records within three days; the same ones for one seed."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        # A few tenants have most of the mail, as everywhere.
        partner = draw.choice(PARTNERS[:3]) if draw.random() < 0.6 else draw.choice(PARTNERS)
        org = None if partner is None else draw.choice(ORGS)
        code = draw.choice(CODES)
        made.append(
            audit_record(
                number,
                seconds=draw.randrange(3 * 86_400_000) / 1000,
                event_time=NOON + timedelta(days=draw.choice([-40, 0])),  # of two indices
                outcome=draw.choice(list(Outcome)),
                partner=partner,
                org=org,
                config=_config(draw, partner, org),
                reply=None if code is None else Reply(code=code, text="said", phase="final"),
                timings=_timings(draw),
            )
        )
    return made


def key_of(record, by):
    """What a record is grouped by; None where it has no such value."""
    config = record.config
    match by:
        case By.OUTCOME:
            return record.outcome.value
        case By.PARTNER:
            return record.partner
        case By.ORG:
            return None if record.org is None else f"{record.partner}/{record.org}"
        case By.HOST:
            return config and config.host
        case By.CONFIG:
            return config and f"{config.scope}/{config.name}"
        case By.CODE:
            return None if record.reply is None else str(record.reply.code)


def counted(records, by, groups=20):
    """Named groups, the largest first; and how many are in others, and in none."""
    counts = Counter(key_of(record, by) for record in records)
    without = counts.pop(None, 0)
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ordered[:groups], sum(count for _, count in ordered[groups:]), without


def by_start(records, interval_ms):
    """Counts of outcomes by the start of their time bucket in ms."""
    found = {}
    for record in records:
        at = round(record.timestamp.timestamp() * 1000)
        found.setdefault(at - at % interval_ms, Counter())[record.outcome.value] += 1
    return {start: dict(counts) for start, counts in found.items()}
