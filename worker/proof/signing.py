"""Signing heads, and telling whether a head was signed: Ed25519 (RFC 8032)."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from schemas.audit_chain import head_statement
from worker.proof.keys import key_bytes, key_id


class Signer:
    """A private key; it shows itself by its name alone."""

    def __init__(self, private_key: bytes) -> None:
        """Take the 32 bytes; raises ValueError for any other number."""
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        public = self._key.public_key().public_bytes_raw()
        self.public_key = base64.b64encode(public).decode()
        self.key_id = key_id(public)

    @classmethod
    def read(cls, text: str) -> Self:
        """The key from its base64; raises ValueError, whose text does not quote it."""
        return cls(key_bytes(text))

    @classmethod
    def new(cls) -> tuple[Self, str]:
        """A fresh key, and its private half as base64."""
        private = Ed25519PrivateKey.generate().private_bytes_raw()
        return cls(private), base64.b64encode(private).decode()

    def sign(self, statement: bytes) -> str:
        """The signature, as base64 of 64 bytes."""
        return base64.b64encode(self._key.sign(statement)).decode()

    def __repr__(self) -> str:
        """The key's name."""
        return f"Signer({self.key_id})"


class PublicKeys:
    """The keys that heads may be signed with."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Take each as base64 of its 32 bytes; raises ValueError."""
        given = [key_bytes(text) for text in keys]
        self._by_id = {key_id(raw): Ed25519PublicKey.from_public_bytes(raw) for raw in given}

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._by_id)

    def knows(self, head: Mapping[str, Any]) -> bool:
        """Whether the key is there that the head says it was signed with."""
        return head.get("key_id") in self._by_id

    def signed(self, head: Mapping[str, Any]) -> bool:
        """Whether the head's signature is that of its writer, number, hash and time, by a key that is known."""
        try:
            key = self._by_id[head["key_id"]]
            signature = base64.b64decode(head["signature"], validate=True)
            statement = head_statement(head["writer"], head["seq"], head["hash"], head["@timestamp"])
            key.verify(signature, statement)
        except (InvalidSignature, KeyError, TypeError, ValueError):  # binascii's error is a ValueError
            return False
        return True
