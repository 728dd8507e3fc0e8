"""The connection ends after every single octet of the dialogue, in either direction, and never a mail is lost or doubled."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from tests.peers.agreement import disagreements, record_for, sender_for
from tests.peers.conftest import Authority
from tests.peers.fault_table import DOUBT, RETRIED, Ending
from tests.peers.scripted import PASSWORD, USER, Act, End, Kept, Offers, Point, Script, ScriptedPeer
from worker.delivery.ports import Settlement

TO = "ann@example.com"
AT_ONCE = 16
ACCEPTED: Ending = ("accepted",)

MODES = pytest.mark.parametrize("mode", ["none", "starttls"])
PIPELINING = pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "lockstep"])
ENDS = pytest.mark.parametrize("end", [End.FIN, End.RST], ids=["FIN", "RST"])


@dataclass(frozen=True)
class Setting:
    """What stays the same over a sweep."""

    mode: str
    pipelining: bool
    authority: Authority

    def peer(self, *scripts: Script) -> ScriptedPeer:
        secure = self.mode == "starttls"
        offers = Offers(pipelining=self.pipelining, starttls=secure, auth=secure)
        return ScriptedPeer(*scripts, offers=offers, tls=self.authority.server() if secure else None)

    def record(self, port: int):
        login = {"username": USER, "password": PASSWORD, "ca_bundle": self.authority.bundle}
        return record_for(port, tls=self.mode, **(login if self.mode == "starttls" else {}))


@dataclass(frozen=True)
class Run:
    """What came of one mail: octets sent and read on the first connection, the audit's words, what was kept."""

    sent: int
    read: int
    outcomes: tuple[str, ...]
    kept: tuple[Kept, ...]
    faults: tuple[str, ...]
    settlement: Settlement


async def deliver(setting: Setting, *scripts: Script) -> Run:
    async with setting.peer(*scripts) as peer:
        async with sender_for(setting.record(peer.port)) as sender:
            settlement = await sender.send(TO, on_doubt="hold")
            wire = peer.sessions[0].wire
            sent, read = wire.sent, wire.taken  # before QUIT
        faults = [*disagreements(sender, [(k.message_id, k.recipient) for k in peer.kept]), *peer.violations]
        return Run(sent, read, tuple(sender.outcomes(TO)), tuple(peer.kept), tuple(faults), settlement)


async def sweep(setting: Setting, scripts: Sequence[Script]) -> list[Run]:
    """Run the scripts, some at the same time, and return what came of each."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(script: Script) -> Run:
        async with turns:
            return await deliver(setting, script)

    return list(await asyncio.gather(*map(one, scripts)))


def wrong(run: Run, *allowed: tuple[str, ...]) -> list[str]:
    """What is wrong with a run that may end in the `allowed` ways; empty where nothing is."""
    found = list(run.faults)
    if run.outcomes not in allowed:
        found.append(f"{run.outcomes} is none of {allowed}")
    if run.outcomes[-1] == "accepted" and len(run.kept) != 1:
        found.append(f"accepted, and kept {len(run.kept)} times")
    return found


def failures(
    octets: Sequence[int], runs: Sequence[Run], expected: Callable[[int], tuple[Ending, ...]]
) -> dict[int, list[str]]:
    """What is wrong, by the octet behind which the connection ended; `expected` are the ends that it may have."""
    judged = {octet: wrong(run, *expected(octet)) for octet, run in zip(octets, runs, strict=True)}
    return {octet: found for octet, found in judged.items() if found}


@ENDS
@PIPELINING
@MODES
async def test_replies_cut_after_every_octet(mode: str, pipelining: bool, end: End, authority: Authority) -> None:
    setting = Setting(mode, pipelining, authority)
    well = await deliver(setting)
    final = well.sent - len(b"250 2.0.0 Ok: queued as A0001\r\n")
    octets = range(0, well.sent + 1, 1 if mode == "none" else 3)
    runs = await sweep(setting, [Script(sends=n, cut_end=end) for n in octets])

    def expected(octet: int) -> tuple[Ending, ...]:
        return (ACCEPTED,) if octet >= well.sent else (DOUBT,) if octet >= final else (RETRIED,)

    assert failures(octets, runs, expected) == {}
    assert all(len(run.kept) == 1 for run in runs)


@ENDS
@PIPELINING
@MODES
async def test_commands_and_content_cut_after_every_octet(
    mode: str, pipelining: bool, end: End, authority: Authority
) -> None:
    setting = Setting(mode, pipelining, authority)
    well = await deliver(setting)
    begin = well.read - len(well.kept[0].content) - len(".\r\n")
    step = 1 if mode == "none" else 5
    octets = [*range(0, begin, step), *range(begin, well.read - 6, 11 * step), *range(well.read - 6, well.read + 1)]
    runs = await sweep(setting, [Script(reads=n, cut_end=end) for n in octets])

    def expected(octet: int) -> tuple[Ending, ...]:
        # While the content is on its way, its dot may have left already, small as it is.
        return (RETRIED,) if octet < begin else (DOUBT, RETRIED) if octet < well.read else (ACCEPTED,)

    assert failures(octets, runs, expected) == {}


@ENDS
async def test_the_handshake_cut_after_many_an_octet(end: End, authority: Authority) -> None:
    setting = Setting("starttls", pipelining=True, authority=authority)
    octets = [*range(20), *range(20, 1000, 61)]
    runs = await sweep(setting, [Script({Point.HANDSHAKE: Act(octets=n, end=end)}) for n in octets])
    # A handshake also breaks off where a server is restarted: it is tried again, whatever it is called.
    assert failures(octets, runs, lambda _: (RETRIED, ("config_fault", "accepted"))) == {}
