"""Certificates for the scripted server, and a pool that is closed at a test's end."""

import ssl
from dataclasses import dataclass

import pytest
import trustme

from worker.smtp.pool import SmtpPool


@dataclass(frozen=True)
class Tls:
    context: ssl.SSLContext
    ca: str


@pytest.fixture(scope="session")
def tls() -> Tls:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return Tls(context, authority.cert_pem.bytes().decode())


@pytest.fixture
async def pool():
    opened = SmtpPool("client.test")
    yield opened
    await opened.close()
