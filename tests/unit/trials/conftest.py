"""A CA for the servers of these tests, and trials with short limits."""

import ssl
from dataclasses import dataclass
from ipaddress import ip_network

import pytest
import trustme

from worker.smtp.egress import EgressGuard
from worker.testing import MemoryAudit
from worker.trials import Limits, Trials

REACH_S = 0.3


@dataclass(frozen=True)
class Authority:
    ca: trustme.CA

    @property
    def bundle(self) -> str:
        return self.ca.cert_pem.bytes().decode()

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert("127.0.0.1").configure_cert(context)
        return context


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority(trustme.CA())


@pytest.fixture
def audit() -> MemoryAudit:
    return MemoryAudit()


@pytest.fixture
async def make_trials(audit):
    """Trials whose tenants reach this host, unless a guard says otherwise."""
    made = []

    def make(guard=None, **limits):
        everywhere = EgressGuard((ip_network("127.0.0.0/8"),), ((1, 65535),))
        given = Limits(**{"reach_s": REACH_S, "audit_s": 0.1, **limits})
        made.append(Trials(audit, guard or everywhere, ehlo_name="client.test", worker_id="w1", limits=given))
        return made[-1]

    yield make
    for each in made:
        await each.close()
