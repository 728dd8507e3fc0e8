"""What a TLS handshake showed: protocol, cipher, and the chain that the server sent.

The chain is read whether or not it was trusted: "expired in March, issued by X for Y" is what an
admin needs exactly when the handshake failed. The library's own object keeps the chain after a
failed handshake too, but Python shows it only from 3.13 on; before, it stands behind `_sslobj`.
"""

import ssl
from collections.abc import Callable, Iterator
from typing import Any

from cryptography import x509

from worker.delivery.replies import clean_text

_MAX_CHAIN = 10
_MAX_NAMES = 20
_SHARED_NAMES = (x509.DNSName, x509.IPAddress)

Seen = Callable[[ssl.SSLObject, ssl.SSLError | None], None]


def watched(context: ssl.SSLContext, begins: Callable[[], None], ends: Seen) -> ssl.SSLContext:
    """Have `context`, which nobody else uses, tell when its handshakes begin and how they end."""

    class Watched(ssl.SSLObject):
        def do_handshake(self) -> None:
            begins()
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise  # not over yet
            except ssl.SSLError as error:
                ends(self, error)
                raise
            ends(self, None)

    context.sslobject_class = Watched
    return context


def handshake_facts(tls: ssl.SSLObject, error: ssl.SSLError | None, *, verify: bool) -> dict[str, Any]:
    """Return the facts of a TLS stage as JSON values; `verified` is False with a `why_not`."""
    cipher = tls.cipher() if error is None else None
    return {
        "version": tls.version() if error is None else None,
        "cipher": cipher[0] if cipher else None,
        "verified": verify and error is None,
        "why_not": _why_not(error, verify=verify),
        "chain": list(map(certificate_facts, _chain(tls))),
    }


def certificate_facts(der: bytes) -> dict[str, Any]:
    """Return who a certificate is for, who issued it, and when it holds (ISO 8601, UTC)."""
    try:
        found = x509.load_der_x509_certificate(der)
        return {
            "subject": clean_text(found.subject.rfc4514_string()),
            "issuer": clean_text(found.issuer.rfc4514_string()),
            "names": list(_names(found)),
            "not_before": found.not_valid_before_utc.isoformat(),
            "not_after": found.not_valid_after_utc.isoformat(),
        }
    except ValueError as error:
        return {"unreadable": clean_text(str(error))}


def _why_not(error: ssl.SSLError | None, *, verify: bool) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return clean_text(error.verify_message)
    if error is not None:
        return clean_text(error.reason or "the handshake failed")
    return None if verify else "verify_tls is off"


def _chain(tls: ssl.SSLObject) -> list[bytes]:
    if hasattr(tls, "get_unverified_chain"):
        return list(tls.get_unverified_chain() or ())[:_MAX_CHAIN]
    inner: Any = tls._sslobj  # type: ignore[attr-defined] # noqa: SLF001 # see the module's docstring
    shown = (inner.get_unverified_chain() or ())[:_MAX_CHAIN]
    return [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in shown]


def _names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    for name in [each for each in names if isinstance(each, _SHARED_NAMES)][:_MAX_NAMES]:
        yield clean_text(str(name.value))
