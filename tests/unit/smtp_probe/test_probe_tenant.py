"""What a tenant learns of a server that cannot be reached: that it cannot be, and nothing else."""

import asyncio
import json
import socket
import time
from dataclasses import replace
from ipaddress import ip_network

import pytest

from schemas.smtp_config import SmtpConfig, TlsMode
from tests.unit.smtp.scripted_server import OFFER, ScriptedServer
from worker.smtp.egress import EgressGuard
from worker.smtp.probe import Limits, check
from worker.smtp.probe_stages import Audience, StageName, StageResult, plan
from worker.smtp.reach import AddressInfo

REACH_S = 0.3
LIMITS = Limits(stage_s=2.0, overall_s=5.0, tenant_reach_s=REACH_S)
OPEN = EgressGuard((ip_network("127.0.0.2/32"),), ((1, 65535),))


def resolving(*addresses: str, port: int = 1):
    def info(address: str) -> AddressInfo:
        return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))

    async def resolve(_host, _port):
        return [info(address) for address in addresses]

    return resolve


async def not_found(_host, _port):
    raise socket.gaierror(socket.EAI_NONAME, "no")


async def dns_away(_host, _port):
    raise socket.gaierror(socket.EAI_AGAIN, "later")


async def never(_host, _port):
    await asyncio.Event().wait()
    return []


@pytest.fixture
def silent_port():
    """A port whose backlog is full: a SYN gets no answer, as behind a firewall that drops."""
    with socket.socket() as full, socket.socket() as filler:
        full.bind(("127.0.0.2", 0))
        full.listen(0)
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
        fillers = [socket.socket() for _ in range(3)]
        for each in fillers:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        yield full.getsockname()[1]
        for each in fillers:
            each.close()


@pytest.fixture
def ways(silent_port):
    """Every way in which a host cannot be reached."""
    return {
        "denied": resolving("10.0.0.5"),
        "metadata": resolving("169.254.169.254"),
        "partly denied, the rest refuses": resolving("10.0.0.5", "127.0.0.2"),
        "refused": resolving("127.0.0.2"),
        "silent": resolving("127.0.0.2", port=silent_port),
        "unknown": not_found,
        "no dns": dns_away,
        "slow dns": never,
        "no address": resolving(),
    }


def record_of_acme(**changes):
    return SmtpConfig(**{"partner": "acme", "host": "mail.acme.test", "port": 587, "tls": TlsMode.NONE, **changes})


async def unreachable_by(ways):
    """Check once in every way at the same time: the reports, and when the first stage of each was told."""

    async def timed(resolve):
        seen, began = [], time.perf_counter()
        report = await probe(resolve, lambda stage: seen.append((stage.name, time.perf_counter() - began)))
        return report, seen[0][1]

    reports, took = zip(*await asyncio.gather(*map(timed, ways.values())), strict=True)
    return reports, took


async def probe(resolve, observe=None, **record):
    return await check(
        record_of_acme(**record),
        ehlo_name="client.test",
        guard=OPEN,
        sender="ann@from.test",
        audience=Audience.TENANT,
        resolve=resolve,
        limits=LIMITS,
        observe=observe,
    )


async def test_whatever_keeps_a_server_out_of_reach_a_tenant_sees_the_same_at_the_same_time(ways) -> None:
    spreads = []
    while len(spreads) < 3 and min(spreads, default=1.0) >= 0.2:  # a leak spreads every run, a busy machine some
        reports, took = await unreachable_by(ways)
        totals = [report.total_ms / 1000 for report in reports]
        # The total is of the clock, and counts by its spread.
        documents = [report.to_json() | {"total_ms": None} for report in reports]
        assert len({json.dumps(document, sort_keys=True) for document in documents}) == 1
        assert min(took) >= REACH_S - 0.001
        spreads.append(max(max(took) - min(took), max(totals) - min(totals)))
    # One that is told at once would be told so much earlier; the turns of a busy loop are less.
    assert min(spreads) < 0.2, spreads


async def test_it_is_called_unreachable_with_no_address_and_no_reason(ways) -> None:
    report = await probe(ways["denied"])
    first = report.stages[0]
    assert report.failed is first
    assert (first.name, first.rule, first.outcome) == (StageName.REACH, "unreachable", "deferred")
    assert first.words == "The server cannot be reached."
    assert first.hint is not None
    assert first.hint.name == "unreachable"
    assert (first.ms, first.code, dict(first.facts)) == (REACH_S * 1000, None, {})
    assert {stage.result for stage in report.stages[1:]} == {StageResult.SKIPPED}
    text = json.dumps(report.to_json())
    assert "10.0.0.5" not in text
    assert "public" not in first.words


async def test_a_record_of_short_patience_ends_alike_too(ways) -> None:
    reports = [await probe(ways[name], timeout_s=0.05) for name in ("denied", "refused", "silent", "unknown")]
    assert {(r.stages[0].ms, r.stages[0].rule, r.stages[0].words) for r in reports} == {
        (50.0, "unreachable", "The server cannot be reached.")
    }


async def test_a_port_that_mail_may_not_go_to_is_said_at_once_for_it_is_the_records_own() -> None:
    asked = []

    async def resolve(host, _port):
        asked.append(host)
        return []

    began = time.perf_counter()
    report = await check(
        record_of_acme(port=8080),
        ehlo_name="client.test",
        guard=EgressGuard(),
        audience=Audience.TENANT,
        resolve=resolve,
        limits=replace(LIMITS, tenant_reach_s=4.0),
    )
    assert report.failed is not None
    assert (report.failed.name, report.failed.rule) == (StageName.REACH, "egress-denied")
    assert report.failed.hint is not None
    assert report.failed.hint.name == "port-not-permitted"
    assert asked == []
    assert time.perf_counter() - began < 4.0


async def test_a_tenants_own_server_is_checked_in_full_and_its_address_stays_out_of_it() -> None:
    async with ScriptedServer(offer=OFFER) as server:
        config = server.config(partner="acme", host="mail.acme.test")
        guard = EgressGuard((ip_network("127.0.0.0/8"),), ((1, 65535),))
        report = await check(
            config,
            ehlo_name="client.test",
            guard=guard,
            sender="ann@from.test",
            recipient="bob@to.test",
            audience=Audience.TENANT,
            resolve=resolving("127.0.0.1", port=server.port),
        )
    assert report.ok
    assert [stage.name for stage in report.stages] == list(plan(config, Audience.TENANT))
    assert "127.0.0.1" not in json.dumps(report.to_json())


async def test_once_there_is_a_connection_the_deadline_of_the_way_there_is_over() -> None:
    async def slow_banner():
        await asyncio.sleep(1.2)
        return "220 hello"

    async with ScriptedServer(lambda _s, c: slow_banner() if c == "" else None) as server:
        report = await check(
            server.config(partner="acme", host="mail.acme.test", timeout_s=30),
            ehlo_name="client.test",
            guard=EgressGuard((ip_network("127.0.0.0/8"),), ((1, 65535),)),
            audience=Audience.TENANT,
            resolve=resolving("127.0.0.1", port=server.port),
            limits=Limits(tenant_reach_s=1.0),
        )
    assert report.ok
