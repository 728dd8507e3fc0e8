"""The Docker ways: the servers of `tests.services` as containers, and `compose.yaml` from build to mail.

Nothing here is skipped: without an engine, each test fails with what would start one.
"""

import json
import os
import smtplib
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pika
import pytest

from tests.services import opensearch, rabbitmq
from tests.services.containers import engine_closed
from tests.services.opensearch import OpenSearchServer
from tests.services.postfix import Postfix
from tests.services.processes import free_port
from tests.services.rabbitmq import Broker
from tests.services.ways import FORCE, Way

PROJECT = Path(__file__).parents[2]
MAIL = b"Subject: hello\r\nFrom: <org@org.test>\r\n\r\nbody\r\n"


@pytest.fixture(autouse=True)
def _only_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORCE, "docker")
    assert engine_closed() is None, f"these tests need Docker: {engine_closed()}"


@pytest.fixture
def broker() -> Iterator[Broker]:
    started = rabbitmq.broker()
    started.start()
    yield started
    started.stop()


@pytest.fixture
def search() -> Iterator[OpenSearchServer]:
    started = opensearch.server()
    started.start()
    yield started
    started.stop()


def test_rabbitmq_in_a_container_keeps_its_messages_over_a_crash(broker: Broker) -> None:
    assert broker.way is Way.DOCKER
    url = broker.fresh_vhost()
    publisher = pika.BlockingConnection(pika.URLParameters(url)).channel()
    publisher.confirm_delivery()
    publisher.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
    publisher.basic_publish("", "q", b"kept", pika.BasicProperties(delivery_mode=2), mandatory=True)
    broker.kill()
    broker.start()
    reader = pika.BlockingConnection(pika.URLParameters(url)).channel()
    # The queue's leader is elected a moment after the listener opens.
    assert until(lambda: reader.basic_get("q", auto_ack=True)[2]) == b"kept"


def test_opensearch_in_a_container_can_be_paused_and_restarted(search: OpenSearchServer) -> None:
    assert search.way is Way.DOCKER
    search.pause()
    with pytest.raises(TimeoutError):
        fetch(search.url, seconds=1)
    search.resume()
    search.restart()
    assert fetch(search.url)["version"]["number"].startswith("3.")


def test_postfix_in_a_container_takes_mail_and_refuses_to_order() -> None:
    with Postfix.make() as postfix:
        assert postfix.way is Way.DOCKER
        postfix.refuse("bad@x.test", "550 5.1.1 No such user")
        with smtplib.SMTP("localhost", postfix.port_plain, timeout=10) as client:
            refused = client.sendmail("org@org.test", ["good@x.test", "bad@x.test"], MAIL)
        assert list(refused) == ["bad@x.test"]
        [mail] = postfix.wait_for(1)
        assert mail["Delivered-To"] == "good@x.test"


@dataclass
class Compose:
    """One compose project with a name and ports of its own, so that it meets no other on this machine."""

    name: str = field(default_factory=lambda: f"postbote-test-{uuid.uuid4().hex[:8]}")
    amqp: int = field(default_factory=free_port)
    web: int = field(default_factory=free_port)
    others: tuple[int, int, int] = field(default_factory=lambda: (free_port(), free_port(), free_port()))

    def run(self, *arguments: str, seconds: float = 600) -> str:
        """`docker compose ARGUMENTS`; standard output, or an error that shows both outputs."""
        command = [
            "docker",
            "compose",
            "--project-name",
            self.name,
            "--file",
            str(PROJECT / "compose.yaml"),
            *arguments,
        ]
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def _environment(self) -> dict[str, str]:
        management, search, smtp = (str(port) for port in self.others)
        # What the shell has set for Postbote is for some other Postbote.
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("POSTBOTE_", "FW_EVENT_"))}
        return kept | {
            "POSTBOTE_IMAGE_TAG": self.name,
            "POSTBOTE_RABBITMQ_PORT": str(self.amqp),
            "POSTBOTE_RABBITMQ_MANAGEMENT_PORT": management,
            "POSTBOTE_OPENSEARCH_PORT": search,
            "POSTBOTE_MAILDEV_WEB_PORT": str(self.web),
            "POSTBOTE_MAILDEV_SMTP_PORT": smtp,
        }


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    assert engine_closed() is None, f"these tests need Docker: {engine_closed()}"
    project = Compose()
    try:
        project.run("up", "--build", "--wait", "--wait-timeout", "240")
        yield project
    except AssertionError:
        print(project.run("logs", "--no-color", "--tail", "60"))
        raise
    finally:
        project.run("down", "--volumes", "--timeout", "20", "--rmi", "local")
        subprocess.run(["docker", "image", "rm", f"postbote:{project.name}"], capture_output=True, check=False)


def test_every_service_is_healthy_and_two_workers_run(compose: Compose) -> None:
    states = [json.loads(line) for line in compose.run("ps", "--format", "json").splitlines()]
    assert {state["Health"] for state in states} == {"healthy"}
    assert sorted(state["Service"] for state in states) == [
        "api", "maildev", "opensearch", "rabbitmq", "worker", "worker",
    ]  # fmt: skip


def test_a_published_event_is_in_the_mailbox_and_in_the_audit(compose: Compose, tmp_path: Path) -> None:
    event = json.loads((PROJECT / "samples/password-reset.json").read_text()) | {"id": f"docker-{uuid.uuid4().hex}"}
    [recipient] = event["data"]["to"]
    file = tmp_path / "event.json"
    file.write_text(json.dumps(event))
    publish(compose, file)
    [mail] = until(lambda: caught(compose, recipient))
    assert mail["from"][0]["address"] == "postbote@controller.example"
    [record] = until(lambda: audit(compose, event["id"]))
    assert (record["outcome"], record["recipient"]) == ("accepted", recipient)


def test_the_containers_root_is_read_only_and_its_user_is_not_root(compose: Compose) -> None:
    assert compose.run("exec", "-T", "worker", "id", "-u").strip() == "10001"
    script = "touch /opt/x 2>/dev/null && echo writable || echo read-only"
    assert compose.run("exec", "-T", "worker", "sh", "-c", script).strip() == "read-only"


def publish(compose: Compose, file: Path) -> None:
    url = f"amqp://guest:guest@127.0.0.1:{compose.amqp}/%2F"
    command = [str(Path(sys.executable).parent / "postbote"), "publish", str(file)]
    done = subprocess.run(
        command,
        env={**os.environ, "POSTBOTE_AMQP_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def caught(compose: Compose, recipient: str) -> list[dict[str, Any]]:
    mails: list[dict[str, Any]] = fetch(f"http://127.0.0.1:{compose.web}/email")
    return [mail for mail in mails if mail["to"][0]["address"] == recipient]


def audit(compose: Compose, event_id: str) -> list[dict[str, Any]]:
    arguments = ("audit", "search", "--since", "1h", "--event-id", event_id, "--json")
    lines = compose.run("exec", "-T", "api", "postbote", *arguments).splitlines()
    return [json.loads(line) for line in lines]


def fetch(url: str, seconds: float = 10) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=seconds) as reply:
        return json.load(reply)


def until(ask: Callable[[], Any], seconds: float = 30) -> Any:
    """Ask until the answer is not empty; the last answer when the time is over."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return answer
