"""What tests/control/store demands of the store on a SQLite file, demanded of it on a real PostgreSQL.

The very functions are collected here again and find this module's `url`. One that looks into the
database's file is about SQLite, says so by taking `tmp_path`, and stays where it is.
"""

import inspect
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.control.store import (
    test_configs,
    test_database,
    test_named_secrets,
    test_ordering,
    test_records,
    test_secrets,
    test_sources,
    test_told_changes,
)

# Fixtures and tests of this module that are about every database; its others are about SQLite's files and locks.
OF_DATABASE = (
    "fresh",
    "test_the_steps_build_exactly_the_tables_of_the_models",
    "test_a_schema_from_the_future_is_neither_used_nor_upgraded",
    "test_stores_that_upgrade_one_new_file_at_once_all_succeed",
)
STORES = {"store", "four"}  # the fixtures that give one
four = test_ordering.four


def contract_of(module: ModuleType) -> dict[str, Callable[..., object]]:
    """The module's tests that ask the store, and nothing beside it."""
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    taken = {name: set(inspect.signature(test).parameters) for name, test in tests.items()}
    return {name: tests[name] for name, takes in taken.items() if takes & STORES and "tmp_path" not in takes}


MODULES = (
    test_configs,
    test_named_secrets,
    test_ordering,
    test_records,
    test_secrets,
    test_sources,
    test_told_changes,
)
for _module in MODULES:
    globals().update(contract_of(_module))
globals().update({name: getattr(test_database, name) for name in OF_DATABASE})


@pytest.fixture
def url(postgres_url: str) -> str:
    return postgres_url


def test_the_contract_is_not_empty() -> None:
    assert len(contract_of(test_configs)) > 20
    assert len(contract_of(test_secrets)) > 5
    assert len(contract_of(test_ordering)) > 5


def test_no_test_takes_the_name_of_another() -> None:
    names = [name for module in MODULES for name in contract_of(module)]
    assert len(set(names)) == len(names)
