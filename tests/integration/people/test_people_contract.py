"""What tests/control/store_people demands of people on a SQLite file, demanded of them on a real PostgreSQL.

The very functions are collected here again and find this folder's `people`. One that looks into the
database's file is about SQLite, says so by taking `tmp_path`, and stays where it is.
"""

import inspect
from collections.abc import Callable
from types import ModuleType

from tests.control.store_people import (
    test_people_links,
    test_people_organizations,
    test_people_sessions,
    test_people_tokens,
    test_people_users,
)
from tests.control.store_people.test_people_organizations import acme
from tests.control.store_people.test_people_sessions import amara

__all__ = ["acme", "amara"]


def contract_of(module: ModuleType) -> dict[str, Callable[..., object]]:
    """The module's tests that ask the store, and nothing beside it."""
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    taken = {name: set(inspect.signature(test).parameters) for name, test in tests.items()}
    return {name: tests[name] for name, takes in taken.items() if "people" in takes and "tmp_path" not in takes}


PARTS = (test_people_users, test_people_sessions, test_people_tokens, test_people_links, test_people_organizations)
for _part in PARTS:
    globals().update(contract_of(_part))


def test_the_contract_is_whole_and_no_name_stands_twice() -> None:
    found = [contract_of(part) for part in PARTS]
    assert all(len(each) > 7 for each in found)
    assert len({name for each in found for name in each}) == sum(map(len, found))
