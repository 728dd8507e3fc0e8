"""``postbote config explain``: which record sends a scope's mail, and why no other one does.

Read from the store as the worker reads it, with the environment's controller record on top. Every
record of the scope and of the wider ones is accounted for. Exit codes: 0 a record applies, 1 none
does, 2 a wrong argument.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.smtp_config import CONTROLLER, Scope, ScopeLevel, SmtpConfig, label
from worker.cli_config import NOT_AVAILABLE, Json, _failing_readably, _parse_scope, _print_json, _run
from worker.delivery.ports import ConfigSource
from worker.delivery.resolution import Resolved, resolve
from worker.settings import load_settings

if TYPE_CHECKING:  # SQLAlchemy comes with it
    from worker.store.configs import ConfigStore
    from worker.store.rows import RecordSummary

_FROM_ENVIRONMENT = "the environment's record (FW_EVENT_SMTP_SERVER_ADDR) stands in its place"
_NO_FROM = "nothing: an event has to bring one that allowed_from admits"


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
    """The record that applies to `scope`, if any, and the others; `org_feature` is None but for an org."""

    scope: Scope
    winner: SmtpConfig | None
    passed_over: tuple[PassedOver, ...]
    org_feature: bool | None

    def to_json(self) -> dict[str, Any]:
        """One document for JSON; never a secret."""
        return {
            "scope": str(self.scope),
            "applies": None if self.winner is None else _shown(self.winner),
            "passed_over": [each.to_json() for each in self.passed_over],
            "org_feature": self.org_feature,
        }


def explain_scope(
    *,
    scope: Annotated[str, typer.Option("--scope", help="controller, partner:NAME or org:PARTNER/NAME")],
    json: Json = False,
) -> None:
    """Tell which record sends a scope's mail, and why the others do not."""
    owner = _parse_scope(scope)
    with _failing_readably():
        environment = load_settings().controller_record()
    found = _run(lambda store: explain(store, owner, environment))
    if json:
        _print_json(found.to_json())
    else:
        for line in _lines(found):
            typer.echo(line)
    raise typer.Exit(0 if found.winner is not None else NOT_AVAILABLE)


async def explain(store: "ConfigStore", scope: Scope, environment: SmtpConfig | None) -> Explanation:
    """Account for every record that could send `scope`'s mail; `environment` is the controller's, if set."""
    from worker.store.controller import ControllerFromEnvironment

    source: ConfigSource = store if environment is None else ControllerFromEnvironment(store, environment)
    stored = await source.configs_for(scope)
    resolution = resolve(scope, stored)
    winner = resolution.config if isinstance(resolution, Resolved) else None
    summaries = {wider: await store.summaries(wider) for wider in scope.lineage()}
    is_org = scope.level is ScopeLevel.ORG
    reasons = _Reasons(winner, environment, org_enabled=stored.org_enabled)
    return Explanation(scope, winner, tuple(reasons.of(summaries)), stored.org_enabled if is_org else None)


class _Reasons:
    """Why records do not apply, given the one that does."""

    def __init__(self, winner: SmtpConfig | None, environment: SmtpConfig | None, *, org_enabled: bool) -> None:
        self._winner = winner
        self._environment = environment
        self._org_enabled = org_enabled

    def of(self, summaries: Mapping[Scope, Sequence["RecordSummary"]]) -> Iterator[PassedOver]:
        """Each record of each scope, most specific first; those from the environment before the stored ones."""
        for scope, records in summaries.items():
            own = self._environment if scope == CONTROLLER else None
            if own is not None and own is not self._winner:
                yield PassedOver(scope, own.display_name, self._more_specific())
            if own is None and not records:
                yield PassedOver(scope, None, "it has no record")
            for record in records:
                if not self._wins(record):
                    yield PassedOver(scope, record.name, self._why_not(record, records))

    def _wins(self, record: "RecordSummary") -> bool:
        winner = self._winner
        if winner is None or winner is self._environment:
            return False
        return (winner.scope, winner.display_name) == (record.scope, record.name)

    def _why_not(self, record: "RecordSummary", beside: Sequence["RecordSummary"]) -> str:
        if record.scope.level is ScopeLevel.ORG and not self._org_enabled:
            return f"the org's own records are off: postbote config feature --scope {record.scope} --on"
        if record.scope == CONTROLLER and self._environment is not None:
            return _FROM_ENVIRONMENT
        if not record.is_default:
            default = next((each.name for each in beside if each.is_default), None)
            return "no record of its scope is the default" if default is None else f"{default!r} is its scope's default"
        return self._more_specific()

    def _more_specific(self) -> str:
        return "a more specific record applies" if self._winner is None else f"{self._winner.scope} is more specific"


def _from(config: SmtpConfig) -> str | None:
    from worker.message.sender import default_from

    return default_from(config)


def _shown(config: SmtpConfig) -> dict[str, Any]:
    return {
        "scope": str(config.scope),
        "name": config.display_name,
        "host": config.host,
        "port": config.port,
        "tls": str(config.tls),
        "username": config.username,
        "from": _from(config),
        "version": config.version,
        "fingerprint": config.fingerprint,
        "warnings": list(config.warnings()),
    }


def _lines(found: Explanation) -> Iterator[str]:
    winner = found.winner
    if winner is None:
        yield f"no record applies to {found.scope}: its mail waits until one is stored"
    else:
        yield f"{found.scope} sends by {label(winner.scope, winner.display_name)}"
        yield f"server: {winner.host}:{winner.port} ({winner.tls})"
        yield f"from: {_from(winner) or _NO_FROM}"
        yield f"version: {winner.version}"
        yield f"fingerprint: {winner.fingerprint}"
        yield from (f"warning: {warning}" for warning in winner.warnings())
    for each in found.passed_over:
        what = str(each.scope) if each.name is None else label(each.scope, each.name)
        yield f"passed over: {what}: {each.why}"
