"""Whether a scope's mail would go out at all: asked before a change that takes effect by a mail."""

from schemas.smtp_config import Scope
from worker.control.errors import NotWorking
from worker.delivery.ports import ConfigSource
from worker.delivery.resolution import Resolved, resolve
from worker.message.sender import default_from

_REMEDY = "store one (POST /event/v1/email/config), test it, and ask again"


async def require_working(configs: ConfigSource, scope: Scope) -> None:
    """Return if an SMTP record applies to `scope` and names a sender; else raise NotWorking with the remedy.

    Raises StoreUnavailable, too. Whose record it is, is not told: it may be one that the asker must not know.
    """
    resolution = resolve(scope, await configs.configs_for(scope))
    if not isinstance(resolution, Resolved):
        raise NotWorking("smtp_config", f"this sends a mail, and no SMTP record applies to {scope}: {_REMEDY}")
    if default_from(resolution.config) is None:
        raise NotWorking(
            "smtp_config.from_address",
            f"this sends a mail, and the SMTP record that applies to {scope} names no sender: set its from_address",
        )
