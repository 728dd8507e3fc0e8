"""What a server answered is handed to the audit while it is heard, and not when the pipeline has its turn."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from schemas.audit import AuditRecord
from schemas.smtp_config import Scope
from tests.unit.delivery.test_pipeline import CONTROLLER, LOST_BEFORE, UNKNOWN, event
from worker.delivery.pipeline import Pipeline, PipelinePorts
from worker.delivery.ports import Ack, Answer, Heard, MailEnvelope, TransactionResult
from worker.delivery.retry import RetryPolicy
from worker.testing import ACCEPT, MemoryAudit, StaticConfigs


class EagerAudit(MemoryAudit):
    """Begins in the call, as the journal does."""

    def write(self, records: Sequence[AuditRecord]) -> Awaitable[None]:
        for record in records:
            self.records.setdefault(record.document_id, record)
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.set_result(None)
        return written


class Answering:
    """A mailer that answers when told to, outside of every task, and notes what the audit had right after."""

    def __init__(self, audit: EagerAudit, *answers: Answer) -> None:
        self._audit = audit
        self._answers = list(answers)
        self.then: Callable[[], None] = lambda: None
        self.recorded_when_heard: list[list[str]] = []

    async def send(self, _config: object, envelope: MailEnvelope, _message: object, heard: Heard) -> TransactionResult:
        answered: asyncio.Future[TransactionResult] = asyncio.get_running_loop().create_future()
        result = TransactionResult(dict.fromkeys(envelope.recipients, self._answers.pop(0)))

        def answer() -> None:
            heard(result)
            self.recorded_when_heard.append([each.outcome.value for each in self._audit.records.values()])
            answered.set_result(result)
            self.then()

        asyncio.get_running_loop().call_soon(answer)
        return await answered


def pipeline(mailer: Answering, audit: EagerAudit) -> Pipeline:
    ports = PipelinePorts(StaticConfigs({Scope(): CONTROLLER}), mailer, audit, audit)
    return Pipeline(ports, worker_id="w", retry=RetryPolicy(5, 0.001, 0.001))


@pytest.mark.parametrize(
    ("answers", "recorded"),
    [
        ([ACCEPT], [["accepted"]]),
        ([UNKNOWN], [["refused"]]),
        ([LOST_BEFORE, ACCEPT], [[], ["deferred", "accepted"]]),
    ],
    ids=["accepted", "refused", "deferred, then accepted"],
)
async def test_an_end_is_recorded_in_the_turn_in_which_it_is_heard(
    answers: list[Answer], recorded: list[list[str]]
) -> None:
    audit = EagerAudit()
    mailer = Answering(audit, *answers)
    assert isinstance(await pipeline(mailer, audit).handle(event("a@example.org")), Ack)
    assert mailer.recorded_when_heard == recorded


async def test_what_was_heard_is_recorded_though_the_worker_gives_up_in_the_same_moment() -> None:
    class Slow(EagerAudit):
        async def _later(self, records: Sequence[AuditRecord]) -> None:
            await EagerAudit.write(self, records)
            done.set()

        def write(self, records: Sequence[AuditRecord]) -> Awaitable[None]:
            return self._later(records)

    audit, done = Slow(), asyncio.Event()
    mailer = Answering(audit, ACCEPT)
    worker = pipeline(mailer, audit)
    mailer.then = worker.abort
    handled = worker.handle(event("a@example.org"))
    await asyncio.wait({handled})
    assert handled.cancelled()
    await asyncio.wait_for(done.wait(), 5)
    assert [each.outcome.value for each in audit.records.values()] == ["accepted"]
