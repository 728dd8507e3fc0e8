"""Fixtures of the audit's unit tests."""

import pytest

from worker.audit import link


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch):
    monkeypatch.setattr(link, "_FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(link, "_MAX_BACKOFF_S", 0.01)
