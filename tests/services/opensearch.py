"""A real OpenSearch: given by URL, in Docker, or assembled from Maven Central and run as our own process."""

import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from tests.services import containers, sessions
from tests.services.processes import free_port, spawn, wait_until
from tests.services.sessions import Process, Session
from tests.services.ways import Offer, ServiceUnavailable, Way

IMAGE = "opensearchproject/opensearch:3"
UP = Path(__file__).parent / "opensearch" / "up.sh"
HEAP = "512m"
NOBODY = 65534  # OpenSearch refuses to run as root

CONFIG = """\
cluster.name: postbote-tests
node.name: node-1
discovery.type: single-node
network.host: 127.0.0.1
http.port: {port}
transport.port: 0
path.data: {node}/data
path.logs: {node}/logs
# A disk that is nearly full would turn indices read-only, and tests red for no fault of theirs.
cluster.routing.allocation.disk.threshold_enabled: false
"""

LOGGING = """\
status = error
appender.file.type = File
appender.file.name = file
appender.file.fileName = ${sys:opensearch.logs.base_path}/server.log
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = [%d{ISO8601}][%-5p][%c{1.}] %m%n
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
"""


class Host(Protocol):
    """What keeps the server: a native process, a container, or somebody else."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


@dataclass
class OpenSearchServer:
    """A server that answers at `url`; data outlive `stop` and `kill`, the URL stays the same."""

    url: str
    way: Way
    host: Host

    def start(self) -> None:
        """Start it (again) and wait until it takes requests."""
        self.host.start()
        wait_until(self.healthy)

    def stop(self) -> None:
        """End it cleanly."""
        self.host.stop()

    def kill(self) -> None:
        """SIGKILL: a crash."""
        self.host.kill()

    def restart(self) -> None:
        """Stop, then start."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections are taken by the kernel, and nobody answers."""
        self.host.pause()

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self.host.resume()

    def healthy(self) -> bool:
        """Whether its cluster is at least yellow."""
        url = f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s"
        try:
            with _open(url) as reply:
                return bool(reply.status == 200)
        except (OSError, ValueError):
            return False

    def delete_indices(self, pattern: str) -> None:
        """Delete indices, templates and pipelines whose names match a pattern such as `test-1a2b*`."""
        everything = f"{pattern}?expand_wildcards=all"  # hidden ones, too
        for path in (everything, f"_index_template/{pattern}", f"_ingest/pipeline/{pattern}"):
            request = urllib.request.Request(f"{self.url}/{path}", method="DELETE")
            try:
                _open(request).close()
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise


def _open(target: str | urllib.request.Request) -> Any:
    # No proxy of the environment stands between a test and its server.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(target, timeout=10)


@dataclass
class Native:
    """Our own Java process; `port` is fixed over restarts."""

    session: Session
    port: int
    node: Path
    home: Path
    heap: str = HEAP
    settings: dict[str, str] = field(default_factory=dict)
    process: Process | None = None

    def start(self) -> None:
        """Write the configuration and become a server, as `nobody` when we are root."""
        if self.process and self.process.alive():
            return  # slow to answer, not gone: a second one on its folder would end, and be what is killed and frozen
        self._configure()
        self._hand_over()
        user = NOBODY if os.geteuid() == 0 else None
        env = {k: v for k, v in os.environ.items() if k not in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")}
        log = self.node / "console.log"
        command = ["bash", str(UP), "run", str(self.home), str(self.node), self.heap]
        if user is not None:
            command = [*_stage_script(self.node), str(self.home), str(self.node), self.heap]
        self.process = spawn(self.session, command, log=log, env=env, user=user, cwd=self.node)
        # Another node may still be starting on this machine; 90 s were seen to be enough on two busy cores.
        wait_until(self._answers, process=self.process, log=log, seconds=300)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self.process:
            self.process.end(60)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self.process:
            self.process.kill()

    def pause(self) -> None:
        """SIGSTOP."""
        if self.process:
            self.process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self.process:
            self.process.send(signal.SIGCONT)

    def _configure(self) -> None:
        for name in ("config", "data", "logs", "tmp"):
            (self.node / name).mkdir(exist_ok=True)
        extra = "".join(f"{key}: {value}\n" for key, value in self.settings.items())
        (self.node / "config/opensearch.yml").write_text(CONFIG.format(port=self.port, node=self.node) + extra)
        (self.node / "config/log4j2.properties").write_text(LOGGING)

    def _hand_over(self) -> None:
        if os.geteuid() == 0:
            for path in (self.node, *self.node.rglob("*")):
                os.chown(path, NOBODY, NOBODY)

    def _answers(self) -> bool:
        try:
            _open(f"http://127.0.0.1:{self.port}/").close()
        except OSError:
            return False
        return True


def _stage_script(node: Path) -> list[str]:
    """A copy of up.sh that `nobody` can read: the project itself may lie in a closed home folder."""
    for name in ("up.sh", "pom.xml"):
        shutil.copy(UP.with_name(name), node / name)
    return ["bash", str(node / "up.sh"), "run"]


@dataclass
class Given:
    """A server that the environment names: nobody here may stop it."""

    def _refuse(self) -> None:
        msg = f"{OFFER.url_variable} names a server that the tests did not start: unset it to run this test"
        raise ServiceUnavailable(msg)

    def start(self) -> None:
        """Nothing to do."""

    stop = kill = pause = resume = _refuse


def native_closed() -> str | None:
    """None where a server of our own can be assembled and run, else what is missing for it."""
    absent = [program for program in ("mvn", "java", "bash") if not shutil.which(program)]
    if not absent:
        return None
    return "apt-get install maven openjdk-21-jdk-headless (mvn and a JDK from 21 on)"


OFFER = Offer(
    name="OpenSearch",
    url_variable="POSTBOTE_TEST_OPENSEARCH_URL",
    docker=lambda: containers.image_closed(IMAGE),
    native=native_closed,
)


def assembled(kind: Literal["assemble", "secured"] = "assemble") -> Path:
    """The folder of a whole server, made on first use and shared by all sessions of this machine."""
    cache = sessions.run_root() / "cache"
    with sessions.locked("opensearch"):
        cache.mkdir(exist_ok=True)
        result = subprocess.run(["bash", str(UP), kind, str(cache)], capture_output=True, text=True, check=False)
    if result.returncode:
        msg = f"OpenSearch could not be assembled:\n{result.stderr[-2000:]}"
        raise ServiceUnavailable(msg)
    return Path(result.stdout.splitlines()[-1])


def server(
    session: Session | None = None, *, heap: str = HEAP, settings: dict[str, str] | None = None
) -> OpenSearchServer:
    """A server by the first open way, not started yet; `settings` are lines of opensearch.yml."""
    way = OFFER.choose()
    session = session or sessions.current()
    if way is Way.URL:
        return OpenSearchServer(_plain(OFFER.url() or ""), way, Given())
    port = free_port()
    host = (
        _docker(session, port, heap, settings or {})
        if way is Way.DOCKER
        else Native(session, port, session.subfolder("opensearch"), assembled(), heap, settings or {})
    )
    return OpenSearchServer(f"http://127.0.0.1:{port}", way, host)


def _plain(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https"):
        msg = f"{OFFER.url_variable}: expected http://host:port"
        raise ServiceUnavailable(msg)
    return url.rstrip("/")


def _docker(session: Session, port: int, heap: str, settings: dict[str, str]) -> Host:
    from testcontainers.community.opensearch import OpenSearchContainer

    container = OpenSearchContainer(IMAGE)
    container.with_env("OPENSEARCH_JAVA_OPTS", f"-Xms{heap} -Xmx{heap}")
    container.with_env("cluster.routing.allocation.disk.threshold_enabled", "false")
    for key, value in settings.items():
        container.with_env(key, value)
    return containers.Container(session, containers.publish(container, [(9200, port)]))
