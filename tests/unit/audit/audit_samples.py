"""Records for tests of the audit, and a transport that answers as OpenSearch would, by a script."""

import asyncio
import fnmatch
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import orjson
from opensearchpy.exceptions import ConnectionError as LibraryConnectionError
from opensearchpy.exceptions import ConnectionTimeout, TransportError

from schemas.audit import AuditRecord, ConfigUsed, Outcome, Reply, Timings, TlsUsed
from worker.delivery.ports import Document

NOON = datetime(2025, 11, 21, 12, 0, tzinfo=UTC)
AWAY = LibraryConnectionError("N/A", "Cannot connect", OSError("refused"))
SILENT = ConnectionTimeout("TIMEOUT", "", TimeoutError())


def status_error(status, kind="some_exception"):
    return TransportError(status, kind, {"error": {"root_cause": [{"reason": kind}]}})


def audit_record(number=0, *, seconds=0.0, **changes):
    values = {
        "timestamp": NOON + timedelta(seconds=seconds),
        "outcome": Outcome.ACCEPTED,
        "partner": "acme",
        "org": "dev",
        "event_id": f"event-{number}",
        "event_source": "/billing",
        "event_time": NOON,
        "recipient": f"user{number}@example.org",
        "config": ConfigUsed(
            scope="org:acme/dev", name="default", version=3, fingerprint="ab" * 8, host="smtp.example.org", port=587
        ),
        "tls": TlsUsed(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", verified=True),
        "reply": Reply(code=250, enhanced="2.0.0", text="2.0.0 Ok: queued as 4XyZ", phase="final"),
        "remote_queue_id": "4XyZ",
        "message_id": f"<{number}@postbote.example>",
        "timings": Timings(queued_ms=1.5, resolve_ms=0.1, render_ms=0.2, connect_ms=0.0, transaction_ms=12.25),
        "worker_id": "worker-1",
        **changes,
    }
    return AuditRecord(**values)


def document_of(record):
    return Document(record.document_id, record.index_month, record.to_json())


def ids_of(*records):
    return {record.document_id: record.index_month for record in records}


class ScriptedTransport:
    """Answers bulks and gets by the script's steps, then as a healthy server that remembers."""

    def __init__(self, *steps):
        self.steps = deque(steps)
        self.documents = {}
        self.requests = []
        self.bulks = []
        self.templates = set()
        self.held = asyncio.Event()
        self.held.set()
        self.arrived = asyncio.Event()
        self._asked = asyncio.Condition()

    async def bulk_number(self, count):
        """Return once so many bulks have arrived."""
        async with self._asked:
            await self._asked.wait_for(lambda: len(self.bulks) >= count)

    async def perform_request(self, method, url, params=None, body=None, timeout=None, *, headers=None):  # noqa: ASYNC109
        self.requests.append((method, url))
        if "_index_template" in url:
            return self._template(method, url.rpartition("/")[2])
        if url.endswith("/_mapping") or url.startswith("/_ingest/pipeline/"):
            return {"acknowledged": True}
        self.arrived.set()
        await self.held.wait()
        step = self.steps.popleft() if self.steps else None
        if isinstance(step, Exception):
            raise step
        if url == "/_mget":
            return self._mget(orjson.loads(body)["docs"], step)
        answer = self._bulk(body, step)
        async with self._asked:
            self._asked.notify_all()
        return answer

    async def close(self):
        self.closed = True

    def _template(self, method, name):
        if method == "PUT":
            self.templates.add(name)
            return {"acknowledged": True}
        found = fnmatch.filter(self.templates, name)
        if not found and "*" not in name:
            raise status_error(404)
        return {"index_templates": [{"name": there} for there in found]}

    def _bulk(self, body, step):
        lines = [orjson.loads(line) for line in body.splitlines()]
        sent = [(action["create"]["_index"], action["create"]["_id"]) for action in lines[::2]]
        self.bulks.append(sent)
        if isinstance(step, dict):
            return step
        step = step or self._create
        items = [
            self._item(key, document, step(position, key))
            for position, (key, document) in enumerate(zip(sent, lines[1::2], strict=True))
        ]
        return {"errors": any("error" in item for item in items), "items": [{"create": item} for item in items]}

    def _create(self, _position, key):
        return 409 if key in self.documents else 201

    def _item(self, key, document, status):
        if status < 300:
            self.documents[key] = document
            return {"status": status}
        return {"status": status, "error": {"type": f"kind_{status}", "reason": f"why {status}"}}

    def _mget(self, docs, step):
        if isinstance(step, dict):
            return step
        if callable(step):
            return {"docs": [step(doc) for doc in docs]}
        return {"docs": [self._get(doc) for doc in docs]}

    def _get(self, doc):
        stored = self.documents.get((doc["_index"], doc["_id"]))
        if stored is None:
            return {"found": False}
        found = {}
        for path in doc.get("_source", ()):
            name, _, inner = path.partition(".")
            if name in stored:
                found[name] = {inner: stored[name][inner]} if inner else stored[name]
        return {"found": True, "_source": found}


def statuses(*of_items: int) -> Callable:
    """A bulk's answer by position; items beyond are created."""
    return lambda position, _key: of_items[position] if position < len(of_items) else 201


class MemoryQueue:
    """An OutboxQueue in memory; while `refusing` is set, it takes nothing and is not there."""

    def __init__(self, *messages):
        self.messages = deque(messages)
        self.refusing = None
        self.most_in_hand = 0
        self.changed = asyncio.Event()
        self.shipping = False
        self.puts = 0

    async def put(self, bodies):
        self.puts += 1
        await asyncio.sleep(0)
        if self.refusing:
            raise self.refusing
        self.messages.extend(bodies)
        self.changed.set()

    async def depth(self):
        return None if self.refusing else len(self.messages)

    async def ship(self, write, stop):
        stopped = asyncio.ensure_future(stop.wait())
        self.shipping = True
        try:
            while not stop.is_set():
                self.changed.clear()
                if not self.messages:
                    woken = asyncio.ensure_future(self.changed.wait())
                    await asyncio.wait({woken, stopped}, return_when=asyncio.FIRST_COMPLETED)
                    woken.cancel()
                    continue
                await self._ship(write, stopped)
        finally:
            self.shipping = False
            stopped.cancel()

    async def _ship(self, write, stopped):
        in_hand = [self.messages.popleft() for _ in range(min(5, len(self.messages)))]
        writing = {asyncio.ensure_future(write(body)): body for body in in_hand}
        try:
            await asyncio.wait(
                {stopped, asyncio.gather(*writing, return_exceptions=True)}, return_when="FIRST_COMPLETED"
            )
        finally:
            for task, body in writing.items():
                if not task.done() or task.cancelled() or task.exception():
                    task.cancel()
                    self.messages.append(body)
