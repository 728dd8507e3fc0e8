"""A turn of the loop that took long is told, with where it was; others are not."""

import asyncio
import json
import threading
import time

import pytest

from tests.chaos.watched import LONG_S, Watch, clocks


def compute(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_a_long_turn_is_told_with_its_cpu_time_and_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        watch = Watch(threading.get_ident(), clocks())
        watch.tick()
        looking = threading.Thread(target=watch.look, daemon=True)
        looking.start()
        try:
            await asyncio.sleep(2 * LONG_S)  # a wait is no turn
            compute(3 * LONG_S)
            await asyncio.sleep(0.05)
        finally:
            watch.ended.set()
            looking.join()  # or it tells of the next test's turns

    asyncio.run(work())
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (ended,) = [line for line in told if line["event"] == "long turn" and line["cpu_ms"] >= 2000 * LONG_S]
    assert ended["turn_ms"] >= ended["cpu_ms"] + ended["waited_ms"] - 20
    assert any("compute" in frame for frame in ended["seen"][0])
