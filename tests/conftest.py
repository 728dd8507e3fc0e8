"""Fixtures for every test; the real servers come from tests.services."""

import sys

import pytest

pytest_plugins = ["tests.services.fixtures"]

if sys.platform != "win32":
    import uvloop

    @pytest.fixture(scope="session")
    def event_loop_policy() -> uvloop.EventLoopPolicy:
        """Run the tests on the loop that the product runs on."""
        return uvloop.EventLoopPolicy()
