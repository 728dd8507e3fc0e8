"""Who may use the SMTP endpoints, and for whom they exist at all.

For an organization whose SMTP feature is off each of them answers like a path that nobody ever made:
after the question who asks, and before anything else.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig
from schemas.text import one_line
from worker.api.auth import Admission, Asker, Gate
from worker.api.problem import Problem, forbidden, not_found
from worker.control.ports import Records

_MAX_NAME_CHARS = 2000
_VARIABLES = ("ADDR", "PORT", "USERNAME", "PASSWORD", "USE_TLS", "USE_INSECURE")
_FROM_ENVIRONMENT = (
    f"the controller's record is set by {', '.join(f'FW_EVENT_SMTP_SERVER_{name}' for name in _VARIABLES)} "
    "(also spelled POSTBOTE_CONTROLLER_*): change them and restart, or unset them to keep the record here"
)


@dataclass(frozen=True, slots=True)
class SmtpAdmissions:
    """Dependencies: `reader` admits whoever may read SMTP records, `admin` whoever may change them."""

    reader: Admission
    admin: Admission


def smtp_admissions(gate: Gate, records: Records) -> SmtpAdmissions:
    """Build them over `gate`."""

    async def reader(asker: Annotated[Asker, Depends(gate.reader)]) -> Asker:
        if asker.scope.org is not None and not await records.org_feature(asker.scope):
            raise not_found()
        return asker

    async def admin(asker: Annotated[Asker, Depends(reader)]) -> Asker:
        if not asker.principal.may_change:
            raise forbidden("a viewer reads and changes nothing")
        return asker

    return SmtpAdmissions(reader, admin)


def owned_by_environment(scope: Scope, environment: SmtpConfig | None) -> bool:
    """Whether the scope's record comes from the process's environment."""
    return environment is not None and scope == CONTROLLER


def refuse_if_from_environment(scope: Scope, environment: SmtpConfig | None) -> None:
    """Raise Problem 409, which names the variables, where the scope's record is not the API's to change."""
    if owned_by_environment(scope, environment):
        raise Problem(409, "Set by the environment", _FROM_ENVIRONMENT)


def named_in_path(name: str) -> str:
    """The name as the store may be asked for it; raises Problem 404 for what cannot be a name."""
    try:
        found = one_line(name) if len(name) <= _MAX_NAME_CHARS else None
    except ValueError:
        found = None  # nothing was ever stored under it
    if found is None:
        raise not_found()
    return found
