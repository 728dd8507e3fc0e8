"""Whose turn it is: transactional mail first, and bulk never last for ever."""

import asyncio

import pytest

from worker.delivery.ports import MailEnvelope, RenderedMessage
from worker.smtp.job import Job
from worker.smtp.turns import BULK_EVERY, Turns


def job(name: str) -> Job:
    message = RenderedMessage(b"", name, bulk=name.startswith("b"))
    return Job(MailEnvelope("a@b", ("c@d",)), message, asyncio.get_running_loop().create_future())


def waiting(*names: str) -> Turns:
    turns = Turns()
    for name in names:
        turns.append(job(name))
    return turns


def taken(turns: Turns, count: int = 100) -> list[str]:
    found = []
    while count and (one := turns.popleft()):
        found.append(one.message.message_id)
        count -= 1
    return found


@pytest.mark.parametrize(
    ("name", "come", "go"),
    [
        ("in the order of coming among equals", "t1 t2 t3", "t1 t2 t3"),
        ("bulk alone goes at once", "b1 b2", "b1 b2"),
        ("transactional mail overtakes bulk", "b1 b2 t1", "t1 b1 b2"),
        ("of five, one is bulk", "b1 b2 t1 t2 t3 t4 t5 t6 t7 t8 t9", "t1 t2 t3 t4 b1 t5 t6 t7 t8 b2 t9"),
    ],
)
async def test_the_order(name: str, come: str, go: str) -> None:
    assert BULK_EVERY == 5
    turns = waiting(*come.split())
    assert len(turns) == len(come.split())
    assert taken(turns) == go.split()
    assert len(turns) == 0


async def test_a_message_that_is_put_back_is_the_next_of_its_kind() -> None:
    turns = waiting("t1", "t2", "b1")
    first = turns.popleft()
    assert first
    turns.appendleft(first)
    assert taken(turns) == ["t1", "t2", "b1"]


async def test_what_nobody_waits_for_any_more_is_left_out() -> None:
    turns = waiting("t1", "t2", "b1")
    for each in list(turns)[1:]:
        each.answered.cancel()
    assert taken(turns) == ["t1"]


async def test_a_message_is_taken_back_once_and_a_second_time_does_nothing() -> None:
    turns = waiting("t1", "b1")
    for each in list(turns):
        turns.remove(each)
        turns.remove(each)
    assert len(turns) == 0
