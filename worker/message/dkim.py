"""DKIM signatures (RFC 6376) over finished messages, by the dkimpy library.

Optional: most operators' servers sign on their own. The library is pure Python, so a signature
costs milliseconds where the message itself costs microseconds; sign in a thread.
"""

from dataclasses import dataclass, field

from worker.errors import RenderError


@dataclass(frozen=True, slots=True)
class DkimKey:
    """A domain's RSA signing key (PEM); its public half stands in DNS at ``SELECTOR._domainkey.DOMAIN``."""

    domain: str
    selector: str
    private_key: bytes = field(repr=False)


def sign(content: bytes, key: DkimKey) -> bytes:
    """Return `content` with a DKIM-Signature header in front (rsa-sha256, relaxed/relaxed).

    The bytes below the signature stay as they are. Two signatures of the same content differ in
    their ``t=`` (the second they were made in) and what follows from it. Raises RenderError with
    the path ``dkim`` for a key that cannot sign.
    """
    import dkim  # with DNS and all: 3 MiB that a process without a key does without

    try:
        # Relaxed, since relays do refold headers and trim trailing blanks.
        header: bytes = dkim.sign(
            content,
            key.selector.encode(),
            key.domain.encode(),
            key.private_key,
            canonicalize=(b"relaxed", b"relaxed"),
        )
    except (dkim.DKIMException, ValueError) as error:
        raise RenderError("dkim", f"the key of {key.selector}._domainkey.{key.domain} cannot sign: {error}") from error
    return header + content
