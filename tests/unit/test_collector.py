"""The collector's settings: what is alive at the start is left alone, and garbage still goes."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from worker.collector import settle_collector


class Cyclic:
    """An object that only the collector can free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def own_settings() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_what_is_alive_at_the_start_is_never_gone_through_again() -> None:
    settle_collector()
    assert gc.get_freeze_count() > 1000
    assert gc.isenabled()
    assert gc.get_threshold()[0] > 700


def test_garbage_from_before_the_start_is_not_kept_for_ever() -> None:
    gone = weakref.ref(Cyclic())
    settle_collector()
    assert gone() is None


def test_cycles_made_afterwards_are_collected_without_being_asked() -> None:
    settle_collector()
    gone = weakref.ref(Cyclic())
    young = gc.get_threshold()[0]
    held = [[] for _ in range(2 * young)]
    assert gone() is None, f"{len(held)} allocations later it is still there"
