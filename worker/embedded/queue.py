"""The queue of the embedded mode: RabbitMQ's part played by one SQLite file.

Durable on publish, one consumer a file, settled as the broker's deliveries are; any number of
processes may publish. SQLite is called on one thread of its own, so the event loop never waits
for a disk.
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar, assert_never

import orjson
import structlog

from worker.delivery.ports import Ack, Incoming, Lane, Later, Park, Return, Settlement
from worker.embedded.queue_file import ParkedRow, QueueFile, Taken, parked_by_the_queue
from worker.errors import BrokerUnavailable, PostboteError, PublishRefused

log = structlog.get_logger(__name__)

Handler = Callable[[Incoming], Awaitable[Settlement]]
Result = TypeVar("Result")

# What goes wrong unexpectedly so often is no accident: the event is set aside.
MAX_FAILURES = 5
# Of every so many messages one is a bulk one, if any waits: bulk comes second, never last.
_BULK_EVERY = 5
_POLL_S = 0.15
_SHOWN_FRAMES = 5


class SqliteQueue:
    """A durable two-lane queue in one file, opened at its first use.

    Every method raises BrokerUnavailable where the file cannot be read or written.
    """

    def __init__(self, path: Path, *, failure_pause_s: float = 1.0) -> None:
        """`failure_pause_s`: how long a message rests after its handler raised."""
        self._path = path
        self._failure_pause_s = failure_pause_s
        self._file: QueueFile | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="queue")
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._lanes = LaneOrder()

    async def open(self) -> Self:
        """Open the file now, so that a wrong path fails here."""
        await self.counts()
        return self

    async def close(self) -> None:
        """Close the file; the queue is of no use afterwards."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def publish(self, body: bytes, *, content_type: str | None, headers: Mapping[str, Any], lane: Lane) -> None:
        """Store a message; it is on the disk on return.

        Raises PublishRefused where a header's value is not JSON.
        """
        packed = _packed(headers)
        await self._call(lambda file: file.add(lane, body, content_type, packed))
        self._notify()

    async def run(self, handler: Handler, *, prefetch: int, stop: asyncio.Event) -> None:
        """Hand messages to `handler`, at most `prefetch` at once, until `stop` is set and they have settled.

        What was taken when a process died, or when this call is cancelled, is delivered again. A
        handler that raises has its message returned, at the `MAX_FAILURES`-th time parked. Raises
        BrokerUnavailable also where another process consumes the file.
        """
        with _only_consumer(self._path):
            await self._release_all()
            try:
                async with asyncio.TaskGroup() as tasks:
                    watching = tasks.create_task(self._wake_on(stop))
                    await self._take_until(stop, handler, prefetch, tasks)
                    watching.cancel()
            except ExceptionGroup as group:
                raise _first(group) from group
            finally:
                await self._release_all()

    async def counts(self) -> dict[str, int]:
        """How many messages wait (by lane: ``transactional``, ``bulk``), are ``taken``, ``resting``, ``parked``."""
        return await self._call(lambda file: file.counts())

    async def parked(self, limit: int) -> list[ParkedRow]:
        """The newest `limit` parked messages, newest first."""
        return await self._call(lambda file: file.parked(limit))

    async def parked_after(self, parked_id: int) -> ParkedRow | None:
        """The oldest parked message whose number is beyond `parked_id` (they count from 1), or None."""
        return await self._call(lambda file: file.parked_after(parked_id))

    async def replay_parked(self, parked_id: int, lane: Lane, headers: Mapping[str, Any]) -> bool:
        """Move a parked message back to a lane, in one step; False where it is gone.

        Raises PublishRefused where a header's value is not JSON.
        """
        packed = _packed(headers)
        moved = await self._call(lambda file: file.replay(parked_id, lane, packed))
        self._notify()
        return moved

    async def drop_parked(self, parked_id: int) -> bool:
        """Forget a parked message; False where it is gone."""
        dropped = await self._call(lambda file: file.drop(parked_id))
        self._notify()
        return dropped

    async def watch(self) -> AsyncGenerator[dict[str, int], None]:
        """The counts now, and again after each change that this object made."""
        while True:
            changed = self._changed  # before the counts: a change in between is seen at the wait
            yield await self.counts()
            await changed.wait()

    async def idle(self) -> None:
        """Return once nothing waits, is taken or rests; for use beside `run` on the same object."""
        async with contextlib.aclosing(self.watch()) as changes:
            async for counts in changes:
                if not any(n for name, n in counts.items() if name != "parked"):
                    return

    async def _take_until(self, stop: asyncio.Event, handler: Handler, prefetch: int, tasks: asyncio.TaskGroup) -> None:
        running: set[asyncio.Task[None]] = set()

        def done(task: asyncio.Task[None]) -> None:
            running.discard(task)
            self._notify()  # only now is its slot free

        while not stop.is_set():
            self._wake.clear()  # before looking: what is published from here on wakes the wait below
            free = prefetch - len(running)
            found = await self._take(free) if free else None
            taken = found.taken if found else []
            for message in taken:
                task = tasks.create_task(self._deliver(message, handler, stop))
                running.add(task)
                task.add_done_callback(done)
            if found is None:
                await self._wake.wait()
            elif len(taken) < free:
                await self._wait_for_work(found)

    async def _take(self, free: int) -> "_Look":
        def take(file: QueueFile) -> _Look:
            # The version comes first: a commit after it is looked at twice, never missed.
            seen = file.version()
            taken = file.take(free, lambda first, second: self._lanes.choose(first, second, free))
            return _Look(seen, taken, file.next_due())

        return await self._call(take)

    async def _wait_for_work(self, found: "_Look") -> None:
        """Wait for a wake-up, for the next resting message to be due, or for a commit of another process."""
        while not self._wake.is_set():
            rest_s = None if found.next_due is None else found.next_due - time.time()
            if rest_s is not None and rest_s <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S if rest_s is None else min(rest_s, _POLL_S)):
                    await self._wake.wait()
            if await self._call(lambda file: file.version()) != found.seen:
                return

    async def _deliver(self, message: Taken, handler: Handler, stop: asyncio.Event) -> None:
        try:
            settlement = await handler(message.incoming)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the consumer
            await self._after_failure(message, error, stop)
        else:
            await self._settle(message, settlement)

    async def _settle(self, message: Taken, settlement: Settlement) -> None:
        done = False
        try:
            await self._carry_out(message, settlement)
            done = True
        finally:
            if not isinstance(settlement, Ack):
                settlement.told(done)

    async def _carry_out(self, message: Taken, settlement: Settlement) -> None:
        match settlement:
            case Ack():
                await self._call(lambda file: file.delete(message.id))
            case Park() as park:
                await self._call(lambda file: file.park(message.id, park))
            case Return(headers):
                await self._call(lambda file: file.again(message.id, headers))
            case Later(_, wait_s, headers):
                await self._call(lambda file: file.again(message.id, headers, wait_s))
            case _:
                assert_never(settlement)

    async def _after_failure(self, message: Taken, error: Exception, stop: asyncio.Event) -> None:
        """Let the message come again after a pause, as redelivered, until it has failed often enough."""
        failures = message.failures + 1
        # The frames alone: an exception's own text may quote a body or a secret.
        frames = "".join(traceback.format_tb(error.__traceback__)[-_SHOWN_FRAMES:])
        log.error("event could not be handled", error=type(error).__name__, failures=failures, frames=frames)
        if failures >= MAX_FAILURES:
            told = str(error) if isinstance(error, PostboteError) else type(error).__name__
            detail = f"handling it failed {failures} times; last: {told}"
            park = parked_by_the_queue("handler_error", detail, message.incoming.headers)
            await self._call(lambda file: file.park(message.id, park))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._failure_pause_s):
                await stop.wait()
        await self._call(lambda file: file.release(message.id))

    async def _release_all(self) -> None:
        released = await self._call(lambda file: file.release_all())
        if released:
            log.info("unsettled messages wait again", count=released)
        self._notify()

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    def _notify(self) -> None:
        self._wake.set()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _call(self, work: Callable[[QueueFile], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._on_thread, work)
        except (sqlite3.Error, OSError) as error:
            msg = f"the queue {self._path} cannot be used: {error}"
            raise BrokerUnavailable(msg) from error

    def _on_thread(self, work: Callable[[QueueFile], Result]) -> Result:
        if self._file is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = QueueFile(self._path)
        return work(self._file)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look at the file found: its version then, what was taken, when the next rest ends (epoch seconds)."""

    seen: int
    taken: list[Taken]
    next_due: float | None


class LaneOrder:
    """Whose turn it is: transactional first, and one bulk message of every `_BULK_EVERY` while any waits."""

    def __init__(self) -> None:
        """The first turns are transactional ones."""
        self._since_bulk = 0

    def choose(self, transactional: Sequence[int], bulk: Sequence[int], slots: int) -> list[int]:
        """The next ids, at most `slots`, in the order of delivery."""
        first, second = list(transactional), list(bulk)
        chosen: list[int] = []
        while len(chosen) < slots and (first or second):
            is_bulk = bool(second) and (not first or self._since_bulk >= _BULK_EVERY - 1)
            chosen.append((second if is_bulk else first).pop(0))
            self._since_bulk = 0 if is_bulk else self._since_bulk + 1
        return chosen


@contextlib.contextmanager
def _only_consumer(path: Path) -> Iterator[None]:
    """Hold the lock on the side file; the system drops it with the process, however that ends."""
    handle = _open_lock(path)
    try:
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    handle = -1
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        msg = f"another process consumes the queue {path}: stop it first"
        raise BrokerUnavailable(msg) from None
    except OSError as error:
        msg = f"the queue {path} cannot be locked: {error}"
        raise BrokerUnavailable(msg) from error
    return handle


def _packed(headers: Mapping[str, Any]) -> str:
    try:
        return orjson.dumps(dict(headers)).decode()
    except orjson.JSONEncodeError as error:
        msg = f"headers: {error}"
        raise PublishRefused(msg) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
