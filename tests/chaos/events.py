"""Twenty tenants with SMTP records of their own, and the events that are published for them."""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from schemas.smtp_config import Scope, SmtpConfig, TlsMode
from tests.chaos.count import Published
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox

PARTNER = "chaos"
TENANTS = 20
_LARGE_EVERY = 20  # a body of many segments, which a cut can end in the middle
_SEVERAL_EVERY = 8
_HOLD_EVERY = 25
_RETRIES = 5
# alembic's context is global to a process: two upgrades at once mistake each other's database for their own.
_UPGRADING = asyncio.Lock()


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it is published, and what is expected of it."""

    expected: Published
    body: bytes


def org_of(number: int) -> str:
    """The tenant of an event."""
    return f"org{number % TENANTS:02}"


def make_events(run: str, first: int, count: int, rng: random.Random) -> list[Event]:
    """Events number `first` and on of a run; their ids depend on nothing else."""
    return [_event(run, number, rng) for number in range(first, first + count)]


def _event(run: str, number: int, rng: random.Random) -> Event:
    identity, source, org = f"{run}-{number:06}", f"/chaos/{run}", org_of(number)
    copies = 3 if number % _SEVERAL_EVERY == 0 else 1
    recipients = tuple(f"{identity}-{copy}@{org}.example.com" for copy in range(copies))
    hold = number % _HOLD_EVERY == 0
    lines = rng.randint(1500, 3000) if number % _LARGE_EVERY == 0 else rng.randint(3, 25)
    data: dict[str, Any] = {
        "scope": {"partner": PARTNER, "org": org},
        "to": list(recipients),
        "subject": f"Chaos {identity}",
        "text": "\n".join(f"Line {line} of {identity}, for {org}." for line in range(lines)),
        "on_doubt": "hold" if hold else "resend",
    }
    envelope = {
        "specversion": "1.0",
        "id": identity,
        "source": source,
        "type": "email.requested.v1",
        "time": datetime.now(UTC).isoformat(),
        "data": data,
    }
    expected = Published(identity, org, recipients, message_id(source, identity, org), hold)
    return Event(expected, orjson.dumps(envelope))


def message_id(source: str, identity: str, org: str) -> str:
    """The Message-ID that an event's mail must have, computed apart from the product's own code."""
    digest = hashlib.sha256(f"{len(source)}:{source}{identity}".encode()).hexdigest()[:32]
    return f"<{digest}@{org}.sender.example>"


async def store_records(database_url: str, key: str, ports: Sequence[int], *, max_connections: int = 4) -> None:
    """Give every tenant a record that leads to one of the sink's ports, and the feature that makes it count."""
    store = ConfigStore(database_url, SecretBox([key]))
    try:
        async with _UPGRADING:
            await store.database.upgrade()
        await store.open()
        for number in range(TENANTS):
            await store.put(_record(number, ports[number % len(ports)], max_connections))
            await store.set_org_feature(Scope(PARTNER, org_of(number)), on=True)
    finally:
        await store.close()


def _record(number: int, port: int, max_connections: int) -> SmtpConfig:
    return SmtpConfig(
        partner=PARTNER,
        org=org_of(number),
        host="127.0.0.1",
        port=port,
        tls=TlsMode.NONE,
        from_address=f"no-reply@{org_of(number)}.sender.example",
        retries=_RETRIES,
        max_connections=max_connections,
        timeout_s=10.0,
    )
