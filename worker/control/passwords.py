"""Passwords: what a new one has to be, and argon2id hashes of them (RFC 9106, the profile for little memory).

One hash takes 64 MiB and a few hundredths of a second of several cores: it is made in a thread, and never more
than two at once, however many people log in.
"""

import asyncio
import base64
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from argon2.profiles import RFC_9106_LOW_MEMORY

from worker.control.errors import Refused
from worker.errors import StoreUnavailable

SHORTEST = 12
"""Characters; NIST SP 800-63B asks for length, and for no rules about what kinds of characters."""
LONGEST = 1024
"""Octets."""
_AT_ONCE = 2
T = TypeVar("T")


class Passwords:
    """Hashes and verifies passwords, off the event loop."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        """Take the parameters; tests give cheaper ones."""
        self._hasher = hasher or PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
        self._nobodys = _hash_of_nothing(self._hasher)
        # Threads of its own: whoever gives up waiting leaves the hash running, and it still counts.
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="argon2")

    async def hash(self, text: str, *, email: str | None = None, path: str = "password") -> str:
        """The hash to store of a new password of the user with this address; raises Refused at `path`."""
        check_new(text, email, path)
        return await self._in_a_thread(partial(self._hasher.hash, _octets(text)))

    async def verify(self, stored: str | None, text: str) -> bool:
        """Whether `text` is the password; where there is none, False after as much work as for a wrong one.

        Raises StoreUnavailable where what is stored is no hash.
        """
        return await self._in_a_thread(partial(self._verify, stored or self._nobodys, _octets(text)))

    def needs_rehash(self, stored: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    async def _in_a_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _verify(self, stored: str, octets: bytes) -> bool:
        try:
            return self._hasher.verify(stored, octets)
        except VerifyMismatchError:
            return False
        except (InvalidHashError, VerificationError) as error:
            raise StoreUnavailable("the stored hash of a password cannot be read: set the password again") from error


def check_new(text: str, email: str | None = None, path: str = "password") -> None:
    """Raise Refused, never quoting it, where a new password is too short, too long, or the address itself."""
    if len(text) < SHORTEST:
        raise Refused(path, f"is too short: expected at least {SHORTEST} characters")
    if len(_octets(text)) > LONGEST:
        raise Refused(path, f"is too long: expected at most {LONGEST} octets in UTF-8")
    if email is not None and _plain(text) == _plain(email):
        raise Refused(path, "is the mail address: choose another one")


def _plain(text: str) -> str:
    return text.strip().casefold()


def _octets(text: str) -> bytes:
    # One keyboard writes an umlaut as one character, another one as two (RFC 8265 section 4.2.2).
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")


def _hash_of_nothing(hasher: PasswordHasher) -> str:
    """A hash that no known password has, and that costs as much to verify as any other."""
    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    salt, digest = (secrets.token_bytes(size) for size in (hasher.salt_len, hasher.hash_len))
    return f"$argon2id$v=19${cost}${_base64(salt)}${_base64(digest)}"


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode().rstrip("=")
