"""Several mails on one connection and a fault at one of them: every reply goes to the mail that it answers."""

import asyncio
import itertools

import pytest

from tests.peers.agreement import disagreements, record_for, sender_for
from tests.peers.scripted import Act, End, Offers, Point, Script, ScriptedPeer
from worker.delivery.ports import Ack, Park

PIPELINING = pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "lockstep"])
# Lines that end a message at a server which is not told that they do not (RFC 5321 section 4.5.2).
TEXT = ".\r\n..\r\n.dot\r\nQUIT\r\n.\r\nMAIL FROM:<evil@example.com>\r\n"
TO = [f"rcpt-{n}@example.com" for n in range(6)]

FAULTS = {
    "FIN": {"end": End.FIN},
    "RST": {"end": End.RST},
    "FIN-after-the-reply": {"end": End.FIN, "obey": True},
    "421": {"say": b"421 4.3.2 Bye\r\n", "end": End.FIN},
    "421-only": {"say": b"421 4.3.2 Bye\r\n"},
    "garbage": {"say": b"what?\r\n"},
    "deferred": {"say": b"451 4.3.0 Later\r\n"},
    "refused": {"say": b"554 5.6.0 No\r\n"},
}
POINTS = (Point.MAIL, Point.RCPT, Point.DATA, Point.BODY, Point.DOT)
CASES = [
    pytest.param(point, Act(**act, nth=nth, octets=30 if point is Point.BODY else None), id=f"{name}-at-{point}-{nth}")
    for (name, act), point, nth in itertools.product(FAULTS.items(), POINTS, (1, 2, 5))
    # The content has no reply of its own.
    if point is not Point.BODY or name in {"FIN", "RST", "421"}
]
KEPT = [
    pytest.param(Act(**{**act, "holds": True, "nth": nth}), id=f"{name}-kept-{nth}")  # type: ignore[arg-type]
    for (name, act), nth in itertools.product(FAULTS.items(), (1, 2, 5))
    if name in {"FIN", "RST", "garbage"}
]


@PIPELINING
@pytest.mark.parametrize(("point", "act"), CASES)
async def test_a_fault_at_one_of_six_mails_is_told_of_that_one_only(point: Point, act: Act, pipelining: bool) -> None:
    async with ScriptedPeer(Script({point: act}), offers=Offers(pipelining=pipelining)) as peer:
        async with sender_for(record_for(peer.port)) as sender:
            settlements = await sender.send_many(TO, on_doubt="hold", text=TEXT)
        assert disagreements(sender, [(k.message_id, k.recipient) for k in peer.kept]) == []
        assert all(kept.content == sender.contents[kept.message_id] for kept in peer.kept)
        assert peer.violations == []
        ends = {to: sender.outcomes(to)[-1] for to in TO}
        troubled = [to for to, end in ends.items() if end != "accepted"]
        assert len(troubled) <= 1, "one connection has at most one mail in doubt, and one reply refuses one mail"
        if b"554" in act.say:
            assert [ends[to] for to in troubled] == ["refused"]
        else:
            assert {ends[to] for to in troubled} <= {"in_doubt"}
        for to, settlement in zip(TO, settlements, strict=True):
            assert isinstance(settlement, Park) if ends[to] == "in_doubt" else settlement == Ack()


@PIPELINING
@pytest.mark.parametrize("act", KEPT)
async def test_only_the_mail_whose_reply_was_lost_may_be_there_twice(act: Act, pipelining: bool) -> None:
    async with ScriptedPeer(Script({Point.DOT: act}), offers=Offers(pipelining=pipelining)) as peer:
        async with sender_for(record_for(peer.port)) as sender:
            assert set(await sender.send_many(TO, on_doubt="resend", text=TEXT)) == {Ack()}
        assert disagreements(sender, [(k.message_id, k.recipient) for k in peer.kept]) == []
        assert all(kept.content == sender.contents[kept.message_id] for kept in peer.kept)
        copies = {to: [k.content for k in peer.kept if k.recipient == to] for to in TO}
        [twice] = [to for to, contents in copies.items() if len(contents) == 2]
        assert sender.outcomes(twice) == ["in_doubt", "accepted"]
        assert len(set(copies[twice])) == 1
        assert {recipient for _, recipient in sender.possible_duplicates()} == {twice}
        assert all(len(contents) == 1 for to, contents in copies.items() if to != twice)


@PIPELINING
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
async def test_a_refused_recipient_is_the_only_one_refused(nth: int, pipelining: bool) -> None:
    script = Script({Point.RCPT: Act(say=b"550 5.1.1 No such user\r\n", nth=nth)})
    async with ScriptedPeer(script, offers=Offers(pipelining=pipelining)) as peer:
        async with sender_for(record_for(peer.port)) as sender:
            assert await sender.send(*TO[:4]) == Ack()
        assert disagreements(sender, [(k.message_id, k.recipient) for k in peer.kept]) == []
        assert all(kept.content == sender.contents[kept.message_id] for kept in peer.kept)
        assert [to for to in TO[:4] if sender.outcomes(to) == ["refused"]] == [TO[nth - 1]]
        assert len(peer.kept) == 3


@PIPELINING
@pytest.mark.parametrize("code", [450, 550])
async def test_a_mail_without_a_single_recipient_leaves_nothing_behind_for_the_next(
    code: int, pipelining: bool
) -> None:
    say = b"%d %d.1.1 No\r\n" % (code, code // 100)
    script = Script({Point.RCPT: Act(say=say, nth=1)})
    async with ScriptedPeer(script, offers=Offers(pipelining=pipelining)) as peer:
        async with sender_for(record_for(peer.port)) as sender:
            await sender.send_many(TO)
        assert disagreements(sender, [(k.message_id, k.recipient) for k in peer.kept]) == []
        assert all(kept.content == sender.contents[kept.message_id] for kept in peer.kept)
        assert peer.violations == []
        assert all(kept.content.endswith(b"\r\n") and len(kept.content) > 100 for kept in peer.kept)
        assert len(peer.kept) == (6 if code == 450 else 5)


@PIPELINING
@pytest.mark.parametrize(
    "act", [Act(end=End.FIN), Act(end=End.RST), Act(say=b"421 4.4.2 Idle\r\n", end=End.FIN)], ids=["FIN", "RST", "421"]
)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "later"])
async def test_a_connection_that_ended_while_idle_costs_the_next_mail_nothing(
    act: Act, at_once: bool, pipelining: bool
) -> None:
    async with ScriptedPeer(Script({Point.IDLE: act}), offers=Offers(pipelining=pipelining)) as peer:
        async with sender_for(record_for(peer.port)) as sender:
            assert await sender.send(TO[0]) == Ack()
            if not at_once:
                await asyncio.sleep(0.05)  # the end of a connection that nobody reads from is no event
            assert await sender.send(TO[1]) == Ack()
        assert disagreements(sender, [(k.message_id, k.recipient) for k in peer.kept]) == []
        assert all(kept.content == sender.contents[kept.message_id] for kept in peer.kept)
        assert sender.outcomes(TO[0]) == ["accepted"]
        # A mail that met the end on its way out was not handed over, and is so recorded.
        assert sender.outcomes(TO[1]) in ([["accepted"], ["deferred", "accepted"]] if at_once else [["accepted"]])
        assert len(peer.kept) == 2
