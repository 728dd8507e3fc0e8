"""What tests/unit/store demands of the store on a SQLite file, demanded of it on both databases.

The very functions are collected here again and find this folder's `url` and `store`. One that
looks into the database's file is about SQLite, says so by taking `tmp_path`, and stays there.
"""

import inspect
from collections.abc import Callable
from types import ModuleType

from tests.unit.store import test_configs, test_database, test_secrets, test_sources

# Fixtures and tests of this module that are about every database; its others are about SQLite's files and locks.
OF_DATABASE = (
    "fresh",
    "test_the_steps_build_exactly_the_tables_of_the_models",
    "test_a_schema_from_the_future_is_neither_used_nor_upgraded",
    "test_stores_that_upgrade_one_new_file_at_once_all_succeed",
)


def contract_of(module: ModuleType) -> dict[str, Callable[..., object]]:
    """The module's tests that ask the store, and nothing beside it."""
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    taken = {name: set(inspect.signature(test).parameters) for name, test in tests.items()}
    return {name: tests[name] for name, takes in taken.items() if "store" in takes and "tmp_path" not in takes}


for _module in (test_configs, test_secrets, test_sources):
    globals().update(contract_of(_module))
globals().update({name: getattr(test_database, name) for name in OF_DATABASE})


def test_the_contract_is_not_empty() -> None:
    assert len(contract_of(test_configs)) > 20
    assert len(contract_of(test_secrets)) > 5
