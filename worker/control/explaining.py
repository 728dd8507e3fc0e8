"""Which record sends a scope's mail, why no other one does, and how it fares.

Every record of the scope and of the wider ones is accounted for, to whoever owns it. Of a record of a
wider scope an asker learns that it applies and what the mail itself shows: its From, its warnings, and
whether it rests now. Neither its name, server, user and version, nor what else that scope has.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from schemas.smtp_config import CONTROLLER, Scope, ScopeLevel, SmtpConfig
from worker.control.standing import BreakerState, LastEnds, ReadBreaker, ReadLast
from worker.delivery.ports import ConfigSource
from worker.delivery.resolution import Resolved, resolve
from worker.errors import SecretKeyMissing, SecretUnreadable, StoreUnavailable
from worker.message.sender import default_from

_FROM_ENVIRONMENT = "the environment's record (FW_EVENT_SMTP_SERVER_ADDR) stands in its place"


class Listed(Protocol):
    """What is needed of a stored record (see `worker.control.records.StoredRecord`)."""

    @property
    def scope(self) -> Scope:
        """Whose it is."""
        ...

    @property
    def name(self) -> str:
        """Its display name."""
        ...

    @property
    def is_default(self) -> bool:
        """Whether it is what sends its scope's mail."""
        ...


Listing = Callable[[Scope], Awaitable[Sequence[Listed]]]
"""The records of exactly this scope (see `worker.control.ports.Records.records`); may raise StoreUnavailable."""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A record that does not send the scope's mail, or a scope that has none (`name` is None)."""

    scope: Scope
    name: str | None
    why: str

    def to_json(self) -> dict[str, Any]:
        """One object for JSON."""
        return {"scope": str(self.scope), "name": self.name, "why": self.why}


@dataclass(frozen=True, slots=True)
class Explanation:
    """The record that applies to `scope`, if any, what sends while it rests, in order, and the others.

    `org_feature` is None but for an org.
    """

    scope: Scope
    winner: SmtpConfig | None
    passed_over: tuple[PassedOver, ...]
    org_feature: bool | None
    fallbacks: tuple[SmtpConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """An explanation as `asker` is told of it, and how the records in it fare; None: not known."""

    found: Explanation
    asker: Scope
    breaker: BreakerState | None
    fallback_breakers: tuple[BreakerState | None, ...]
    last: LastEnds | None

    @property
    def own(self) -> bool:
        """Whether the record that applies is the asker's, or of a scope below it."""
        return self.found.winner is not None and self.asker in self.found.winner.scope.lineage()

    def to_json(self) -> dict[str, Any]:
        """One document for JSON; never a secret, and nothing that is another's."""
        found, winner = self.found, self.found.winner
        return {
            "scope": str(found.scope),
            "applies": None if winner is None else self._applies(winner),
            "fallbacks": [
                {**_shown(config), "breaker": _breaker(state)}
                for config, state in zip(found.fallbacks, self.fallback_breakers, strict=True)
            ],
            "passed_over": [each.to_json() for each in found.passed_over],
            "org_feature": found.org_feature,
        }

    def _applies(self, winner: SmtpConfig) -> dict[str, Any]:
        shown = _shown(winner) if self.own else _shown_to_others(winner)
        last = None if self.last is None else self.last.to_json()
        return {**shown, "own": self.own, "breaker": _breaker(self.breaker), "last": last}


class Explaining:
    """Fulfils `worker.control.trials.Explainer`."""

    def __init__(
        self,
        records: Listing,
        source: ConfigSource,
        environment: SmtpConfig | None,
        breakers: ReadBreaker,
        last: ReadLast,
    ) -> None:
        """Take the stored records, and what the workers read: `source` has `environment`, if there is one, on top."""
        self._records = records
        self._source = source
        self._environment = environment
        self._breakers = breakers
        self._last = last

    async def explain(self, scope: Scope, asker: Scope) -> Mapping[str, Any]:
        """One JSON object; `asker` is `scope` or a wider one. Raises StoreUnavailable."""
        try:
            return (await self.standing(scope, asker)).to_json()
        except (SecretUnreadable, SecretKeyMissing):
            # Their words name the record, which may be another's.
            msg = "the password of the record that applies cannot be read now"
            raise StoreUnavailable(msg) from None

    async def standing(self, scope: Scope, asker: Scope) -> Standing:
        """The same as a value; also raises SecretUnreadable and SecretKeyMissing, naming the record."""
        found = _for(asker, await explained(self._records, self._source, self._environment, scope))
        if found.winner is None:
            return Standing(found, asker, None, (), None)
        own = asker in found.winner.scope.lineage()
        last = await self._last(found.winner, asker if own else scope)
        fallbacks = tuple(self._breaker(each, asker) for each in found.fallbacks)
        return Standing(found, asker, self._breaker(found.winner, asker), fallbacks, last)

    def _breaker(self, config: SmtpConfig, asker: Scope) -> BreakerState | None:
        state = self._breakers(config)
        if state is None or asker == CONTROLLER:
            return state
        return state.for_tenant() if asker in config.scope.lineage() else state.without_reason()


async def explained(
    records: Listing, source: ConfigSource, environment: SmtpConfig | None, scope: Scope
) -> Explanation:
    """Account for every record that could send `scope`'s mail; see `Explaining` for the arguments."""
    stored = await source.configs_for(scope)
    resolution = resolve(scope, stored)
    resolved = resolution if isinstance(resolution, Resolved) else None
    winner, fallbacks = (resolved.config, resolved.fallbacks) if resolved else (None, ())
    lineage = scope.lineage()
    listed = dict(zip(lineage, await asyncio.gather(*map(records, lineage)), strict=True))
    reasons = _Reasons(winner, fallbacks, environment, org_enabled=stored.org_enabled)
    is_org = scope.level is ScopeLevel.ORG
    return Explanation(scope, winner, tuple(reasons.of(listed)), stored.org_enabled if is_org else None, fallbacks)


def _for(asker: Scope, found: Explanation) -> Explanation:
    """Leave out what is another's; and from an org the feature, while that is off for it."""
    hidden = asker.level is ScopeLevel.ORG and not found.org_feature
    passed_over = () if hidden else tuple(each for each in found.passed_over if asker in each.scope.lineage())
    fallbacks = tuple(each for each in found.fallbacks if asker in each.scope.lineage())
    return Explanation(found.scope, found.winner, passed_over, None if hidden else found.org_feature, fallbacks)


class _Reasons:
    """Why records do not apply, given the one that does and its fallbacks."""

    def __init__(
        self,
        winner: SmtpConfig | None,
        fallbacks: Sequence[SmtpConfig],
        environment: SmtpConfig | None,
        *,
        org_enabled: bool,
    ) -> None:
        self._winner = winner
        self._environment = environment
        self._org_enabled = org_enabled
        stored = () if winner is None or winner == environment else (winner, *fallbacks)
        self._applying = {(config.scope, config.display_name) for config in stored}

    def of(self, listed: Mapping[Scope, Sequence[Listed]]) -> Iterator[PassedOver]:
        """Each record of each scope, most specific first; those from the environment before the stored ones."""
        for scope, records in listed.items():
            own = self._environment if scope == CONTROLLER else None
            if own is not None and own != self._winner:
                yield PassedOver(scope, own.display_name, self._more_specific())
            if own is None and not records:
                yield PassedOver(scope, None, "it has no record")
            for record in records:
                if (record.scope, record.name) not in self._applying:
                    yield PassedOver(scope, record.name, self._why_not(record, records))

    def _why_not(self, record: Listed, beside: Sequence[Listed]) -> str:
        if record.scope.level is ScopeLevel.ORG and not self._org_enabled:
            return "the org's own records are off: they do not count until its SMTP feature is turned on"
        if record.scope == CONTROLLER and self._environment is not None:
            return _FROM_ENVIRONMENT
        if not record.is_default:
            default = next((each.name for each in beside if each.is_default), None)
            return "no record of its scope is the default" if default is None else f"{default!r} is its scope's default"
        return self._more_specific()

    def _more_specific(self) -> str:
        return "a more specific record applies" if self._winner is None else f"{self._winner.scope} is more specific"


def _shown(config: SmtpConfig) -> dict[str, Any]:
    return {
        "scope": str(config.scope),
        "name": config.display_name,
        "host": config.host,
        "port": config.port,
        "tls": str(config.tls),
        "username": config.username,
        "from": default_from(config),
        "version": config.version,
        "fingerprint": config.fingerprint,
        "warnings": list(config.warnings()),
    }


def _shown_to_others(config: SmtpConfig) -> dict[str, Any]:
    return {
        "scope": str(config.scope.level),
        "from": default_from(config),
        "warnings": list(config.warnings()),
    }


def _breaker(state: BreakerState | None) -> dict[str, Any] | None:
    return None if state is None else state.to_json()
