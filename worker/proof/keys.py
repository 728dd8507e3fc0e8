"""Ed25519 keys as text: base64 of their 32 bytes; and their names."""

import base64
import hashlib

_KEY_BYTES = 32
_ID_DIGITS = 16


def key_bytes(text: str) -> bytes:
    """The 32 bytes of a key, private or public; raises ValueError, whose text does not quote it."""
    try:
        found = base64.b64decode(text.strip(), validate=True)
    except ValueError:  # binascii's error is one
        found = b""
    if len(found) != _KEY_BYTES:
        msg = "expected a key as `postbote audit key` prints it: base64 of 32 bytes"
        raise ValueError(msg)
    return found


def key_id(public_key: bytes) -> str:
    """A public key's name: the first 16 hex digits of the SHA-256 over it."""
    return hashlib.sha256(public_key).hexdigest()[:_ID_DIGITS]
