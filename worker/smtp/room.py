"""The room in which messages wait for a connection: bounded by count and by octets, over all tenants.

Whoever finds it full waits outside, and so stops taking events from the queue. No destination may
fill more than half of it: a slow one must not keep the others' mail out.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

# More than a worker's largest prefetch: the count is a backstop, octets are what runs out.
MAX_MESSAGES = 10_000
MAX_OCTETS = 96 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Guest:
    """What one destination holds of the room."""

    messages: int = 0
    octets: int = 0


class WaitingRoom:
    """Every message is in it from its arrival in the pool until it is answered."""

    def __init__(self, max_messages: int = MAX_MESSAGES, max_octets: int = MAX_OCTETS) -> None:
        """Start empty; a message larger than its share is let in when its destination holds nothing else."""
        self._all = Guest()
        self._max = Guest(max_messages, max_octets)
        self._share = Guest(max(1, max_messages // 2), max_octets // 2)
        self._outside: deque[tuple[Guest, int, asyncio.Future[None]]] = deque()

    def enters(self, guest: Guest, octets: int) -> bool:
        """Let a message in and return True, or return False where there is no room."""
        everyone = self._all
        if not (_fits(everyone, self._max, octets) and _fits(guest, self._share, octets)):
            return False
        everyone.messages += 1
        everyone.octets += octets
        guest.messages += 1
        guest.octets += octets
        return True

    async def wait(self, guest: Guest, octets: int) -> None:
        """Return once the message has been let in."""
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outside.append((guest, octets, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self.leaves(guest, octets)  # let in and cancelled in the same turn
            raise

    def leaves(self, guest: Guest, octets: int) -> None:
        """Take a message out, and let in who fits now."""
        everyone = self._all
        everyone.messages -= 1
        everyone.octets -= octets
        guest.messages -= 1
        guest.octets -= octets
        if self._outside:
            self._let_in()

    def _let_in(self) -> None:
        """Go through the queue in order; who does not fit is passed, for that may be its destination's share."""
        still: deque[tuple[Guest, int, asyncio.Future[None]]] = deque()
        for guest, octets, admitted in self._outside:
            if admitted.done():
                continue
            if self.enters(guest, octets):
                admitted.set_result(None)
            else:
                still.append((guest, octets, admitted))
        self._outside = still


def _fits(held: Guest, most: Guest, octets: int) -> bool:
    return held.messages < most.messages and (held.octets == 0 or held.octets + octets <= most.octets)
