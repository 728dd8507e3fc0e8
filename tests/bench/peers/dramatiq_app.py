"""dramatiq with smtplib: `dramatiq tests.bench.peers.dramatiq_app -p 2 -t 8`.

A process per core and 8 threads in each (both defaults of the command on this machine's 2 cores).
It acknowledges after the actor has returned, and prefetches twice its threads, by itself. Its
default middleware stays, as in most deployments: retries with backoff come from there.
"""

import json
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from tests.bench.peers.mail import AMQP_URL, KeptConnection

broker = RabbitmqBroker(url=AMQP_URL)
dramatiq.set_broker(broker)
connection = KeptConnection()


@dramatiq.actor(max_retries=5)
def send_mail(event: dict[str, Any]) -> None:
    """Send one event's mail."""
    connection.send(event)


def publish(events: Path) -> None:
    """Enqueue a file of events."""
    for line in events.read_bytes().splitlines():
        send_mail.send(json.loads(line))
    broker.close()
