"""A real PostgreSQL: given by URL, in Docker, or Debian's package run as a cluster of our own.

Every test gets an empty database to itself, so that no table and no lock of two tests ever meet: a
new one, or one that an earlier test has left and that was emptied since. The cluster that Debian's package makes for the system is neither started nor touched.
"""

import os
import re
import secrets
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from pwd import getpwnam
from typing import Any, Protocol
from urllib.parse import urlsplit

import psycopg

from tests.services import containers, packages, sessions
from tests.services.processes import free_port, spawn, tail, wait_until
from tests.services.sessions import Process, Session
from tests.services.ways import Offer, ServiceUnavailable, Way

IMAGE = "postgres:17"
PACKAGES = ("postgresql",)
_BIN = "/usr/lib/postgresql/*/bin"
PROGRAMS = (f"{_BIN}/postgres", f"{_BIN}/initdb")
ACCOUNT = "postgres"  # made by the package; PostgreSQL refuses to run as root
USER = "postbote"

STRATEGIES_SINCE = 150_000  # server_version_num
STATE_LINE = 7  # of postmaster.pid, counted from 0

# Nothing is flushed to the disk: what `kill` leaves lies in the kernel's memory, and only a crash of the machine would
# lose it. Commits are still written out one by one, or a killed server would forget the last of them.
SETTINGS = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=80", "log_min_messages=fatal")


class Host(Protocol):
    """What keeps the server: native processes, a container, or somebody else."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


@dataclass
class PostgresServer:
    """A server whose superuser's database is `url`; data outlive `stop` and `kill`, the URL stays the same."""

    url: str
    way: Way
    host: Host

    def start(self) -> None:
        """Start it (again) and wait until it answers a query."""
        self.host.start()
        wait_until(self.healthy)

    def stop(self) -> None:
        """End it at once and cleanly: open transactions are rolled back, clients told."""
        self.host.stop()

    def kill(self) -> None:
        """SIGKILL: a crash; connections are reset."""
        self.host.kill()

    def restart(self) -> None:
        """Stop, then start."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections are taken by the kernel, and nobody answers on old or new ones."""
        self.host.pause()

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self.host.resume()

    def healthy(self) -> bool:
        """Whether it answers a query."""
        try:
            return self.query("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False

    def query(self, statement: str, url: str | None = None) -> list[tuple[Any, ...]]:
        """The rows of one statement, which is committed; in the superuser's database unless `url` names another."""
        with psycopg.connect(url or self.url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def fresh_database(self, encoding: str = "UTF8") -> str:
        """The URL of a new, empty database; `SQL_ASCII` is what a cluster without a locale gives."""
        name = f"test_{secrets.token_hex(6)}"
        # Copied as files in 20 ms; by way of the log, which is the default from version 15 on, in 240 ms.
        [(version,)] = self.query("SELECT current_setting('server_version_num')::int")
        strategy = "STRATEGY FILE_COPY" if version >= STRATEGIES_SINCE else ""
        self.query(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C' {strategy}")
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    def empty_database(self, url: str) -> None:
        """Make it as it was when it was new, connections ended; takes a tenth of what another one does."""
        self.disconnect(url)
        self.query("DROP SCHEMA public CASCADE; CREATE SCHEMA public", url)

    def drop_database(self, url: str) -> None:
        """Delete a database; its connections are ended."""
        self.query(f"DROP DATABASE IF EXISTS {_name(url)} WITH (FORCE)")

    def disconnect(self, url: str) -> None:
        """End every connection to a database from the server's side."""
        self.query(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{_name(url)}'")


def _name(url: str) -> str:
    return urlsplit(url).path[1:]


@dataclass
class Native:
    """Debian's server with a data folder, password and port of its own."""

    session: Session
    port: int
    password: str
    folder: Path
    process: Process | None = None

    def start(self) -> None:
        """Make the cluster unless it is there, and start it in the foreground."""
        if self.process and self.process.alive():
            return  # slow to answer, not gone: a second one on its folder would end, and be what is killed and frozen
        packages.install(PROGRAMS, PACKAGES)
        if not (self.folder / "data").exists():
            self._initialise()
        # No socket in a folder: one day its path would be longer than the 107 bytes that it may be.
        options = (f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *SETTINGS)
        command = [_program("postgres"), "-D", str(self.folder / "data")]
        command += [part for option in options for part in ("-c", option)]
        log = self.folder / "console.log"
        self.process = process = spawn(
            self.session, command, log=log, env=_environment(), user=_account(), cwd=self.folder
        )
        wait_until(self._ready, process=process, log=log)

    def stop(self) -> None:
        """SIGINT, a "fast" shutdown: SIGTERM would wait until the last client has gone by itself."""
        if self.process:
            self.process.send(signal.SIGINT)
            self.process.end(20)

    def kill(self) -> None:
        """SIGKILL to the server and to each of its processes; a new one would not start beside an old one's child."""
        for process in self._processes():
            process.kill()

    def pause(self) -> None:
        """SIGSTOP to the server, and then to each of its processes."""
        for process in self._processes():
            process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to the same."""
        for process in self._processes():
            process.send(signal.SIGCONT)

    def _processes(self) -> list[Process]:
        """The server, before its children: it makes a new one for each connection."""
        if self.process is None or not self.process.alive():
            return []
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process, *(child for pid in pids if (child := Process.of(int(pid))))]

    def _ready(self) -> bool:
        # The eighth line says "starting", "ready" or "stopping"; each start writes the file anew.
        pid_file = self.folder / "data/postmaster.pid"
        lines = pid_file.read_text().splitlines() if pid_file.exists() else []
        return len(lines) > STATE_LINE and lines[STATE_LINE].strip() == "ready"

    def _initialise(self) -> None:
        password_file = self.folder / "password"
        password_file.write_text(self.password)
        if os.geteuid() == 0:
            owner = getpwnam(ACCOUNT)
            for path in (self.folder, password_file):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        command = [_program("initdb"), "-D", str(self.folder / "data"), "-U", USER, f"--pwfile={password_file}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        switch: dict[str, Any] = {"user": _account(), "group": _account(), "extra_groups": []} if _account() else {}
        log = self.folder / "initdb.log"
        with log.open("w") as output:
            done = subprocess.run(
                command, stdout=output, stderr=output, env=_environment(), cwd=self.folder, check=False, **switch
            )
        if done.returncode:
            raise ServiceUnavailable(f"initdb failed:\n{tail(log)}")


def _account() -> str | None:
    return ACCOUNT if os.geteuid() == 0 else None


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


def _program(name: str) -> str:
    """The newest version's program: Debian keeps several side by side, /usr/bin has wrappers for the system's own."""
    found = Path("/").glob(f"{_BIN}/{name}".lstrip("/"))
    return str(max(found, key=lambda path: int(re.sub(r"\D", "", path.parts[4]) or 0)))


@dataclass
class InDocker:
    """The official image."""

    container: containers.Container

    def start(self) -> None:
        """Create or start the container."""
        self.container.start()

    def stop(self) -> None:
        """Stop it: the image asks Docker for SIGINT."""
        self.container.stop()

    def kill(self) -> None:
        """Kill it."""
        self.container.kill()

    def pause(self) -> None:
        """Freeze it."""
        self.container.pause()

    def resume(self) -> None:
        """Let it go on."""
        self.container.resume()


@dataclass
class Given:
    """A server that the environment names: nobody here may stop it."""

    def _refuse(self) -> None:
        raise ServiceUnavailable(
            f"{OFFER.url_variable} names a server that the tests did not start: unset it to run this test"
        )

    def start(self) -> None:
        """Nothing to do."""

    stop = kill = pause = resume = _refuse


OFFER = Offer(
    name="PostgreSQL",
    url_variable="POSTBOTE_TEST_POSTGRES_URL",
    docker=lambda: containers.image_closed(IMAGE),
    native=lambda: packages.installable(PROGRAMS, PACKAGES),
)


def server(session: Session | None = None) -> PostgresServer:
    """A server by the first open way, not started yet."""
    way = OFFER.choose()
    if way is Way.URL:
        return PostgresServer(_checked(OFFER.url() or ""), way, Given())
    session = session or sessions.current()
    port, password = free_port(), secrets.token_hex(8)
    host: Host = (
        _docker(session, port, password)
        if way is Way.DOCKER
        else Native(session, port, password, session.subfolder("postgres"))
    )
    return PostgresServer(f"postgresql://{USER}:{password}@127.0.0.1:{port}/postgres", way, host)


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql") or not parts.hostname or len(parts.path) < 2:
        raise ServiceUnavailable(
            f"{OFFER.url_variable}: expected postgresql://user:password@host:port/database, of a user who may CREATEDB"
        )
    return url


def _docker(session: Session, port: int, password: str) -> InDocker:
    from testcontainers.community.postgres import PostgresContainer

    container = PostgresContainer(IMAGE, username=USER, password=password, dbname="postgres", driver=None)
    container.with_command(["postgres", *(part for option in SETTINGS for part in ("-c", option))])
    return InDocker(containers.Container(session, containers.publish(container, [(5432, port)])))
