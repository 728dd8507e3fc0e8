"""Heads at intervals and at the end, and none that waits behind another."""

import asyncio

import pytest
from structlog.testing import capture_logs

from tests.unit.proof.proof_samples import AWAY
from worker.proof.heads import Heads


class Writer:
    """Counts the heads that were asked of it; `gate` makes them wait, `failure` is raised once."""

    def __init__(self):
        self.begun = 0
        self.waiting = 0
        self.most_waiting = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure = None
        self.enough = asyncio.Event()

    async def write_head(self, now):
        assert now.tzinfo is not None
        self.begun += 1
        if self.begun >= 3:
            self.enough.set()
        failure, self.failure = self.failure, None
        if failure:
            raise failure
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1


@pytest.fixture
def writer():
    return Writer()


async def test_a_head_is_written_every_so_often_and_at_the_end(writer):
    heads = Heads(writer, 0.01)
    heads.start()
    async with asyncio.timeout(5):
        await writer.enough.wait()
    await heads.stop()
    before = writer.begun
    await heads.close()
    assert writer.begun == before + 1


async def test_an_interval_that_has_not_passed_writes_none(writer):
    heads = Heads(writer, 3600)
    heads.start()
    await heads.stop()
    assert writer.begun == 0


async def test_while_the_audit_is_away_one_head_waits_and_the_stop_is_not_held_up(writer):
    writer.gate.clear()
    heads = Heads(writer, 0.001)
    heads.start()
    async with asyncio.timeout(5):
        while not writer.waiting:
            await asyncio.sleep(0.001)
        for _ in range(20):
            await asyncio.sleep(0.001)
        await heads.close(0.05)
    assert (writer.most_waiting, writer.waiting, writer.begun) == (1, 0, 2)


@pytest.mark.parametrize("failure", [AWAY, RuntimeError("a mistake of ours")], ids=["away", "a mistake"])
async def test_a_head_that_fails_is_said_and_the_next_one_is_written(writer, failure, monkeypatch):
    monkeypatch.setattr("worker.proof.heads._SURPRISE_PAUSE_S", 0.0)
    writer.failure = failure
    heads = Heads(writer, 0.001)
    with capture_logs() as logs:
        heads.start()
        async with asyncio.timeout(5):
            await writer.enough.wait()
        await heads.stop()
    assert len(logs) == 1
