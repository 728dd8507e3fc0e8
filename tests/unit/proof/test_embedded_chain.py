"""The embedded form's chain: its worker's records and heads, in the one file."""

import asyncio
import sqlite3

import orjson

from schemas.audit_query import AuditQuery
from tests.support.chains import faults_of, lengths_of
from tests.support.events import body_of, make_event
from worker.app import embedded_app
from worker.delivery.ports import Lane
from worker.settings import load_settings


def rows(folder, table):
    with sqlite3.connect(folder / "audit.db") as connection:
        return [orjson.loads(row) for (row,) in connection.execute(f"SELECT document FROM {table}")]


async def recorded(app, count):
    async with asyncio.timeout(20):
        while (await app.audit.search(AuditQuery())).total < count:
            await asyncio.sleep(0.02)  # polling: a file announces nothing


async def test_an_embedded_worker_chains_what_it_records_with_heads_now_and_then_and_at_the_end(tmp_path):
    settings = load_settings({"POSTBOTE_DATA_DIR": str(tmp_path), "POSTBOTE_AUDIT_HEAD_S": "0.1"})
    async with embedded_app(settings) as app, app.worker():
        for number in range(3):
            body = body_of(make_event("a@example.com", id=str(number)))
            await app.queue.publish(body, content_type="application/cloudevents+json", headers={}, lane=Lane.BULK)
            await recorded(app, number + 1)
            async with asyncio.timeout(20):
                while not any(head["seq"] == number + 1 for head in rows(tmp_path, "proof")):
                    await asyncio.sleep(0.02)
    async with embedded_app(settings.model_copy(update={"audit_head_s": 3600.0})) as app, app.worker():
        body = body_of(make_event("a@example.com", id="last"))
        await app.queue.publish(body, content_type="application/cloudevents+json", headers={}, lane=Lane.BULK)
        await recorded(app, 4)
    records, heads = rows(tmp_path, "record"), rows(tmp_path, "proof")
    assert faults_of(records, heads) == []
    assert sorted(lengths_of(records).values()) == [1, 3]
    last = next(each["chain"]["writer"] for each in records if each["event_id"] == "last")
    assert [head["seq"] for head in heads if head["writer"] == last] == [1], "at the end"
