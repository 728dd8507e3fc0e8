"""Fixtures for every test; the real servers come from tests.services."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import structlog
import uvloop
from hypothesis import HealthCheck, settings

# On a machine with neighbours an example takes what it takes; hypothesis would call 200 ms a failure, now and then.
settings.register_profile("busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

pytest_plugins = ["tests.services.fixtures"]


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], Any]]:
    """Run the tests on the loop that the product runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a command configured: its standard error is closed when its test ends."""
    yield
    structlog.reset_defaults()
    for handler in [h for h in logging.root.handlers if type(h) is logging.StreamHandler]:
        logging.root.removeHandler(handler)
