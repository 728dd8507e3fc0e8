"""The controller's record from the process's environment, laid over the stored ones."""

from schemas.smtp_config import Scope, SmtpConfig
from worker.delivery.ports import ConfigSource, ScopedConfigs


class ControllerFromEnvironment:
    """Fulfils `ConfigSource`: `record` is the controller's, whatever the store has for it.

    Partner and org records outrank it as they do any controller record.
    """

    def __init__(self, inner: ConfigSource, record: SmtpConfig) -> None:
        """Take the source to lay it over; raise ValueError for a record of another scope."""
        if record.scope != Scope():
            msg = f"the environment's SMTP record is the controller's, not {record.scope}'s"
            raise ValueError(msg)
        self._inner = inner
        self._record = record

    async def configs_for(self, scope: Scope) -> ScopedConfigs:
        """The inner source's answer with the controller's record replaced, and without fallbacks for it."""
        found = await self._inner.configs_for(scope)
        fallbacks = {owner: records for owner, records in found.fallbacks.items() if owner != Scope()}
        return ScopedConfigs(
            {**found.records, Scope(): self._record}, org_enabled=found.org_enabled, fallbacks=fallbacks
        )
