"""Every fault of the table on a connection in clear: server and audit agree, and the mail ends as it must."""

from dataclasses import replace

import pytest

from tests.peers.agreement import Sender, disagreements, record_for, sender_for
from tests.peers.fault_table import PATIENT_S, ROWS, Row, impatient_at_first
from tests.peers.scripted import Offers, ScriptedPeer
from worker.delivery.ports import Ack, Later, Park, Settlement

TO = "ann@example.com"
PIPELINING = pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "lockstep"])
DOUBTFUL = [row for row in ROWS if ("in_doubt",) in row.ends]

pytestmark = pytest.mark.usefixtures("short_final_wait")


@pytest.fixture(autouse=True)
def faulty_connection_given_up_soon(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    row = getattr(request.node, "callspec", None) and request.node.callspec.params.get("row")
    if row:
        impatient_at_first(monkeypatch, row.timeout_s)


def peer_for(row: Row, *, pipelining: bool, always: bool = False) -> ScriptedPeer:
    window = 8192 if row.size else None
    offers = Offers(pipelining=pipelining)
    if always:
        acts = {point: replace(act, nth=None) for point, act in row.script.acts.items()}
        return ScriptedPeer(always=replace(row.script, acts=acts), offers=offers, receive_buffer=window)
    return ScriptedPeer(row.script, offers=offers, receive_buffer=window)


async def send(row: Row, peer: ScriptedPeer, on_doubt: str) -> tuple[Sender, Settlement]:
    """Have one mail delivered to the peer; whatever it does, the two sides agree."""
    # A line for every KB: a single long one would be a different mail on the wire.
    text = ("x" * 998 + "\r\n") * (row.size // 1000) or "Hello.\r\n.leading dot\r\n"
    async with sender_for(record_for(peer.port, timeout_s=PATIENT_S)) as sender:
        settlement = await sender.send(TO, on_doubt=on_doubt, text=text)
    assert disagreements(sender, [(k.message_id, k.recipient) for k in peer.kept]) == []
    assert peer.violations == []
    assert {kept.content for kept in peer.kept} <= set(sender.contents.values()), "what is kept has other bytes"
    return sender, settlement


@PIPELINING
@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_after_a_fault_the_mail_ends_as_the_table_says(row: Row, pipelining: bool) -> None:
    async with peer_for(row, pipelining=pipelining) as peer:
        sender, settlement = await send(row, peer, "hold")
        outcomes = tuple(sender.outcomes(TO))
        assert outcomes in row.ends
        delivered_later = outcomes[-1] == "accepted" and len(outcomes) > 1
        assert len(peer.kept) == row.kept + delivered_later
        if outcomes[-1] == "in_doubt":
            assert isinstance(settlement, Park)
            assert (settlement.reason, settlement.pending) == ("in_doubt", (TO,))
        else:
            assert settlement == Ack()
        assert not sender.possible_duplicates()


@PIPELINING
@pytest.mark.parametrize("row", DOUBTFUL, ids=str)
async def test_a_mail_in_doubt_is_sent_once_more_with_the_same_bytes_and_says_so(row: Row, pipelining: bool) -> None:
    async with peer_for(row, pipelining=pipelining) as peer:
        sender, settlement = await send(row, peer, "resend")
        outcomes = tuple(sender.outcomes(TO))
        assert settlement == Ack()
        doubted = outcomes == ("in_doubt", "accepted")
        assert doubted or outcomes in row.ends
        assert bool(sender.possible_duplicates()) == doubted
        # What stands in doubt has left its connection out of step, or ended it.
        assert len(peer.sessions) == 1 + (len(outcomes) > 1)
        assert len(peer.kept) == row.kept + (len(outcomes) > 1)


@pytest.mark.parametrize("row", [r for r in DOUBTFUL if r.ends == (("in_doubt",),)], ids=str)
async def test_a_mail_that_is_in_doubt_again_waits_for_an_operator(row: Row) -> None:
    async with peer_for(row, pipelining=True, always=True) as peer:
        sender, settlement = await send(row, peer, "resend")
        assert isinstance(settlement, Park)
        assert (settlement.reason, settlement.pending) == ("in_doubt", (TO,))
        assert sender.outcomes(TO) == ["in_doubt", "in_doubt"]
        assert len(peer.sessions) == 2
        assert len(peer.kept) == 2 * row.kept


async def test_no_retry_is_made_where_the_record_allows_none() -> None:
    row = next(row for row in ROWS if row.name == "a RST in place of the reply at mail")
    async with peer_for(row, pipelining=True, always=True) as peer:
        async with sender_for(record_for(peer.port, retries=0)) as sender:
            settlement = await sender.send(TO)
        assert isinstance(settlement, Later)
        assert sender.outcomes(TO) == ["deferred"]
        assert len(peer.sessions) == 1
        assert peer.kept == []


def test_the_table_has_no_row_twice() -> None:
    assert len({replace(row, name="").script.__repr__() + str(row.size) for row in ROWS}) == len(ROWS)
    assert len({row.name for row in ROWS}) == len(ROWS)
