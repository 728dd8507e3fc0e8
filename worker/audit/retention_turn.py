"""One at a time: two commands that prune or migrate would lift each other's blocks.

The turn is a claim like those on events (see `claims`), so that one whose holder was killed ends by itself.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from worker.audit.claims import OpenSearchClaims
from worker.audit.link import NotAllowed, OpenSearchLink
from worker.delivery.claims import ClaimTimes, EventKey
from worker.errors import AuditUnavailable

TIMES = ClaimTimes(lasts_s=20.0, renew_s=4.0, margin_s=2.0)
TURN = EventKey(None, None, "postbote:audit", "retention and migration")
_ASK_EVERY_S = 0.5
_FAILURES = 3
_PATIENCE_S = TIMES.lasts_s + 2 * TIMES.margin_s  # a killed command's turn has ended by then


@asynccontextmanager
async def my_turn(link: OpenSearchLink, prefix: str, holder: str) -> AsyncIterator[Callable[[], bool]]:
    """Have the turn while the block runs; yields whether it still lasts. Raises AuditUnavailable where another has it.

    `holder` is for people; each command is another one, also with the same name.
    """
    claims = OpenSearchClaims(link, prefix, f"{holder}/{secrets.token_hex(4)}", TIMES)
    claims.start()
    try:
        await _wait(claims)
        try:
            yield lambda: claims.holds(TURN)
        finally:
            await claims.release(TURN)
    finally:
        await claims.close()


async def _wait(claims: OpenSearchClaims) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + _PATIENCE_S
    failures = 0
    while True:
        try:
            if await claims.claim(TURN):
                return
        except NotAllowed:
            raise
        except AuditUnavailable:  # a claim is given seconds, and the first one makes its index
            failures += 1
            if failures == _FAILURES:
                raise
            await asyncio.sleep(TIMES.margin_s)  # one that comes late after all comes before the next
        if loop.time() > until:
            msg = "another `postbote audit prune` or `migrate` is at work: wait for its end"
            raise AuditUnavailable(msg)
        await asyncio.sleep(_ASK_EVERY_S)
