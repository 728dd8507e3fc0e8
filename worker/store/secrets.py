"""Sealing passwords before they are stored, and opening them again.

Fernet (AES-128-CBC with an HMAC-SHA256) from the ``cryptography`` library. The first key seals,
every key opens: to rotate, put a new key in front, reseal what is stored, drop the old key.
No error and no repr ever shows a key, a token or a password.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from worker.errors import SecretKeyMissing, SecretUnreadable, SettingsError

if TYPE_CHECKING:  # a worker without any key never loads the library
    from cryptography.fernet import Fernet, MultiFernet

SETTING = "POSTBOTE_SECRET_KEYS"
_KEY = re.compile("[A-Za-z0-9_-]{43}=")
_MAKE_A_KEY = "make one with `postbote secrets new-key`"
_NO_KEY = f"passwords are stored encrypted and no key is set: {_MAKE_A_KEY} and put it into {SETTING}"
_UNREADABLE = (
    f"a stored password cannot be decrypted with the keys in {SETTING}: "
    f"add the key that it was encrypted with, or save the record again with its password"
)


def new_key() -> str:
    """Return a fresh key, 44 characters of URL-safe base64, as `POSTBOTE_SECRET_KEYS` takes it."""
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode("ascii")


class SecretBox:
    """Seals with the first of its keys and opens with any of them; may hold no key at all."""

    __slots__ = ("_fernet",)

    def __init__(self, keys: Sequence[str]) -> None:
        """Take the keys, newest first; raise SettingsError saying which of them is not one."""
        fernets = [_read_key(key, position) for position, key in enumerate(keys, start=1)]
        self._fernet = _all_of(fernets) if fernets else None

    def __repr__(self) -> str:
        """Say that there are keys, never which."""
        return f"SecretBox({'keys set' if self._fernet else 'no key'})"

    def seal(self, secret: str) -> str:
        """Return the token to store in place of `secret`; raise SecretKeyMissing without a key."""
        return self._keys().encrypt(secret.encode()).decode("ascii")

    def open(self, token: str) -> str:
        """Return the secret in `token`; raise SecretUnreadable where no key fits, SecretKeyMissing without one."""
        from cryptography.fernet import InvalidToken

        try:
            return self._keys().decrypt(token).decode()
        except (InvalidToken, ValueError):  # ValueError: not even ASCII, or not UTF-8 inside
            raise SecretUnreadable(_UNREADABLE) from None

    def reseal(self, token: str) -> str:
        """Return `token` sealed with the first key; same errors as `open`."""
        from cryptography.fernet import InvalidToken

        try:
            return self._keys().rotate(token).decode("ascii")
        except (InvalidToken, ValueError):  # ValueError: not even ASCII, or not UTF-8 inside
            raise SecretUnreadable(_UNREADABLE) from None

    def _keys(self) -> "MultiFernet":
        if self._fernet is None:
            raise SecretKeyMissing(_NO_KEY)
        return self._fernet


def _all_of(fernets: "Sequence[Fernet]") -> "MultiFernet":
    from cryptography.fernet import MultiFernet

    return MultiFernet(fernets)


def _read_key(key: str, position: int) -> "Fernet":
    from cryptography.fernet import Fernet

    # Checked here, because base64 is read leniently: of two keys run together, the first would count.
    if not _KEY.fullmatch(key):
        msg = f"{SETTING}: key {position} is not a Fernet key (32 bytes in URL-safe base64): {_MAKE_A_KEY}"
        raise SettingsError(msg)
    return Fernet(key)
