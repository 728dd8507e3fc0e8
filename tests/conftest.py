"""Fixtures for every test; the real servers come from tests.services."""

from collections.abc import Callable, Mapping
from typing import Any

import uvloop

pytest_plugins = ["tests.services.fixtures"]


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], Any]]:
    """Run the tests on the loop that the product runs on."""
    return {"uvloop": uvloop.new_event_loop}
