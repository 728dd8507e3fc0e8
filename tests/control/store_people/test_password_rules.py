"""Passwords: what a new one has to be, and that nobody can tell from the work whether there is a user."""

import asyncio
import threading
import unicodedata

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.profiles import RFC_9106_LOW_MEMORY

from worker.control.errors import Refused
from worker.control.passwords import Passwords
from worker.errors import StoreUnavailable

PASSWORD = "correct-horse-battery-staple"
CHEAP = {"time_cost": 1, "memory_cost": 64, "parallelism": 1}


class Counting(PasswordHasher):
    """The library's own, which keeps what it ran and how many ran at once."""

    def __init__(self, **parameters: int) -> None:
        super().__init__(**(parameters or CHEAP))
        self.costs: list[object] = []
        self.running = self.most = 0
        self._lock = threading.Lock()

    def verify(self, hash, password):
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            self.costs.append(extract_parameters(hash))
            return super().verify(hash, password)
        finally:
            with self._lock:
                self.running -= 1


@pytest.fixture
def hasher():
    return Counting()


@pytest.fixture
def passwords(hasher):
    return Passwords(hasher)


async def test_a_hash_is_that_of_its_password_only(passwords):
    stored = await passwords.hash(PASSWORD)
    assert PASSWORD not in stored
    assert await passwords.verify(stored, PASSWORD)
    assert not await passwords.verify(stored, PASSWORD + "x")
    assert stored != await passwords.hash(PASSWORD)


async def test_the_shipped_parameters_are_those_of_the_rfc():
    stored = await Passwords().hash(PASSWORD)
    assert extract_parameters(stored) == RFC_9106_LOW_MEMORY
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


@pytest.mark.parametrize("given", [PASSWORD, "", "\ud800" * 12, "x" * 5000], ids=["right", "empty", "half", "long"])
async def test_where_there_is_no_user_the_same_work_is_done_as_for_a_wrong_password(hasher, passwords, given):
    stored = await passwords.hash("another-password")
    assert not await passwords.verify(stored, given)
    assert not await passwords.verify(None, given)
    wrong, nobody = hasher.costs
    assert wrong == nobody


async def test_no_more_than_two_run_at_once_and_the_loop_goes_on(hasher, passwords):
    stored = await Passwords(PasswordHasher(time_cost=4, memory_cost=8192, parallelism=1)).hash(PASSWORD)
    tries = asyncio.gather(*(passwords.verify(stored, PASSWORD) for _ in range(12)))
    turns = 0
    while not tries.done():
        await asyncio.sleep(0)
        turns += 1
    assert await tries == [True] * 12
    assert hasher.most <= 2
    assert turns > 12


async def test_a_hash_of_other_parameters_is_verified_and_named_for_a_new_one(passwords):
    older = await Passwords(PasswordHasher(time_cost=2, memory_cost=64, parallelism=1)).hash(PASSWORD)
    assert await passwords.verify(older, PASSWORD)
    assert passwords.needs_rehash(older)
    assert not passwords.needs_rehash(await passwords.hash(PASSWORD))


async def test_what_is_no_hash_is_an_error_and_no_way_in(passwords):
    with pytest.raises(StoreUnavailable, match="set the password again"):
        await passwords.verify("not a hash", PASSWORD)


async def test_two_keyboards_write_one_umlaut(passwords):
    composed, apart = (unicodedata.normalize(form, "zwölf Öltürme") for form in ("NFC", "NFD"))
    assert composed != apart
    assert await passwords.verify(await passwords.hash(composed), apart)


REFUSED = [
    ("too short", "elevenchars", "at least 12 characters"),
    ("empty", "", "at least 12 characters"),
    ("too long", "x" * 1025, "at most 1024 octets"),
    ("too long in octets", "ö" * 513, "at most 1024 octets"),
    ("the address", "Amara@Acme.example", "mail address"),
    ("the address, padded", " amara@acme.example ", "mail address"),
]


@pytest.mark.parametrize(("text", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_a_new_password_is_refused_without_being_quoted(passwords, text, reason):
    with pytest.raises(Refused, match=reason) as caught:
        await passwords.hash(text, email="amara@acme.example")
    assert caught.value.path == "password"
    assert not text or text not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("text", ["twelve chars", "x" * 1024, "ö" * 512])
async def test_a_new_password_may_be_as_short_or_as_long_as_this(passwords, text):
    assert await passwords.verify(await passwords.hash(text, email="amara@acme.example"), text)


async def test_the_field_at_fault_is_called_as_the_asker_calls_it(passwords):
    with pytest.raises(Refused) as caught:
        await passwords.hash("short", path="new")
    assert caught.value.path == "new"
