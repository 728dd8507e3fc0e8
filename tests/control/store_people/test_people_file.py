"""What lets somebody in stands nowhere in the database's file: a copy of it opens no door."""

from pathlib import Path

from argon2 import PasswordHasher
from sqlalchemy import text

from tests.control.store_people.people_samples import ACME, TESTS, new_user, session_of
from worker.control.mails import Mails
from worker.control.passwords import Passwords
from worker.control.people import Purpose
from worker.control.principals import Role
from worker.store.database import Store
from worker.store.outgoing import OutgoingShelf

PASSWORD = "correct-horse-battery-staple"


def bytes_of(folder: Path) -> bytes:
    """The database's file, and beside it what is not in it yet."""
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()))


async def test_no_value_of_a_session_a_token_or_a_password_is_in_the_file(people, clock, tmp_path):
    hashed = await Passwords(PasswordHasher(1, 64, 1)).hash(PASSWORD)
    user = await people.add_user(new_user(password_hash=hashed), TESTS)
    session = await session_of(people, user, clock)
    token, value = await people.create_token("ci", ACME, Role.ADMIN, TESTS, expires_at=None)
    assert await people.principal_of_session(session)
    assert await people.principal_of_token(value)
    found = bytes_of(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} >= {".db", ".db-wal"}
    assert [text.encode() in found for text in (user.email, hashed, token.id)] == [True] * 3, "or nothing is searched"
    assert [text.encode() in found for text in (PASSWORD, session, value)] == [False] * 3


async def test_a_link_stands_in_its_mail_only_and_nowhere_once_that_has_gone_out(people, tmp_path):
    values = []

    def mail(value):
        values.append(value)
        return Mails("https://mail.example").invited(new_user(), "Ops")(value)

    user = await people.add_user(new_user(password_hash=None), TESTS, mail=mail)
    [value] = values
    shelf = OutgoingShelf(people.database)
    waiting = await shelf.oldest(10)
    assert [value.encode() in each.body for each in waiting].count(True) == 1
    await shelf.told([each.seq for each in waiting])
    await people.database.close()  # ends the log beside the file
    assert user.email.encode() in bytes_of(tmp_path)
    assert value.encode() not in bytes_of(tmp_path)
    assert (await people.link(value)).purpose is Purpose.SET_PASSWORD


async def test_what_is_deleted_is_erased_on_each_connection(people, url):
    again = Store(url)
    for database in (people.database, again):
        async with database.writing() as connection, database.reading() as another:
            for each in (connection, another):
                assert (await each.execute(text("PRAGMA secure_delete"))).scalar_one() == 1
    await again.close()


async def test_of_many_mails_that_have_gone_out_no_link_stays_in_the_file(people, tmp_path):
    values = []

    def mail(value):
        values.append(value)
        return Mails("https://mail.example").invited(new_user(), "Ops" * 500)(value)  # a row for a page, or more

    for number in range(20):
        await people.add_user(new_user(f"u{number}@acme.example", password_hash=None), TESTS, mail=mail)
    shelf = OutgoingShelf(people.database)
    first, *rest = await shelf.oldest(100)
    await shelf.told([each.seq for each in rest])  # one is left: its page stays in use
    await people.database.close()
    found = bytes_of(tmp_path)
    assert first.body in found, "or nothing is searched"
    assert [value for value in values if value.encode() in found] == [v for v in values if v.encode() in first.body]
