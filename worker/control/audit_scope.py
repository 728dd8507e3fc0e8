"""How far a principal sees into the audit: its scope laid over every question and every answer.

The one place where that is decided. A partner sees its own records and its orgs', an org only its own,
the controller all. A question for somebody else's records has the answer of one for records that are
not there: nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from schemas.audit_query import AuditQuery
from schemas.smtp_config import Scope
from worker.control.audit_masks import UNSEEN, of_another, without_the_way
from worker.control.principals import Principal


def scoped(query: AuditQuery, principal: Principal) -> AuditQuery | None:
    """The same question about what `principal` may see; None where it can have no answer.

    Names are compared as they are, letter by letter, as the audit compares them.
    """
    own = principal.scope
    foreign_partner = own.partner is not None and query.partner not in {None, own.partner}
    foreign_org = own.org is not None and query.org not in {None, own.org}
    if foreign_partner or foreign_org:
        return None
    narrowed = replace(query, partner=own.partner or query.partner, org=own.org or query.org)
    return narrowed if own.partner is None else _of_what_is_shown(narrowed, own)


def _of_what_is_shown(query: AuditQuery, own: Scope) -> AuditQuery:
    """Of a wider scope's record a tenant sees neither name nor words, and is not to find them out by asking."""
    if query.config is None and query.text is None:
        return query
    return replace(query, config_within=str(own), unseen=None if query.text is None else UNSEEN)


def shown_to(record: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
    """A record as `principal` may see it.

    Of a wider scope's SMTP record only that it was used: its host, its name and its fingerprint are not
    the tenant's to know, nor its server's words (see `worker.control.audit_masks`). Of somebody who made a
    change from above, not the address it came from.
    """
    shown = dict(record) if principal.scope.partner is None else without_the_way(record)
    config, actor = record.get("config"), record.get("actor")
    if isinstance(config, Mapping) and not _reaches(principal, config.get("scope")):
        shown = of_another(shown) | {"config": {"scope": config.get("scope")}}
    if isinstance(actor, Mapping) and not _reaches(principal, actor.get("scope")):
        shown["actor"] = {name: value for name, value in actor.items() if name != "origin"}
    return shown


def _reaches(principal: Principal, scope: object) -> bool:
    if principal.scope.partner is None:
        return True
    try:
        return principal.reaches(Scope.parse(str(scope)))
    except ValueError:
        return False
