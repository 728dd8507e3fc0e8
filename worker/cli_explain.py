"""``postbote config explain``: which record sends a scope's mail, why no other one does, and how it fares.

Read from the store as the worker reads it, with the environment's controller record on top. The
breaker comes from the stream that the workers share, the last success and failure from the audit; what
does not answer within seconds is "not known". Exit codes: 0 a record applies, 1 none does, 2 a wrong
argument.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig, label
from worker.cli_config import NOT_AVAILABLE, Json, _failing_readably, _parse_scope, _print_json, _run
from worker.errors import AuditUnavailable, BrokerUnavailable
from worker.settings import Settings, load_settings

if TYPE_CHECKING:  # SQLAlchemy, pika and the OpenSearch client come with them
    from worker.control.explaining import Standing
    from worker.control.standing import BreakerState, LastEnd, ReadBreaker, ReadLast
    from worker.delivery.ports import ConfigSource
    from worker.store.configs import ConfigStore

BREAKERS_S = 2.0
_NO_FROM = "nothing: an event has to bring one that allowed_from admits"
_UNKNOWN = "not known"


def explain_scope(
    *,
    scope: Annotated[str, typer.Option("--scope", help="controller, partner:NAME or org:PARTNER/NAME")],
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Ask the embedded form's audit, and no breakers")
    ] = False,
    json: Json = False,
) -> None:
    """Tell which record sends a scope's mail, why the others do not, and how it fares."""
    owner = _parse_scope(scope)
    with _failing_readably():
        settings = load_settings()
    told = _run(lambda store: _standing(store, owner, settings, embedded=embedded))
    if json:
        _print_json(told.to_json())
    else:
        for line in _lines(told):
            typer.echo(line)
    raise typer.Exit(0 if told.found.winner is not None else NOT_AVAILABLE)


async def _standing(store: ConfigStore, scope: Scope, settings: Settings, *, embedded: bool) -> Standing:
    from worker.control.explaining import Explaining
    from worker.control.standing import breakers_unknown
    from worker.logs import configure_logging

    configure_logging("error", settings.log_format)  # what is away is said in the answer
    environment = settings.controller_record()
    breakers = breakers_unknown if embedded else await _read_breakers(settings)
    async with _reading_last(settings, embedded=embedded) as last:
        explaining = Explaining(store.records, source_of(store, environment), environment, breakers, last)
        return await explaining.standing(scope, CONTROLLER)


def source_of(store: ConfigStore, environment: SmtpConfig | None) -> ConfigSource:
    """The records as the workers read them."""
    from worker.store.controller import ControllerFromEnvironment

    return store if environment is None else ControllerFromEnvironment(store, environment)


async def _read_breakers(settings: Settings) -> ReadBreaker:
    """Read what the replicas have told each other, once, as far as that is quick."""
    from worker.control.standing import breaker_reader, breakers_unknown
    from worker.delivery.breakers import Breakers
    from worker.rabbit.breaker_stream import BreakerStream
    from worker.rabbit.publisher import Publisher

    name, breakers = "postbote config explain", Breakers()
    publisher = Publisher(settings.amqp_url, name)
    stream = BreakerStream(settings.amqp_url, publisher, breakers.apply, name=name)
    try:
        async with asyncio.timeout(BREAKERS_S):
            await publisher.start()
        stream.start()
        known = await stream.caught_up(BREAKERS_S)
    except (BrokerUnavailable, TimeoutError):
        return breakers_unknown
    finally:
        await stream.close()
        await publisher.close()
    return breaker_reader(breakers, lambda: None) if known else breakers_unknown


@contextlib.asynccontextmanager
async def _reading_last(settings: Settings, *, embedded: bool) -> AsyncIterator[ReadLast]:
    from worker.backends import open_search
    from worker.control.standing import LastInAudit, last_unknown

    async with contextlib.AsyncExitStack() as stack:
        try:
            search = await stack.enter_async_context(open_search(settings, embedded=embedded))
        except AuditUnavailable:
            yield last_unknown
        else:
            yield LastInAudit(search)


def _lines(told: Standing) -> Iterator[str]:
    found, winner = told.found, told.found.winner
    if winner is None:
        yield f"no record applies to {found.scope}: its mail waits until one is stored"
    else:
        yield f"{found.scope} sends by {label(winner.scope, winner.display_name)}"
        yield from _lines_of(winner)
        yield f"breaker: {_breaker(told.breaker)}"
        yield f"last success: {_UNKNOWN if told.last is None else _end(told.last.success)}"
        yield f"last failure: {_UNKNOWN if told.last is None else _end(told.last.failure)}"
    for place, (config, state) in enumerate(zip(found.fallbacks, told.fallback_breakers, strict=True), start=1):
        where = f"{label(config.scope, config.display_name)}, {config.host}:{config.port} ({config.tls})"
        yield f"fallback {place}: {where}; breaker: {_breaker(state)}"
    for each in found.passed_over:
        what = str(each.scope) if each.name is None else label(each.scope, each.name)
        yield f"passed over: {what}: {each.why}"
    if found.org_feature is False:
        yield f"turn the org's own records on: postbote config feature --scope {found.scope} --on"


def _lines_of(config: SmtpConfig) -> Iterator[str]:
    from worker.message.sender import default_from

    yield f"server: {config.host}:{config.port} ({config.tls})"
    yield f"from: {default_from(config) or _NO_FROM}"
    yield f"version: {config.version}"
    yield f"fingerprint: {config.fingerprint}"
    yield from (f"warning: {warning}" for warning in config.warnings())


def _breaker(state: BreakerState | None) -> str:
    if state is None:
        return _UNKNOWN
    until = "" if state.until is None else f" until {state.until:%Y-%m-%d %H:%M:%SZ}"
    return f"{state.state}{until}{'' if state.reason is None else f' ({state.reason})'}"


def _end(end: LastEnd | None) -> str:
    if end is None:
        return "none in the audit"
    code = "no reply" if end.code is None else " ".join(filter(None, (str(end.code), end.enhanced)))
    return f"{end.at} {end.outcome} ({code})"
