"""Certificates for the scripted server, and a final reply that is not waited for ten minutes."""

import functools
import ssl
from dataclasses import dataclass

import pytest
import trustme

from worker.smtp.connection import SmtpConnection


@dataclass(frozen=True)
class Authority:
    """A CA: what a record trusts, and what a server shows."""

    ca: trustme.CA
    bundle: str

    def server(self, *names: str, **options: object) -> ssl.SSLContext:
        """A server's context with a certificate for `names`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*(names or ("127.0.0.1", "localhost")), **options).configure_cert(context)
        return context


def _authority() -> Authority:
    ca = trustme.CA()
    return Authority(ca, ca.cert_pem.bytes().decode())


@pytest.fixture(scope="session")
def authority() -> Authority:
    """The CA that the records of these tests trust."""
    return _authority()


@pytest.fixture(scope="session")
def stranger() -> Authority:
    """A CA that nobody trusts."""
    return _authority()


@pytest.fixture
def short_final_wait(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the wait for the final reply (ten minutes, RFC 5321 section 4.5.3.2.6) to less than a second or two.

    It is the longer where the row's mail has a size: the peer reads megabytes before it answers.
    """
    row = getattr(request.node, "callspec", None) and request.node.callspec.params.get("row")
    init, final_s = SmtpConnection.__init__, 1.5 if getattr(row, "size", 0) else 0.4
    monkeypatch.setattr(SmtpConnection, "__init__", functools.partialmethod(init, final_s=final_s))
