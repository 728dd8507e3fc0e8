"""Authorities and certificates for the checked server."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import trustme


@dataclass(frozen=True)
class Authority:
    ca: trustme.CA

    @property
    def bundle(self) -> str:
        return self.ca.cert_pem.bytes().decode()

    def server(self, *names: str, days: float | None = None) -> ssl.SSLContext:
        """A server's context for `names` (127.0.0.1 without any), valid for `days` from now."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        until = None if days is None else datetime.now(UTC) + timedelta(days=days)
        self.ca.issue_cert(*(names or ("127.0.0.1",)), not_after=until).configure_cert(context)
        return context


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority(trustme.CA())
