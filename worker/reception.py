"""The HTTP API of one process, over the store, the queue and the audit: who is let in, and what is there to ask.

Part of the composition root (see ``app``). Whatever a request changes is stored with what others have to
hear of it, and shipped from here: see `worker.shipping`.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from worker.backends import Front
from worker.configs import Gauges, open_store
from worker.recipients import privacy_of
from worker.recording import sealing
from worker.settings import Settings

if TYPE_CHECKING:  # a worker without an API does without FastAPI, too
    from fastapi import APIRouter

    from worker.api.auth import Gate
    from worker.delivery.ports import ConfigSource
    from worker.shipping import Shipping
    from worker.store.configs import ConfigStore
    from worker.store.people import PeopleStore
    from worker.trials import Trials


@dataclass(frozen=True, slots=True)
class Reception:
    """The endpoints, the gate in front of them, and what ships changes.

    What is not shipped yet makes nobody unready: changes are taken meanwhile, and a metric counts them.
    """

    routers: "tuple[APIRouter, ...]"
    gate: "Gate"
    shipping: "Shipping"
    gauges: Gauges


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the endpoints are built over."""

    settings: Settings
    front: Front
    store: "ConfigStore"
    people: "PeopleStore"
    gate: "Gate"
    shipping: "Shipping"
    trials: "Trials"
    source: "ConfigSource"


@contextlib.asynccontextmanager
async def open_reception(settings: Settings, front: Front) -> AsyncIterator[Reception]:
    """Open the store and begin to ship; raises StoreUnavailable, for an old schema naming the command."""
    from worker.api.auth import Gate
    from worker.shipping import Shipping
    from worker.smtp.egress import EgressGuard
    from worker.store.controller import ControllerFromEnvironment
    from worker.store.outgoing import OutgoingShelf
    from worker.store.people import PeopleStore
    from worker.trials import Trials

    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        people = PeopleStore(store.database)
        gate = Gate(
            people,
            public_origin=_origin(settings.public_url),
            secure_cookies=_secure(settings),
            session_h=settings.session_h,
        )
        shelf = OutgoingShelf(store.database)
        audit = await stack.enter_async_context(sealing(settings, front.audit))
        shipping = Shipping(shelf, configs=front.teller, audit=audit, intake=front.intake)
        shipping.start()
        stack.push_async_callback(shipping.close)
        guard = EgressGuard(settings.egress_allow, settings.egress_ports)
        privacy = privacy_of(settings)
        trials = Trials(audit, guard, ehlo_name=settings.ehlo_name, worker_id=settings.worker_id, privacy=privacy)
        stack.push_async_callback(trials.close)
        record = settings.controller_record()
        source = store if record is None else ControllerFromEnvironment(store, record)
        parts = _Parts(settings, front, store, people, gate, shipping, trials, source)
        routers = (*_of_people(parts), *_of_smtp(parts), *_of_events(parts))
        yield Reception(routers, gate, shipping, shipping.gauges())


def _of_people(parts: _Parts) -> "tuple[APIRouter, ...]":
    from worker.api.links import links_router
    from worker.api.login import login_router
    from worker.api.organizations import Accounts, organizations_router
    from worker.api.partners import partners_router
    from worker.api.tokens import tokens_router
    from worker.api.users import users_router
    from worker.control.passwords import Passwords
    from worker.control.throttle import PER_CLIENT, LoginThrottle, Throttle
    from worker.people import mails as mails_of

    gate, people, passwords, mails = parts.gate, parts.people, Passwords(), mails_of(parts.settings)
    accounts = Accounts(parts.settings.account_creation_strategy, passwords, parts.source, mails)
    return (
        login_router(gate, people, passwords, LoginThrottle()),
        links_router(gate, people, passwords, Throttle(PER_CLIENT)),
        users_router(gate, people, parts.source, mails),
        tokens_router(gate, people),
        partners_router(gate, people),
        organizations_router(gate, people, accounts),
    )


def _of_smtp(parts: _Parts) -> "tuple[APIRouter, ...]":
    from worker.api.email_config import email_config_router
    from worker.api.secrets import secrets_router
    from worker.api.smtp_configs import smtp_configs_router
    from worker.api.smtp_trials import trials_router
    from worker.control.explaining import Explaining
    from worker.control.standing import LastInAudit

    gate, store, shipping = parts.gate, parts.store, parts.shipping
    record, front = parts.settings.controller_record(), parts.front
    explaining = Explaining(store.records, parts.source, record, front.breakers, LastInAudit(front.search))
    return (
        # First: its paths would be names of records to the next one.
        trials_router(gate, store, parts.source, parts.trials, parts.trials, environment=record),
        email_config_router(gate, store, record, shipping),
        smtp_configs_router(gate, store, record, shipping, explaining),
        secrets_router(gate, store, shipping),
    )


def _of_events(parts: _Parts) -> "tuple[APIRouter, ...]":
    from worker.api.audit_cursors import Cursors
    from worker.api.audit_log import AuditDesk, audit_router
    from worker.api.events import events_router
    from worker.api.ops_audit_log import ops_audit_router
    from worker.api.stats import stats_router
    from worker.api.stories import stories_router

    gate, search = parts.gate, parts.front.search
    desk = AuditDesk(search, cursors=Cursors(_cursor_key(parts.settings)))
    return (
        events_router(parts.front.intake, gate),
        audit_router(desk, gate),
        ops_audit_router(desk, gate),
        stories_router(search, gate),
        stats_router(parts.front.stats, gate),
    )


def _cursor_key(settings: Settings) -> bytes | None:
    """What replicas know in common; without it a cursor is only good at the one that gave it."""
    return settings.secret_keys[0].get_secret_value().encode() if settings.secret_keys else None


def _secure(settings: Settings) -> bool:
    """Browsers reach a loopback address without TLS, unless a proxy on this host stands in front of it."""
    return not ip_address(settings.http_host).is_loopback or (settings.public_url or "").startswith("https://")


def _origin(url: str | None) -> str | None:
    parts = urlsplit(url or "")
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else None
