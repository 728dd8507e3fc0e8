"""The servers that the other tests stand on do what is said of them."""

import contextlib
import json
import os
import smtplib
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
import psycopg
import pytest

from tests.services import postgres as postgres_service
from tests.services import processes, sessions
from tests.services.opensearch import OpenSearchServer
from tests.services.postfix import Postfix
from tests.services.postgres import PostgresServer
from tests.services.processes import wait_until
from tests.services.rabbitmq import Broker
from tests.services.sessions import Process, Session
from tests.services.smtp_sink import SmtpSink
from tests.services.ways import Offer, ServiceUnavailable, Way

QUORUM = {"x-queue-type": "quorum"}
PERSISTENT = pika.BasicProperties(delivery_mode=2)
MAIL = b"Subject: hello\r\nFrom: <org@org.test>\r\n\r\nbody\r\n"


def channel(url: str) -> pika.adapters.blocking_connection.BlockingChannel:
    opened = pika.BlockingConnection(pika.URLParameters(url)).channel()
    opened.confirm_delivery()
    return opened


def consume(url: str, queue: str, count: int) -> list[bytes]:
    taken: list[bytes] = []
    for method, _, body in channel(url).consume(queue, inactivity_timeout=10, auto_ack=True):
        assert method is not None, f"{len(taken)} of {count} messages came"
        taken.append(body)
        if len(taken) == count:
            return taken
    raise AssertionError


def serve(connection: pika.BlockingConnection, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        connection.process_data_events(time_limit=0.1)


class TestRabbitMQ:
    def test_a_quorum_queue_gives_back_what_was_confirmed(self, amqp_url: str) -> None:
        publisher = channel(amqp_url)
        publisher.queue_declare("q", durable=True, arguments=QUORUM)
        for number in range(20):
            publisher.basic_publish("", "q", b"%d" % number, PERSISTENT, mandatory=True)
        assert consume(amqp_url, "q", 20) == [b"%d" % number for number in range(20)]

    def test_virtual_hosts_are_apart(self, rabbitmq: Broker, amqp_url: str) -> None:
        channel(amqp_url).queue_declare("q", durable=True)
        other = rabbitmq.fresh_vhost()
        assert rabbitmq.queues(other) == []
        rabbitmq.drop_vhost(other)
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            channel(other)

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_confirmed_messages_outlive_the_broker(self, rabbitmq: Broker, amqp_url: str, end: str) -> None:
        publisher = channel(amqp_url)
        publisher.queue_declare("q", durable=True, arguments=QUORUM)
        publisher.basic_publish("", "q", b"kept", PERSISTENT, mandatory=True)
        getattr(rabbitmq, end)()
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            channel(amqp_url)
        rabbitmq.start()
        assert consume(amqp_url, "q", 1) == [b"kept"]

    def test_a_memory_alarm_blocks_publishers_and_can_be_cleared(self, rabbitmq: Broker, amqp_url: str) -> None:
        publisher = channel(amqp_url)
        states: list[str] = []
        publisher.connection.add_on_connection_blocked_callback(lambda *_: states.append("blocked"))
        publisher.connection.add_on_connection_unblocked_callback(lambda *_: states.append("unblocked"))
        publisher.queue_declare("q", durable=True)
        rabbitmq.raise_memory_alarm()
        # Without a confirm to wait for, this only makes the connection one that publishes: such are blocked.
        publisher.connection.add_callback_threadsafe(
            lambda: publisher._impl.basic_publish("", "q", b"held back", PERSISTENT)
        )
        serve(publisher.connection, lambda: states == ["blocked"])
        rabbitmq.clear_memory_alarm()
        serve(publisher.connection, lambda: states == ["blocked", "unblocked"])
        assert consume(amqp_url, "q", 1) == [b"held back"]

    def test_connections_are_closed_from_the_brokers_side(self, rabbitmq: Broker, amqp_url: str) -> None:
        connection = channel(amqp_url).connection
        rabbitmq.close_connections(amqp_url)
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker):
            connection.process_data_events(time_limit=10)


def call(server: OpenSearchServer, method: str, path: str, body: str | None = None, seconds: float = 10) -> Any:
    request = urllib.request.Request(
        f"{server.url}/{path}",
        method=method,
        data=body.encode() if body is not None else None,
        headers={"Content-Type": "application/x-ndjson"},
    )
    with urllib.request.urlopen(request, timeout=seconds) as reply:
        return json.load(reply)


def create(server: OpenSearchServer, index: str, identity: str) -> int:
    lines = json.dumps({"create": {"_index": index, "_id": identity}}), json.dumps({"outcome": "accepted"})
    answer = call(server, "POST", "_bulk", "\n".join(lines) + "\n")
    return int(answer["items"][0]["create"]["status"])


class TestOpenSearch:
    def test_a_second_create_of_one_id_conflicts(self, opensearch: OpenSearchServer, index_prefix: str) -> None:
        assert create(opensearch, f"{index_prefix}-2026.11", "a") == 201
        assert create(opensearch, f"{index_prefix}-2026.11", "a") == 409

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_documents_outlive_the_server(self, opensearch: OpenSearchServer, index_prefix: str, end: str) -> None:
        create(opensearch, f"{index_prefix}-x", "kept")
        getattr(opensearch, end)()
        with pytest.raises(OSError, match="refused"):
            call(opensearch, "GET", "")
        opensearch.start()
        found = call(opensearch, "GET", f"{index_prefix}-x/_doc/kept")
        assert found["_source"] == {"outcome": "accepted"}

    def test_a_paused_server_takes_connections_and_never_answers(self, opensearch: OpenSearchServer) -> None:
        opensearch.pause()
        try:
            with pytest.raises(TimeoutError):
                call(opensearch, "GET", "", seconds=0.5)
        finally:
            opensearch.resume()
        assert opensearch.healthy()

    def test_what_a_test_made_is_deleted(self, opensearch: OpenSearchServer) -> None:
        create(opensearch, "test-gone-1", "a")
        opensearch.delete_indices("test-gone*")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            call(opensearch, "GET", "test-gone-1")


class TestPostgres:
    def test_each_test_has_an_empty_database_of_its_own(self, postgres: PostgresServer, postgres_url: str) -> None:
        other = postgres.fresh_database()
        postgres.query("CREATE TABLE letters (body text)", postgres_url)
        with pytest.raises(psycopg.errors.UndefinedTable):
            postgres.query("SELECT body FROM letters", other)
        postgres.drop_database(other)
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            postgres.query("SELECT 1", other)

    def test_an_emptied_database_is_as_good_as_new_though_a_client_holds_a_lock_in_it(
        self, postgres: PostgresServer, postgres_url: str
    ) -> None:
        postgres.query("CREATE TABLE letters (body text)", postgres_url)
        with contextlib.closing(psycopg.connect(postgres_url)) as left_behind:
            left_behind.execute("LOCK TABLE letters")
            postgres.empty_database(postgres_url)
        assert postgres.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", postgres_url) == []
        postgres.query("CREATE TABLE letters (body text)", postgres_url)

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_what_was_committed_outlives_the_server_though_a_client_hangs_on(
        self, postgres: PostgresServer, postgres_url: str, end: str
    ) -> None:
        postgres.query("CREATE TABLE letters (body text)", postgres_url)
        with psycopg.connect(postgres_url) as client:
            client.execute("INSERT INTO letters VALUES ('not committed')")
            postgres.query("INSERT INTO letters VALUES ('kept')", postgres_url)
            getattr(postgres, end)()
            with pytest.raises(psycopg.OperationalError):
                client.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="refused"):
            postgres.query("SELECT 1")
        postgres.start()
        assert postgres.query("SELECT body FROM letters", postgres_url) == [("kept",)]

    def test_the_password_counts(self, postgres: PostgresServer, postgres_url: str) -> None:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(postgres_url, password="wrong")

    def test_clients_are_cut_off_from_the_servers_side(self, postgres: PostgresServer, postgres_url: str) -> None:
        with psycopg.connect(postgres_url) as client:
            postgres.disconnect(postgres_url)
            with pytest.raises(psycopg.errors.AdminShutdown):
                client.execute("SELECT 1")

    def test_a_given_server_is_not_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("POSTBOTE_TEST_SERVICES", raising=False)
        monkeypatch.setenv("POSTBOTE_TEST_POSTGRES_URL", "postgresql://me:secret@db.test/postgres")
        given = postgres_service.server()
        assert given.way is Way.URL
        with pytest.raises(ServiceUnavailable, match="POSTBOTE_TEST_POSTGRES_URL"):
            given.stop()


def trusting(postfix: Postfix) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(postfix.ca_file))


@pytest.fixture
def starttls(smtp: Postfix) -> Iterator[smtplib.SMTP]:
    with smtplib.SMTP("localhost", smtp.port_starttls, timeout=10) as client:
        client.starttls(context=trusting(smtp))
        client.login("org@org.test", smtp.users["org@org.test"])
        yield client


class TestPostfix:
    def test_mail_over_starttls_arrives_as_sent(self, smtp: Postfix, starttls: smtplib.SMTP) -> None:
        starttls.sendmail("org@org.test", ["a@anywhere.test"], MAIL)
        [mail] = smtp.wait_for(1)
        assert (mail["Delivered-To"], mail["Return-Path"]) == ("a@anywhere.test", "<org@org.test>")
        assert mail["Subject"] == "hello"
        assert smtp.raw()[0].endswith(MAIL.replace(b"\r\n", b"\n"))

    def test_mail_over_ssl_reaches_every_recipient(self, smtp: Postfix) -> None:
        with smtplib.SMTP_SSL("localhost", smtp.port_ssl, context=trusting(smtp), timeout=10) as client:
            client.login("partner@partner.test", smtp.users["partner@partner.test"])
            client.sendmail("partner@partner.test", ["a@x.test", "b@y.test"], MAIL)
        assert {mail["Delivered-To"] for mail in smtp.wait_for(2)} == {"a@x.test", "b@y.test"}

    def test_a_wrong_password_is_refused(self, smtp: Postfix) -> None:
        with smtplib.SMTP("localhost", smtp.port_starttls, timeout=10) as client:
            client.starttls(context=trusting(smtp))
            with pytest.raises(smtplib.SMTPAuthenticationError) as refusal:
                client.login("org@org.test", "wrong")
            assert refusal.value.smtp_code == 535

    def test_auth_is_wanted_before_mail(self, smtp: Postfix) -> None:
        with (
            smtplib.SMTP_SSL("localhost", smtp.port_ssl, context=trusting(smtp), timeout=10) as client,
            pytest.raises(smtplib.SMTPRecipientsRefused),
        ):
            client.sendmail("org@org.test", ["a@x.test"], MAIL)

    def test_auth_is_not_offered_before_tls(self, smtp: Postfix) -> None:
        with smtplib.SMTP("localhost", smtp.port_starttls, timeout=10) as client:
            client.ehlo()
            assert client.has_extn("starttls")
            assert not client.has_extn("auth")

    def test_another_ca_does_not_vouch_for_it(self, smtp: Postfix) -> None:
        context = ssl.create_default_context(cafile=str(smtp.untrusted_ca_file))
        with pytest.raises(ssl.SSLCertVerificationError):
            smtplib.SMTP_SSL("localhost", smtp.port_ssl, context=context, timeout=10)

    def test_the_plain_port_has_neither_tls_nor_auth(self, smtp: Postfix) -> None:
        with smtplib.SMTP("localhost", smtp.port_plain, timeout=10) as client:
            client.ehlo()
            assert not client.has_extn("starttls")
            assert not client.has_extn("auth")
            assert client.has_extn("smtputf8")
            client.sendmail("", ["a@x.test"], MAIL)
        assert smtp.wait_for(1)[0]["Return-Path"] == "<>"

    @pytest.mark.parametrize("reply", ["550 5.1.1 No such user", "450 4.2.0 Try later", "452 4.2.2 Mailbox full"])
    def test_a_refusal_holds_at_once_and_ends_at_once(self, smtp: Postfix, starttls: smtplib.SMTP, reply: str) -> None:
        starttls.sendmail("org@org.test", ["bad@x.test"], MAIL)
        smtp.refuse("Bad@x.test", reply)
        answers = starttls.sendmail("org@org.test", ["bad@x.test", "good@x.test"], MAIL)
        code, text = answers["bad@x.test"]
        assert (code, text.split()[0].decode()) == (int(reply[:3]), reply.split()[1])
        smtp.refuse("bad@x.test", None)
        starttls.sendmail("org@org.test", ["bad@x.test"], MAIL)
        assert len(smtp.wait_for(2, recipient="bad@x.test")) == 2
        assert len(smtp.wait_for(1, recipient="good@x.test")) == 1

    def test_the_log_counts_auth_commands(self, smtp: Postfix) -> None:
        before = len(smtp.log())
        with smtplib.SMTP("localhost", smtp.port_plain, timeout=10) as client:
            client.sendmail("org@org.test", ["a@x.test"], MAIL)
        # The log comes by another process than the mail, and the line that would say auth= at the end.
        said = ("status=sent (delivered to maildir)", "disconnect from")
        wait_until(lambda: all(each in smtp.log()[before:] for each in said))
        new = smtp.log()[before:]
        assert "auth=" not in new

    def test_configuration_of_its_own_and_changed_while_it_runs(self) -> None:
        with Postfix.make(extra={"smtpd_recipient_limit": "2"}, names=("mx.test",)) as other:
            with smtplib.SMTP("localhost", other.port_plain, timeout=10) as client:
                refused = client.sendmail("a@x.test", ["1@x.test", "2@x.test", "3@x.test"], MAIL)
                assert refused["3@x.test"][0] == 452
            other.configure(smtpd_discard_ehlo_keywords="pipelining")
            with smtplib.SMTP("localhost", other.port_plain, timeout=10) as client:
                client.ehlo()
                assert not client.has_extn("pipelining")
            with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'localhost'"):
                smtplib.SMTP_SSL("localhost", other.port_ssl, context=trusting(other), timeout=10)

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_it_comes_back_with_its_mailbox(self, smtp: Postfix, end: str) -> None:
        with smtplib.SMTP("localhost", smtp.port_plain, timeout=10) as client:
            client.sendmail("a@x.test", ["b@x.test"], MAIL)
        smtp.wait_for(1)
        getattr(smtp, end)()
        with pytest.raises(OSError, match=r"refused|closed"):  # Docker's proxy takes the connection, and closes it
            smtplib.SMTP("localhost", smtp.port_plain, timeout=10)
        smtp.start()
        assert len(smtp.mails()) == 1


class TestSmtpSink:
    def test_it_takes_mail_and_keeps_it(self) -> None:
        with SmtpSink(dump=True) as sink, smtplib.SMTP("localhost", sink.port, timeout=10) as client:
            client.sendmail("a@x.test", ["b@x.test"], MAIL)
            client.quit()
            [mail] = sink.dumped()
        assert b"X-Rcpt-Args: <b@x.test>" in mail
        assert mail.rstrip().endswith(b"body")

    def test_it_refuses_to_order(self) -> None:
        with (
            SmtpSink(("-r", "data")) as sink,
            smtplib.SMTP("localhost", sink.port, timeout=10) as client,
            pytest.raises(smtplib.SMTPDataError),
        ):
            client.sendmail("a@x.test", ["b@x.test"], MAIL)


def offer(docker: str | None, native: str | None) -> Offer:
    return Offer("Thing", "POSTBOTE_TEST_THING_URL", lambda: docker, lambda: native)


class TestWays:
    @pytest.fixture(autouse=True)
    def _unforced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("POSTBOTE_TEST_SERVICES", raising=False)

    @pytest.mark.parametrize(
        ("url", "forced", "docker", "native", "way"),
        [
            ("x://y", "", None, None, Way.URL),
            ("", "", None, None, Way.DOCKER),
            ("", "", "no engine", None, Way.NATIVE),
            ("", "native", None, None, Way.NATIVE),
            ("x://y", "docker", None, None, Way.DOCKER),
        ],
    )
    def test_the_first_open_way_is_taken(
        self, monkeypatch: pytest.MonkeyPatch, url: str, forced: str, docker: str | None, native: str | None, way: Way
    ) -> None:
        monkeypatch.setenv("POSTBOTE_TEST_THING_URL", url)
        monkeypatch.setenv("POSTBOTE_TEST_SERVICES", forced)
        assert offer(docker, native).choose() is way

    def test_without_a_way_the_error_names_the_commands(self) -> None:
        with pytest.raises(ServiceUnavailable) as error:
            offer("start a Docker engine", "apt-get install thing").choose()
        for command in ("POSTBOTE_TEST_THING_URL", "start a Docker engine", "apt-get install thing"):
            assert command in str(error.value)

    def test_a_forced_way_that_is_closed_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POSTBOTE_TEST_SERVICES", "docker")
        with pytest.raises(ServiceUnavailable, match="no engine"):
            offer("no engine", None).choose()


class TestSessions:
    def test_what_a_killed_session_left_is_ended_by_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("POSTBOTE_TEST_RUN", str(tmp_path))
        script = (
            "import os, signal; from pathlib import Path\n"
            "from tests.services import sessions, processes\n"
            "p = processes.spawn(sessions.current(), ['sleep', '600'], log=Path('/dev/null'))\n"
            "print(p.pid, p.ticks, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stdout
        pid, ticks = printed.split()
        left = Process(int(pid), ticks)
        assert left.alive()
        sessions.end_abandoned()
        assert not left.alive()
        assert list((tmp_path / "sessions").iterdir()) == []

    def test_a_live_sessions_processes_are_let_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POSTBOTE_TEST_RUN", str(tmp_path))
        session = Session.open()
        sessions.end_abandoned()
        assert session.folder.exists()

    def test_a_pid_given_to_somebody_else_is_not_signalled(self) -> None:
        stranger = Process(os.getppid(), "1")
        assert not stranger.alive()
        stranger.kill()
        assert os.getppid() == stranger.pid

    def test_a_port_is_kept_for_the_process_that_was_given_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        port = processes.free_port()
        monkeypatch.setattr(processes, "PORTS", range(port, port + 1))
        with pytest.raises(ServiceUnavailable, match="no free port"):
            processes.free_port()
        script = (
            "from tests.services import processes\n"
            f"processes.PORTS = range({port}, {port + 1})\n"
            "processes.free_port()\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert "no free port" in done.stderr

    def test_a_session_that_has_ended_leaves_nothing_and_the_next_is_another(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("POSTBOTE_TEST_RUN", str(tmp_path))
        script = (
            "from pathlib import Path\n"
            "from tests.services import sessions, processes\n"
            "sessions.end_current()\n"
            "p = processes.spawn(sessions.current(), ['sleep', '600'], log=Path('/dev/null'))\n"
            "folder = sessions.current().folder\n"
            "sessions.end_current()\n"
            "print(p.alive(), folder.exists(), sessions.current().folder == folder)\n"
        )
        printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        assert printed.split() == ["False", "False", "False"]
        assert list((tmp_path / "sessions").iterdir()) == []
