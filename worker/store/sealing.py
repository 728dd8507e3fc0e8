"""What is sealed in the store: which of it a key opens, and sealing it all anew with the first key.

References (``env:``, ``file:``) are no tokens and are left as they are.
"""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import ColumnElement, RowMapping, not_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.config_change import is_reference
from schemas.smtp_config import label
from worker.control.records import INLINE
from worker.errors import SecretUnreadable
from worker.store.models import secrets, smtp_configs
from worker.store.rows import Secrets, scope_of, sealed_in, to_columns
from worker.store.statements import rows_of

Change = Callable[[str], str]


async def tokens_of(connection: AsyncConnection) -> Mapping[str, Sequence[str]]:
    """Every token by what holds it, as errors name that: records, and the secrets that stand for themselves."""
    records = (await connection.execute(select(smtp_configs).where(_sealed()).order_by(smtp_configs.c.id))).mappings()
    found = {label(scope_of(row), row["display_name"]): _tokens(sealed_in(row)) for row in records}
    # One that was given with a record is the record's, whose copy is looked at.
    own = select(secrets).where(not_(secrets.c.name.startswith(INLINE))).order_by(secrets.c.id)
    found |= {secret_label(row): [row["sealed"]] for row in (await connection.execute(own)).mappings()}
    return {name: tokens for name, tokens in found.items() if tokens}


async def reseal_all(connection: AsyncConnection, reseal: Change) -> int:
    """Pass every token through `reseal`; return how many records and secrets of their own have one.

    Raises SecretUnreadable, naming the first that cannot be opened.
    """
    count = 0
    for row in await rows_of(connection, _sealed()):
        changed = naming(label(scope_of(row), row["display_name"]), sealed_in(row), _but_references(reseal))
        count += bool(_tokens(changed))
        await connection.execute(
            update(smtp_configs).where(smtp_configs.c.id == row["id"]).values(**to_columns(changed))
        )
    every = select(secrets).order_by(secrets.c.id).with_for_update()
    for row in (await connection.execute(every)).mappings().all():
        changed = naming(secret_label(row), Secrets(row["sealed"]), reseal)
        count += not row["name"].startswith(INLINE)
        await connection.execute(update(secrets).where(secrets.c.id == row["id"]).values(sealed=changed.password))
    return count


def naming(name: str, sealed: Secrets, use: Change) -> Secrets:
    """Pass the tokens among `sealed` through `use`; a SecretUnreadable says whose they are."""
    try:
        return sealed.each(use)
    except SecretUnreadable as error:
        msg = f"{name}: {error}"
        raise SecretUnreadable(msg) from None


def _but_references(use: Change) -> Change:
    return lambda secret: secret if is_reference(secret) else use(secret)


def secret_label(row: RowMapping) -> str:
    """How an error names a secret."""
    return f"secret {row['name']!r} of {scope_of(row)}"


def _tokens(sealed: Secrets) -> list[str]:
    return [secret for secret in sealed if secret is not None and not is_reference(secret)]


def _sealed() -> ColumnElement[bool]:
    return or_(smtp_configs.c.secret.is_not(None), smtp_configs.c.dkim_secret.is_not(None))
