"""Partners and organizations, and the feature that lets an org's own SMTP records count."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Select, and_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.audit_change import Action, ChangeType
from schemas.smtp_config import Scope
from worker.control.errors import NotFound
from worker.control.people import NewUser, Organization, Partner
from worker.control.ports import MakeMail
from worker.control.principals import Actor, Role
from worker.store.directory import Deed, DirectoryPart, tell, unique
from worker.store.features import begin_org, switch_org
from worker.store.history import Step
from worker.store.models import features
from worker.store.models_people import organizations, partners
from worker.store.people_rows import organization_of, partner_of, tenant_name
from worker.store.users import insert_user

_FEATURE = ("smtp_enabled",)


class Organizations(DirectoryPart):
    """The part of `worker.control.ports.Directory` that is about partners and organizations."""

    async def create_partner(self, name: str, actor: Actor) -> Partner:
        """Make a partner; raises Taken, and Refused for what is no name."""
        partner = Partner(tenant_name(name), self._now(), actor.name)
        values = {"name": name, "created_at": partner.created_at, "created_by": partner.created_by}
        async with self.database.writing() as connection:
            with unique("name", f"there is a partner {name} already"):
                await connection.execute(partners.insert().values(**values))
            deed = Deed(ChangeType.ORGANIZATION, Action.CREATED, Scope(name), name)
            await tell(connection, deed, actor, partner.created_at)
        return partner

    async def partners(self) -> Sequence[Partner]:
        """All of them by name."""
        async with self.database.reading() as connection:
            found = await connection.execute(select(partners).order_by(partners.c.name))
        return [partner_of(row) for row in found.mappings()]

    async def create_organization(
        self, partner: str, name: str, admin: NewUser, actor: Actor, *, smtp_enabled: bool, mail: MakeMail | None
    ) -> Organization:
        """Make an organization with its first admin; raises Taken, Refused, and NotFound for the partner.

        Whatever `admin` says of scope and role, it is the organization's admin; errors call its address admin_email.
        """
        made = Organization(partner, tenant_name(name), self._now(), actor.name, smtp_enabled=smtp_enabled)
        first = replace(admin, scope=Scope(partner, name), role=Role.ADMIN)
        async with self.database.writing() as connection:
            await _insert(connection, made)
            await begin_org(connection, first.scope, on=smtp_enabled)
            deed = Deed(ChangeType.ORGANIZATION, Action.CREATED, first.scope, name, _FEATURE if smtp_enabled else ())
            await tell(connection, deed, actor, made.created_at)
            await insert_user(connection, first, actor, made.created_at, mail, path="admin_email")
        return made

    async def organizations(self, partner: str) -> Sequence[Organization]:
        """The partner's by name."""
        query = _organizations().where(organizations.c.partner == partner).order_by(organizations.c.name)
        async with self.database.reading() as connection:
            return [organization_of(row) for row in (await connection.execute(query)).mappings()]

    async def organization(self, partner: str, name: str) -> Organization | None:
        """One of them."""
        async with self.database.reading() as connection:
            return await _find(connection, partner, name)

    async def switch_org_smtp(self, partner: str, name: str, actor: Actor, *, on: bool) -> Organization:
        """Let the org's own records count, or not; raises NotFound. Nothing is told where it was so already."""
        async with self.database.writing() as connection:
            found = await _find(connection, partner, name)
            if found is None:
                raise NotFound("name", f"there is no organization {partner}/{name}")
            await switch_org(connection, Scope(partner, name), Step(actor, self._now()), on=on)
        return replace(found, smtp_enabled=on)


def _organizations() -> Select[tuple[object, ...]]:
    own = and_(features.c.partner == organizations.c.partner, features.c.org == organizations.c.name)
    return select(organizations, features.c.org_smtp).outerjoin(features, own)


async def _find(connection: AsyncConnection, partner: str, name: str) -> Organization | None:
    query = _organizations().where(organizations.c.partner == partner, organizations.c.name == name)
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else organization_of(row)


async def _insert(connection: AsyncConnection, made: Organization) -> None:
    there = select(partners.c.name).where(partners.c.name == made.partner)
    if (await connection.execute(there)).first() is None:
        raise NotFound("partner", f"there is no partner {made.partner}")
    values = {name: getattr(made, name) for name in ("partner", "name", "created_at", "created_by")}
    with unique("name", f"there is an organization {made.partner}/{made.name} already"):
        await connection.execute(organizations.insert().values(**values))
