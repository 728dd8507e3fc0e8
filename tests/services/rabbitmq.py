"""A real RabbitMQ: given by URL, in Docker, or a Debian package run as an instance of our own (`rabbitmq_root`).

Every test gets a virtual host of its own (`fresh_vhost`): queues and exchanges of two tests never
meet, and nothing has to be purged. Virtual hosts are made through the management API, because one
call of rabbitmqctl starts an Erlang machine and takes about a second.
"""

import base64
import json
import os
import subprocess
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from tests.services import containers, rabbitmq_root, sessions
from tests.services.processes import free_port, listens, spawn, wait_until
from tests.services.rabbitmq_root import BIN, Installation, installation
from tests.services.sessions import Process, Session
from tests.services.ways import Offer, ServiceUnavailable, Way

IMAGE = "rabbitmq:4-management"
MANAGEMENT_VARIABLE = "POSTBOTE_TEST_RABBITMQ_MANAGEMENT_URL"

# RabbitMQ saves which quorum queues a node has (names.dets) when that table has had half a second's rest, on a busy
# machine later. Killed before, it comes back with the queue and no leader for it: every use ends after 60 s with 541
# INTERNAL_ERROR (3.10.8: 6 of 6 so, none after this). The saving keeps that fault of the broker out of tests of
# something else; a pause did not always.
SAVE_TABLES = "[ok = dets:sync(Table) || Table <- dets:all()]."

# How often a quorum queue reports its counts; 5 s by default, which a test that waits for them would feel.
TICK = "-rabbit quorum_tick_interval 500"
# When a queue that was full is tried again with what could not be dead-lettered to it; 180 s by default.
AGAIN = "-rabbit dead_letter_worker_publisher_confirm_timeout 5000"

CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
# A full disk of the test machine would block publishers; a test that wants the alarm raises it.
disk_free_limit.absolute = 1MB
log.console = true
log.file = false
"""


class Host(Protocol):
    """What keeps the broker: native processes, a container, or somebody else."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def ctl(self, *arguments: str) -> str: ...


@dataclass
class Broker:
    """A broker at `url` (its virtual host `/`); durable data outlive `stop` and `kill`, ports stay the same."""

    url: str
    management_url: str
    way: Way
    host: Host

    def start(self) -> None:
        """Start it (again) and wait until it takes connections and its management answers."""
        self.host.start()
        wait_until(self.healthy)

    def stop(self) -> None:
        """End it cleanly: clients get a connection.close with 320 CONNECTION_FORCED."""
        self.host.stop()

    def kill(self) -> None:
        """SIGKILL: clients see a reset. Takes half a second first, see `SAVE_TABLES`."""
        self.ctl("eval", SAVE_TABLES)
        self.host.kill()

    def restart(self) -> None:
        """Stop, then start."""
        self.stop()
        self.start()

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl, about a second; raises `CalledProcessError` with its output."""
        return self.host.ctl(*arguments)

    def raise_memory_alarm(self) -> None:
        """Block all publishers, as a broker short of memory does; `clear_memory_alarm` ends it."""
        self.ctl("set_vm_memory_high_watermark", "absolute", "1")

    def clear_memory_alarm(self) -> None:
        """Back to the default watermark."""
        self.ctl("set_vm_memory_high_watermark", "0.4")

    def healthy(self) -> bool:
        """Whether AMQP listens and the management API answers."""
        parts = urlsplit(self.url)
        try:
            return listens(parts.port or 5672, parts.hostname or "127.0.0.1") and bool(self.api("GET", "overview"))
        except OSError:
            return False

    def fresh_vhost(self) -> str:
        """The URL of a new, empty virtual host."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        user = unquote(urlsplit(self.url).username or "guest")
        self.api("PUT", f"vhosts/{name}", {})
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        self.api("PUT", f"permissions/{name}/{quote(user, safe='')}", rights)
        return f"{self.url.rsplit('/', 1)[0]}/{name}"

    def drop_vhost(self, url: str) -> None:
        """Delete a virtual host with all in it; its connections are closed. Gone already is fine."""
        try:
            self.api("DELETE", f"vhosts/{quote(vhost_of(url), safe='')}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise

    def queues(self, url: str) -> list[dict[str, Any]]:
        """The queues of a virtual host as the management API describes them; counts lag by about half a second."""
        found = self.api("GET", f"queues/{quote(vhost_of(url), safe='')}?disable_stats=true&enable_queue_totals=true")
        return list(found)

    def close_connections(self, url: str) -> None:
        """Close every connection to a virtual host from the broker's side: 320 CONNECTION_FORCED."""
        # Not by the management API, whose list of connections lags behind by a statistics interval.
        self.ctl("close_all_connections", "--vhost", vhost_of(url), "closed by a test")

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Call the management API below /api/; returns the JSON, or None where there is none."""
        parts = urlsplit(self.url)
        pair = f"{unquote(parts.username or 'guest')}:{unquote(parts.password or 'guest')}"
        request = urllib.request.Request(
            f"{self.management_url}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": "Basic " + base64.b64encode(pair.encode()).decode(),
                "Content-Type": "application/json",
            },
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as reply:
            content = reply.read()
        return json.loads(content) if content else None


def vhost_of(url: str) -> str:
    """The virtual host that an AMQP URL names."""
    return unquote(urlsplit(url).path[1:]) or "/"


@dataclass
class Native:
    """A Debian's broker with ports, node name, cookie and folders of its own, beside any that the system runs."""

    session: Session
    port: int
    management: int
    epmd_port: int
    dist_port: int
    folder: Path
    process: Process | None = None
    epmd: Process | None = None
    installation: Installation = field(default_factory=installation)

    def start(self) -> None:
        """Start epmd, in the foreground so that it ends with us, and then the broker."""
        if self.process and self.process.alive():
            return  # slow to answer, not gone: a second one on its folder would end, and be what is killed and frozen
        self.installation.provide()
        self._configure()
        if not (self.epmd and self.epmd.alive()):
            self._start_epmd()
        log = self.folder / "console.log"
        self.process = self._spawn([f"{BIN}/rabbitmq-server"], log)
        wait_until(lambda: listens(self.port), process=self.process, log=log)

    def stop(self) -> None:
        """SIGTERM to the Erlang machine: an orderly end. Listeners close at once; the management agent takes 5 s more."""
        if self.process:
            self.process.end(60)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self.process:
            self.process.kill()

    def ctl(self, *arguments: str) -> str:
        """Rabbitmqctl, as the broker's user, who owns the cookie."""
        user = self.installation.user()
        switch: dict[str, Any] = {} if user is None else {"user": user, "group": user}
        done = subprocess.run(
            self.installation.command(f"{BIN}/rabbitmqctl", "-q", *arguments, cwd=self.folder),
            env=self._environment(),
            cwd=self.folder,
            text=True,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            **switch,
        )
        return str(done.stdout)

    def _start_epmd(self) -> None:
        log = self.folder / "epmd.log"
        command = ["epmd", "-address", "127.0.0.1", "-port", str(self.epmd_port)]
        self.epmd = self._spawn(command, log)
        wait_until(lambda: listens(self.epmd_port), process=self.epmd, log=log)

    def _spawn(self, command: list[str], log: Path) -> Process:
        whole = self.installation.command(*command, cwd=self.folder)
        user = self.installation.user()
        return spawn(self.session, whole, log=log, env=self._environment(), user=user, cwd=self.folder)

    def _configure(self) -> None:
        text = CONFIG.format(port=self.port, management=self.management)
        (self.folder / "rabbitmq.conf").write_text(text)
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        if os.geteuid() == 0:
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, *self.installation.owner())

    def _environment(self) -> dict[str, str]:
        folder = str(self.folder)
        return {
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": folder,  # where the Erlang cookie lies
            "RABBITMQ_NODENAME": f"postbote-{self.port}@localhost",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/config",
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {{127,0,0,1}} {TICK} {AGAIN}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.epmd_port),
            # The start script then becomes the Erlang machine, so that its pid is the one that we know.
            "RUNNING_UNDER_SYSTEMD": "true",
        }


@dataclass
class InDocker:
    """The official image."""

    container: containers.Container

    def start(self) -> None:
        """Create or start the container."""
        self.container.start()

    def stop(self) -> None:
        """Stop it."""
        self.container.stop()

    def kill(self) -> None:
        """Kill it."""
        self.container.kill()

    def ctl(self, *arguments: str) -> str:
        """Rabbitmqctl in the container."""
        status, output = self.container.run("rabbitmqctl", "-q", *arguments)
        if status:
            raise subprocess.CalledProcessError(status, ["rabbitmqctl", *arguments], output)
        return output


@dataclass
class Given:
    """A broker that the environment names: nobody here may stop it."""

    def start(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Refused."""
        self.ctl("stop")

    def kill(self) -> None:
        """Refused."""
        self.ctl("kill")

    def ctl(self, *arguments: str) -> str:
        """Refused."""
        msg = f"{OFFER.url_variable} names a broker that the tests did not start ({arguments}): unset it for this test"
        raise ServiceUnavailable(msg)


OFFER = Offer(
    name="RabbitMQ",
    url_variable="POSTBOTE_TEST_AMQP_URL",
    docker=lambda: f"{rabbitmq_root.VARIABLE} is set" if installation().apart else containers.image_closed(IMAGE),
    native=lambda: installation().closed(),
)


def broker(session: Session | None = None) -> Broker:
    """A broker by the first open way, not started yet."""
    way = OFFER.choose()
    if way is Way.URL:
        return _given(OFFER.url() or "")
    session = session or sessions.current()
    port, management = free_port(), free_port()
    host = _docker(session, port, management) if way is Way.DOCKER else _native(session, port, management)
    return Broker(f"amqp://guest:guest@127.0.0.1:{port}/%2F", f"http://127.0.0.1:{management}", way, host)


def _given(url: str) -> Broker:
    parts = urlsplit(url)
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
        msg = f"{OFFER.url_variable}: expected amqp://user:password@host:port/vhost"
        raise ServiceUnavailable(msg)
    management = os.environ.get(MANAGEMENT_VARIABLE) or f"http://{parts.hostname}:15672"
    whole = f"{parts.scheme}://{parts.netloc}/{quote(vhost_of(url), safe='')}"
    return Broker(whole, management.rstrip("/"), Way.URL, Given())


def _native(session: Session, port: int, management: int) -> Native:
    return Native(session, port, management, free_port(), free_port(), session.subfolder("rabbitmq"))


def _docker(session: Session, port: int, management: int) -> InDocker:
    from testcontainers.community.rabbitmq import RabbitMqContainer

    container = RabbitMqContainer(IMAGE, username="guest", password="guest")
    container.with_env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", f"{TICK} {AGAIN}")
    ports = containers.publish(container, [(5672, port), (15672, management)])
    return InDocker(containers.Container(session, ports))
