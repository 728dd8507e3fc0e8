"""The SMTP endpoints over the real store on a SQLite file, and principals of every scope and role."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas.smtp_config import SmtpConfig
from tests.control.api_smtp.site import ORGS, PARTNERS, TESTS, Site
from tests.support.databases import upgraded
from worker.control.people import NewUser
from worker.control.principals import Role
from worker.store.configs import ConfigStore
from worker.store.database import Store
from worker.store.people import PeopleStore
from worker.store.secrets import SecretBox, new_key


async def populate(database: Store) -> None:
    """Partners and orgs; dev's SMTP feature is on, that of ops is off."""
    await upgraded(database)
    people = PeopleStore(database)
    for name in PARTNERS:
        await people.create_partner(name, TESTS)
    for scope, enabled in ORGS.items():
        admin = NewUser(f"admin@{scope.org}.example", None, scope, Role.ADMIN)
        await people.create_organization(
            scope.partner or "", scope.org or "", admin, TESTS, smtp_enabled=enabled, mail=None
        )
    await database.close()


@pytest.fixture(scope="session")
def populated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("populated") / "postbote.db"
    asyncio.run(populate(Store(f"sqlite:///{path}")))
    return path


@pytest.fixture
def environment() -> SmtpConfig | None:
    """The controller's record of the environment; a test that wants one overrides this."""
    return None


@pytest.fixture
async def site(populated: Path, tmp_path: Path, environment: SmtpConfig | None) -> AsyncIterator[Site]:
    path = tmp_path / "postbote.db"
    shutil.copy(populated, path)
    database = Store(f"sqlite:///{path}")
    store = ConfigStore(database, SecretBox([new_key()]))
    async with Site(PeopleStore(database), store, environment, path) as made:
        yield made
    await database.close()
