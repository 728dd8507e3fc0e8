"""The one thread that touches journals, so that no disk ever holds up the event loop.

The open journal is reached through a local variable of the thread's function and through nothing
else. That matters to a process that forks: the child has no such thread, and a variable of its
frame is never let go of there. Were the connection anybody's attribute, the child's exit would
close it, and closing the last connection of a WAL removes the WAL, from under the parent.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from worker.journal.own import OwnJournal
from worker.journal.reserve import RESERVE_OCTETS

Result = TypeVar("Result")
_Job = tuple[Callable[[OwnJournal], Any], "Future[Any]"]


class JournalThread:
    """Runs what it is given, one after the other."""

    def __init__(self, folder: Path, worker_id: str, reserve_octets: int = RESERVE_OCTETS) -> None:
        """Start the thread; a daemon, since a disk that hangs must not keep the process from ending."""
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(
            target=_serve, args=(self._jobs, folder, worker_id, reserve_octets), name="journal", daemon=True
        )
        self._thread.start()

    async def call(self, work: Callable[[OwnJournal], Result]) -> Result:
        """Run `work` on the thread; what has begun when its caller is cancelled goes on."""
        done: Future[Result] = Future()
        self._jobs.put((work, done))
        return await asyncio.wrap_future(done)

    def post(self, work: Callable[[OwnJournal], None]) -> None:
        """Have `work` run on the thread, at once where it is idle; `work` tells of its end itself, and never raises."""
        self._jobs.put((work, Future()))

    def stop(self) -> None:
        """End the thread; to be called when no call is under way."""
        self._jobs.put(None)
        self._thread.join()


def _serve(jobs: "SimpleQueue[_Job | None]", folder: Path, worker_id: str, reserve_octets: int) -> None:
    own = OwnJournal(folder, worker_id, reserve_octets)
    while (job := jobs.get()) is not None:
        _run(job, own)


def _run(job: _Job, own: OwnJournal) -> None:
    work, done = job
    if not done.set_running_or_notify_cancel():
        return
    try:
        result = work(own)
    except Exception as error:  # noqa: BLE001 - whoever called is told, whatever it is
        done.set_exception(error)
    else:
        done.set_result(result)
