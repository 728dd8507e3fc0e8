"""A throw-away CA and a certificate for the local SMTP sink, so that even a demo verifies what it talks to.

The CA's key is used once and never written: nothing that was made here can sign anything later.
"""

import os
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_FOR = timedelta(days=7)
# A run that starts just before the end must not outlive its certificate.
_RENEW_BEFORE_END = timedelta(hours=1)
# Clocks of containers lag behind now and then; a certificate "not yet valid" is a puzzle to nobody's gain.
_BACKDATED = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Certificates:
    """The PEM files that `ensure_certificates` keeps in a folder, each with mode 0600."""

    directory: Path

    @property
    def ca_file(self) -> Path:
        """The certificate of the CA: what a client is to trust."""
        return self.directory / "ca.pem"

    @property
    def certificate_file(self) -> Path:
        """The server's certificate."""
        return self.directory / "server.pem"

    @property
    def key_file(self) -> Path:
        """The server's key."""
        return self.directory / "server.key"

    def server_context(self) -> ssl.SSLContext:
        """TLS for a server that presents this certificate; TLS 1.2 and up."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate_file, self.key_file)
        return context


def ensure_certificates(directory: Path, now: datetime | None = None) -> Certificates:
    """Return the certificates in `directory`; make new ones where they are missing, unreadable or at their end.

    The server's certificate is for ``localhost``, ``127.0.0.1`` and ``::1``. Raises OSError where
    the folder cannot be written.
    """
    moment = now or datetime.now(UTC)
    found = Certificates(directory)
    if not _usable(found, moment):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(found, moment)
    return found


def _usable(found: Certificates, now: datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(found.certificate_file.read_bytes())
        authority = x509.load_pem_x509_certificate(found.ca_file.read_bytes())
        certificate.verify_directly_issued_by(authority)
        found.server_context()  # the key belongs to the certificate
    except (FileNotFoundError, ValueError, TypeError, ssl.SSLError, InvalidSignature):
        return False
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - _RENEW_BEFORE_END


def _write_new(files: Certificates, now: datetime) -> None:
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _authority(authority_key, now)
    server = _server(server_key, authority, authority_key, now)
    key_pem = server_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _replace(files.ca_file, authority.public_bytes(serialization.Encoding.PEM))
    _replace(files.key_file, key_pem)
    _replace(files.certificate_file, server.public_bytes(serialization.Encoding.PEM))


def _authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = _name("Postbote throw-away CA")
    return (
        _builder(name, name, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _server(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    names = [x509.DNSName("localhost"), *(x509.IPAddress(ip_address(a)) for a in ("127.0.0.1", "::1"))]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    return (
        _builder(_name("localhost"), authority.subject, key.public_key(), now)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _replace(path: Path, content: bytes) -> None:
    # mkstemp makes the file 0600 from its first moment, and the rename shows it whole or not at all.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
