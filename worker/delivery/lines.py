"""Lines before the caps: whoever will find room within a second waits for it here, and need not rest in the broker.

As long as a line moves, standing in it is quicker and cheaper than the way through a tier. A line
that stands still is sent away: what waits in it would keep this worker from taking other tenants'
mail. How long a line may be follows from how fast it moves (see `Admission.line_room`). Each lane has
its own line, and the transactional one goes first: whom bulk's half of a cap refuses stands in
nobody's way.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from schemas.smtp_config import Scope
from worker.delivery.admission import LOOK_S, Admission, Key, Provider, Refusal, Ticket
from worker.delivery.ports import Lane

# Longer than any rest of the crowded, so that the cheap look is taken at all of them when they come back.
_CROWDED_S = 90.0
_LANES = tuple(Lane)
_NO_LINES: Mapping[Lane, "deque[_Waiting]"] = {}


class _Waiting(NamedTuple):
    scope: Scope
    provider: Provider
    lane: Lane
    answered: asyncio.Future[Ticket | Refusal]


class Lines:
    """The lines before the caps of one Admission; a line that is empty takes no memory."""

    def __init__(self, admission: Admission) -> None:
        """Take over the admission: places that are given back go to the lines first."""
        self._admission = admission
        self._lines: dict[Key, dict[Lane, deque[_Waiting]]] = {}
        self._crowded_until = 0.0
        admission.on_leave = self._left

    def refuse_early(self, scope: Scope, lane: Lane) -> Refusal | None:
        """See `Admission.refuse_early`."""
        refusal = self._admission.refuse_early(scope, lane)
        return None if refusal is None else self._remembered(refusal)

    async def enter(self, scope: Scope, provider: Provider, lane: Lane) -> Ticket | Refusal:
        """Admit an event, at once or after a moment; a Refusal means that it had better rest."""
        found = self._admission.try_enter(scope, provider, lane)
        if isinstance(found, Ticket):
            return found
        if len(self._lines.get(found.key, _NO_LINES).get(lane, ())) >= self._admission.line_room(found):
            return self._remembered(found)
        waiting = _Waiting(scope, provider, lane, asyncio.get_running_loop().create_future())
        self._stand(found, waiting)
        try:
            return await waiting.answered
        except asyncio.CancelledError:
            if waiting.answered.done() and not waiting.answered.cancelled():
                answer = waiting.answered.result()
                if isinstance(answer, Ticket):
                    answer.leave()
            raise

    @property
    def crowded(self) -> bool:
        """True from the first event that had to rest for a cap until a while after the last one."""
        return self._crowded_until > 0.0 and asyncio.get_running_loop().time() < self._crowded_until

    def __len__(self) -> int:
        """How many wait."""
        return sum(len(line) for lines in self._lines.values() for line in lines.values())

    def _remembered(self, refusal: Refusal) -> Refusal:
        self._crowded_until = asyncio.get_running_loop().time() + _CROWDED_S
        return self._admission.turned_away(refusal)

    def _stand(self, refusal: Refusal, waiting: _Waiting) -> None:
        lines = self._lines.setdefault(refusal.key, {})
        line = lines.get(waiting.lane)
        if line is None:
            line = lines[waiting.lane] = deque()
            self._look_later(refusal, waiting.lane)
        line.append(waiting)

    def _left(self, scope: Scope, provider: Provider) -> None:
        if not self._lines:  # the usual case: nobody waits
            return
        tenants, providers = self._lines.get(scope, _NO_LINES), self._lines.get(provider, _NO_LINES)
        for lane in _LANES:
            if line := tenants.get(lane):
                self._admit(scope, line)
            if line := providers.get(lane):
                self._admit(provider, line)

    def _admit(self, key: Key, line: deque[_Waiting]) -> None:
        """Let in whoever stands first, as long as there is room."""
        while line:
            first = line[0]
            if not first.answered.done():  # else its event was cancelled
                found = self._admission.try_enter(first.scope, first.provider, first.lane)
                if isinstance(found, Refusal) and found.key == key:
                    return
                if isinstance(found, Refusal):
                    self._stand(found, first)
                else:
                    first.answered.set_result(found)
            line.popleft()

    def _look_later(self, refusal: Refusal, lane: Lane) -> None:
        asyncio.get_running_loop().call_later(LOOK_S, self._look, refusal, lane)

    def _look(self, refusal: Refusal, lane: Lane) -> None:
        """Send away who came last of a line that moves too slowly."""
        lines = self._lines[refusal.key]
        line = lines[lane]
        self._admit(refusal.key, line)
        room = self._admission.line_room(refusal)
        while len(line) > room:
            last = line.pop()
            if not last.answered.done():
                last.answered.set_result(self._remembered(refusal))
        if line:
            self._look_later(refusal, lane)
            return
        del lines[lane]
        if not lines:
            del self._lines[refusal.key]
