"""The way to a server as a tenant may learn of it: it was reached, or it was not by the one deadline.

Which names resolve in the operator's network and which addresses are taken there is nobody else's
business. So every failure before the connection stands is one and the same, with the same answer and at
the same time (see `worker.smtp.probe`). Checks and test mails go through it alike.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiosmtplib

from schemas.smtp_config import SmtpConfig
from worker.delivery.ports import Answer, Fault, Phase
from worker.smtp.dial import Dialled
from worker.smtp.egress import EgressGuard
from worker.smtp.reach import DialFailed

# Two repetitions of a lost SYN (after 1 and 3 s) fit into it, and any way around the world.
TENANT_REACH_S = 5.0

Reached = Callable[[], None]


class OutOfReach(DialFailed):
    """There was no connection by the deadline, whyever."""

    def __init__(self) -> None:
        """Say so, and nothing else."""
        super().__init__(Answer(Phase.CONNECT, fault=Fault.UNREACHABLE))


async def reach_as_tenant(
    config: SmtpConfig, guard: EgressGuard, reach_s: float, dial_on: Callable[[Reached], Awaitable[Dialled]]
) -> Dialled:
    """Dial, with one end for every way in which the server cannot be reached.

    `dial_on` dials and calls what it is given once there is a connection; from then on only the steps' own
    limits hold. Raises OutOfReach when `reach_s` seconds are over, and DialFailed: for a port outside the
    permitted ones at once, which is known from the record, and for whatever the server itself is at fault.
    """
    if denied := guard.port_denied(config):
        raise DialFailed(Answer(Phase.CONNECT, fault=Fault.EGRESS_DENIED, detail=denied))
    loop = asyncio.get_running_loop()
    until, there = loop.time() + reach_s, False
    try:
        async with asyncio.timeout_at(until) as limit:

            def reached() -> None:
                nonlocal there
                there = True
                limit.reschedule(None)

            return await dial_on(reached)
    except DialFailed as failed:
        if there or failed.answer.phase is Phase.TLS:  # connected, and then the ca_bundle was no good
            raise
    except TimeoutError:
        if there:
            raise
    await asyncio.sleep(until - loop.time())
    raise OutOfReach


class ReachingClient(aiosmtplib.SMTP):
    """The library's client, which says when it is given its connected socket."""

    def __init__(self, reached: Reached, **given: Any) -> None:
        """Call `reached` once there is a connection."""
        super().__init__(**given)
        self._reached = reached

    async def connect(self, **given: Any) -> aiosmtplib.SMTPResponse:
        """Take over the connected socket."""
        self._reached()
        return await super().connect(**given)
