"""Celery with smtplib: `celery -A tests.bench.peers.celery_app worker -P prefork|threads`.

Late acks with `reject_on_worker_lost`, no result backend, no events, gossip, mingle or heartbeat;
prefetch 8 per worker slot (4 is the default). Prefork: 4 processes, which keeps 2 cores busy while
some wait for the server. Threads: 8. JSON messages, as by default since Celery 4.
"""

import json
import smtplib
from pathlib import Path
from typing import Any

from celery import Celery

from tests.bench.peers.mail import AMQP_URL, KeptConnection

app = Celery("bench", broker=AMQP_URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=8,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)
connection = KeptConnection()


@app.task(autoretry_for=(smtplib.SMTPException, OSError), retry_backoff=True, max_retries=5)
def send_mail(event: dict[str, Any]) -> None:
    """Send one event's mail."""
    connection.send(event)


def publish(events: Path) -> None:
    """Enqueue a file of events over one connection."""
    with app.producer_pool.acquire(block=True) as producer:
        for line in events.read_bytes().splitlines():
            send_mail.apply_async((json.loads(line),), producer=producer)
