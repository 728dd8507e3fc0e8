"""Known secrets, given by every way there is, are looked for wherever Postbote writes: they are nowhere in clear."""

import asyncio
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from tests.integration.conftest import Site
from tests.support.access import request, token_for
from tests.support.events import make_event
from tests.support.process import Postbote
from worker.embedded.certificates import ensure_certificates
from worker.embedded.sink import SmtpSink
from worker.rabbit.config_stream import publish_marker
from worker.rabbit.topology import CONFIG_STREAM

SMTP_PASSWORD, NEW_SMTP_PASSWORD = "smtp-pass-6b1f0c", "smtp-pass-rotated-91d2"
WRONG_SMTP_PASSWORD, NAMED_SECRET = "smtp-pass-wrong-77aa", "named-secret-52c8"
LOGIN_PASSWORD, WRONG_LOGIN_PASSWORD = "login password 3f9e", "login password wrong 0b4d"
ACCOUNT = "relay@acme.example"


def record(port: int, password: str, **more: Any) -> dict[str, Any]:
    fields = {"username": ACCOUNT, "password": password, "host": "localhost", "port": port}
    return {"email_config": {"smtp_config": fields | {"use_tls": True, "use_insecure": True, "retries": 0} | more}}


class Talk:
    """Asks the API and keeps every octet of what it answers."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.heard: list[str] = []

    def ask(self, method: str, path: str, token: str | None, body: Any = None) -> tuple[int, Any]:
        status, told, headers = request(method, self.base + path, token, body)
        self.heard.append(json.dumps([told, dict(headers.items())]))
        return status, told


def everything_that_takes_a_secret(talk: Talk, partner: str, port: int) -> None:
    """Each way in, with what works and with what is refused."""
    config, named = "/event/v1/email/config", "/v1/smtp-configs"
    mail = {"sender_email": "a@acme.example", "recipient_email": "b@x.test", "subject": "s", "body": "b"}
    native = {"host": "localhost", "port": port, "tls": "starttls", "verify_tls": False, "username": ACCOUNT}
    for method, path, body, expected in [
        ("POST", config, record(port, SMTP_PASSWORD), 200),
        ("POST", config, record(port, WRONG_SMTP_PASSWORD, use_tls=False), 422),
        ("POST", config, record(0, WRONG_SMTP_PASSWORD), 422),
        ("POST", config, f'{{"password": "{WRONG_SMTP_PASSWORD}"'.encode(), 400),
        ("GET", config, None, 200),
        ("POST", f"{config}/verification", mail, 200),
        ("POST", f"{config}/verification", mail | record(port, WRONG_SMTP_PASSWORD), 200),
        ("POST", f"{named}/check", native | {"password": WRONG_SMTP_PASSWORD}, 200),
        ("POST", named, native | {"display_name": "second", "password": SMTP_PASSWORD}, 201),
        ("PUT", f"{named}/second", native | {"password": NEW_SMTP_PASSWORD}, 200),
        ("POST", f"{named}/second/rollback", {"version": 1}, 200),
        ("GET", f"{named}/second/history", None, 200),
        ("POST", "/v1/secrets", {"name": "relay", "value": NAMED_SECRET}, 201),
        ("PUT", "/v1/secrets/relay", {"value": NEW_SMTP_PASSWORD}, 200),
        ("POST", named, native | {"display_name": "third", "secret": "relay"}, 201),
        ("GET", named, None, 200),
        ("GET", f"{named}/effective", None, 200),
        ("DELETE", f"{named}/third", None, 200),
        ("GET", "/openapi.json", None, 200),
    ]:
        status, told = talk.ask(method, path, partner, body)
        assert status == expected, (method, path, told)


@pytest.fixture
def plane(site: Site) -> Iterator[tuple[Site, Postbote, Postbote]]:
    site.env_extra |= {"POSTBOTE_CONFIG_SOURCE": "topic", "POSTBOTE_ADMIN_PASSWORD": LOGIN_PASSWORD}
    site.run("init", "--email", "root@postbote.example")
    with Postbote("api", env=site.env) as api, Postbote("worker", env=site.env) as worker:
        worker.wait_for("consuming")
        api.wait_for("publisher is connected")
        yield site, api, worker


async def test_no_secret_is_found_anywhere_in_clear(plane: tuple[Site, Postbote, Postbote], tmp_path: Path) -> None:
    site, api, worker = plane
    talk = Talk(api.base_url)
    accounts = {ACCOUNT: SMTP_PASSWORD}
    async with SmtpSink(ensure_certificates(tmp_path / "tls"), accounts=accounts) as sink:
        session = await asyncio.to_thread(logged_in, talk)
        token = await asyncio.to_thread(token_for, site.env["POSTBOTE_DATABASE_URL"], "partner:acme")
        await asyncio.to_thread(everything_that_takes_a_secret, talk, token, sink.starttls_port)
        event = make_event("r@x.test", id="e", scope={"partner": "acme"})
        assert (await asyncio.to_thread(talk.ask, "POST", "/v1/events", token, event))[0] == 202
        reader = await asyncio.to_thread(site.reader, api)
        await asyncio.to_thread(reader.wait_for, 1, eventid="e", outcome="accepted")
        await asyncio.to_thread(reader.wait_for, 5, type="smtp_config.changed")
    secrets = [SMTP_PASSWORD, NEW_SMTP_PASSWORD, WRONG_SMTP_PASSWORD, NAMED_SECRET]
    secrets += [LOGIN_PASSWORD, WRONG_LOGIN_PASSWORD, session, token]
    for where, read in places(site, api, worker, talk).items():
        text = await asyncio.to_thread(read)
        assert len(text) > 20, f"{where}: nothing was looked through"
        assert [secret for secret in secrets if secret in text] == [], where


def logged_in(talk: Talk) -> str:
    """Log in wrongly and rightly; the session's value."""
    login = {"email": "root@postbote.example", "password": WRONG_LOGIN_PASSWORD}
    assert talk.ask("POST", "/auth/login", None, login)[0] == 401
    status, _, headers = request("POST", f"{talk.base}/auth/login", body=login | {"password": LOGIN_PASSWORD})
    assert status == 200
    found = re.search("rsid=([^;]+);", headers["Set-Cookie"])
    assert found
    return found[1]


def places(site: Site, api: Postbote, worker: Postbote, talk: Talk) -> dict[str, Callable[[], str]]:
    """Where a secret could be, and how each place is read."""
    return {
        "database": lambda: "".join(f.read_bytes().decode("latin-1") for f in site.folder.glob("postbote.db*")),
        "config topic": lambda: raw_stream(site.amqp_url),
        "audit": lambda: raw_audit(site),
        "answers": lambda: "".join(talk.heard),
        "log of the api at debug": lambda: "\n".join(api.lines),
        "log of the worker at debug": lambda: "\n".join(worker.lines),
        "journal": lambda: "".join(
            f.read_bytes().decode("latin-1") for f in (site.folder / "journal").rglob("*") if f.is_file()
        ),
        "process arguments": lambda: "".join(
            Path(f"/proc/{process.process.pid}/cmdline").read_text() for process in (api, worker)
        ),
    }


def raw_stream(amqp_url: str) -> str:
    """Every message of the topic up to now: a marker behind them says where they end."""
    marker = asyncio.run(publish_marker(amqp_url, "test marker"))
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=1)  # so that nothing behind the marker comes: a stream rejects a rejection
    bodies = []
    arguments = {"x-stream-offset": "first"}
    for method, _, body in channel.consume(CONFIG_STREAM, inactivity_timeout=30, arguments=arguments):
        assert method, "the marker does not come"
        bodies.append(body.decode())
        if marker in bodies[-1]:
            break
        channel.basic_ack(method.delivery_tag)
    connection.close()
    return "\n".join(bodies)


def raw_audit(site: Site) -> str:
    url = f"{site.opensearch_url}/{site.index_prefix}-*/_search?size=1000"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
