"""Where a tenant's record may lead, whatever its host is spelled like or resolves to."""

import socket
from ipaddress import ip_network

import pytest

from schemas.smtp_config import SmtpConfig, TlsMode
from tests.unit.smtp.scripted_server import ScriptedServer, envelope, message
from worker.delivery.ports import Fault, Phase
from worker.smtp.dial import DialFailed, dial
from worker.smtp.egress import EgressGuard
from worker.smtp.pool import SmtpPool
from worker.smtp.reach import look_up, open_socket

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
ANY_PORT = ((1, 65535),)


def record(host: str = "mail.example", port: int = 587, *, partner: str | None = "acme") -> SmtpConfig:
    return SmtpConfig(partner=partner, host=host, port=port, tls=TlsMode.NONE, timeout_s=5)


DENIED = {
    "loopback": "127.0.0.1",
    "loopback, far end": "127.255.255.254",
    "unspecified": "0.0.0.0",
    "this network": "0.1.2.3",
    "private 10": "10.1.2.3",
    "private 172": "172.31.255.255",
    "private 192": "192.168.0.1",
    "carrier-grade NAT": "100.64.0.1",
    "Alibaba's metadata": "100.100.100.200",
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "Azure's metadata": "168.63.129.16",
    "Oracle's metadata": "192.0.0.192",
    "documentation": "203.0.113.5",
    "benchmark": "198.19.0.1",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "6to4 relay": "192.88.99.1",
    "loopback v6": "::1",
    "unspecified v6": "::",
    "link-local v6": "fe80::1",
    "link-local v6 with its zone": "fe80::1%eth0",
    "site-local v6": "fec0::1",
    "unique local": "fd12::1",
    "Amazon's metadata v6": "fd00:ec2::254",
    "multicast v6": "ff02::1",
    "documentation v6": "2001:db8::1",
    "discard": "100::1",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped private, in hex": "::ffff:a01:203",
    "compatible loopback": "::7f00:1",
    "6to4 of a private address": "2002:0a01:0203::1",
    "NAT64 of the metadata service": "64:ff9b::a9fe:a9fe",
    "local NAT64": "64:ff9b:1::808:808",
    "Teredo of a private client": "2001:0:808:808:0:0:f5fe:fdfc",
    "Teredo by a private server": "2001:0:0a01:0203:0:0:f7f7:f7f7",
    "not an address": "mail.example",
}


@pytest.mark.parametrize("address", DENIED.values(), ids=DENIED)
def test_a_tenants_record_does_not_reach(address: str) -> None:
    assert EgressGuard().address_denied(record(), address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "100.128.0.1", "172.32.0.1", "2a00:1450:4001::1a", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_a_tenants_record_reaches_public_addresses(address: str) -> None:
    assert EgressGuard().address_denied(record(), address) is None


@pytest.mark.parametrize("address", [*DENIED.values()][:-1])
def test_the_controllers_record_reaches_everything(address: str) -> None:
    assert EgressGuard().address_denied(record(partner=None), address) is None


@pytest.mark.parametrize(
    ("allow", "address", "reached"),
    [
        ("10.1.0.0/16", "10.1.2.3", True),
        ("10.1.0.0/16", "10.2.2.3", False),
        ("10.1.0.0/16", "::ffff:10.1.2.3", True),
        ("10.1.0.0/16", "64:ff9b::a02:203", False),
        ("fd00::/8", "fd12::1", True),
        ("fd00::/8", "10.1.2.3", False),
    ],
)
def test_the_operator_can_allow_networks(allow: str, address: str, reached: bool) -> None:
    denied = EgressGuard((ip_network(allow),)).address_denied(record(), address)
    assert (denied is None) == reached


@pytest.mark.parametrize(
    ("port", "ports", "partner", "reached"),
    [
        (25, (), "acme", True),
        (465, (), "acme", True),
        (587, (), "acme", True),
        (2525, (), "acme", True),
        (22, (), "acme", False),
        (6379, (), "acme", False),
        (6379, (), None, True),
        (2600, ((2526, 2600),), "acme", True),
        (2601, ((2526, 2600),), "acme", False),
    ],
)
def test_ports_that_a_record_may_have(
    port: int, ports: tuple[tuple[int, int], ...], partner: str | None, reached: bool
) -> None:
    denied = EgressGuard(ports=ports).port_denied(record(port=port, partner=partner))
    assert (denied is None) == reached


@pytest.mark.parametrize("host", ["2130706433", "0177.0.0.1", "0x7f.1", "0x7f000001", "127.1", "[::1]", "localhost"])
async def test_no_spelling_of_loopback_gets_past_the_guard(host: str) -> None:
    with pytest.raises(DialFailed) as failed:
        await open_socket(record(host), EgressGuard())
    answer = failed.value.answer
    # Where the system's resolver does not read a spelling, nothing can be reached by it either.
    assert (answer.phase, answer.fault) in {
        (Phase.RESOLVE, Fault.EGRESS_DENIED),
        (Phase.RESOLVE, Fault.DNS_NOT_FOUND),
    }
    assert "127" not in answer.detail


class RebindingResolver:
    """Says something else each time it is asked, as the DNS of an attacker does."""

    def __init__(self, *addresses: list[str]) -> None:
        self._left = list(addresses)
        self.asked = 0

    async def __call__(self, host: str, port: int):
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self._left.pop(0)]


async def test_a_name_is_looked_up_once_for_each_connect_and_dialled_by_the_number_that_was_judged() -> None:
    guard = EgressGuard(LOOPBACK, ANY_PORT)
    async with ScriptedServer() as server:
        resolve = RebindingResolver(["127.0.0.1"], ["10.0.0.1"])
        made = await dial(record("rebinding.invalid", server.port), "client", guard, resolve)
        assert resolve.asked == 1
        made.transport.abort()
        with pytest.raises(DialFailed) as failed:
            await dial(record("rebinding.invalid", server.port), "client", guard, resolve)
    assert failed.value.answer.fault is Fault.EGRESS_DENIED
    assert resolve.asked == 2
    assert len(server.sessions) == 1


async def test_of_several_addresses_only_the_permitted_are_dialled() -> None:
    guard = EgressGuard((ip_network("127.0.0.1/32"),), ANY_PORT)
    async with ScriptedServer() as server:
        resolve = RebindingResolver(["10.0.0.1", "127.0.0.2", "127.0.0.1"])
        sock = await open_socket(record("mixed.invalid", server.port), guard, resolve)
        assert sock.getpeername() == ("127.0.0.1", server.port)
        sock.close()


async def test_a_denied_port_is_not_even_looked_up() -> None:
    resolve = RebindingResolver()
    with pytest.raises(DialFailed) as failed:
        await open_socket(record(port=6379), EgressGuard(), resolve)
    assert (failed.value.answer.phase, failed.value.answer.fault) == (Phase.CONNECT, Fault.EGRESS_DENIED)
    assert resolve.asked == 0


async def test_the_pool_guards_a_tenants_record_and_not_the_controllers() -> None:
    async with ScriptedServer() as server:
        pool = SmtpPool("client")
        tenant = await pool.send(server.config(partner="acme"), envelope(), message())
        controller = await pool.send(server.config(), envelope(), message())
        await pool.close()
    assert [a.fault for a in tenant.answers.values()] == [Fault.EGRESS_DENIED]
    assert [a.reply.code for a in controller.answers.values() if a.reply] == [250]
    assert len(server.sessions) == 1


async def test_the_systems_resolver_gives_numbers() -> None:
    found = await look_up("127.0.0.1", 25)
    assert [address for *_, address in found] == [("127.0.0.1", 25)]
