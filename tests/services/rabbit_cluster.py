"""Three RabbitMQ nodes on loopback, joined: native processes, one of which a test may kill.

The nodes share an epmd, which knows where each of them listens for the others, and the cookie that
lets them talk. Without the management plugin: three nodes are load enough for a test machine.
"""

import contextlib
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.services import sessions
from tests.services.processes import free_port, listens, wait_until
from tests.services.rabbitmq import Native
from tests.services.rabbitmq_root import installation
from tests.services.sessions import Session
from tests.services.ways import ServiceUnavailable

_COOKIE = "rabbit-cluster-of-a-test"
_SIZE = 3


@dataclass
class Member(Native):
    """One node; `name` is what the others call it."""

    @property
    def name(self) -> str:
        return self._environment()["RABBITMQ_NODENAME"]

    def url(self, vhost: str) -> str:
        """Where clients reach it."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{vhost}"

    def start_epmd(self) -> None:
        """Start the epmd that all members use."""
        self.installation.provide()
        self._configure()
        self._start_epmd()

    def alive(self) -> bool:
        """Whether its Erlang machine runs."""
        return self.process is not None and self.process.alive()

    def join(self, other: "Member") -> None:
        """Become a node of the other's cluster."""
        self.ctl("stop_app")
        self.ctl("join_cluster", other.name)
        self.ctl("start_app")
        wait_until(lambda: listens(self.port), process=self.process, log=self.folder / "console.log")

    def _configure(self) -> None:
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(_COOKIE)
            cookie.chmod(0o400)
        super()._configure()
        (self.folder / "enabled_plugins").write_text("[].\n")


@dataclass
class Cluster:
    """The nodes, the first of which the others joined, and the virtual host of the test that runs."""

    members: list[Member]
    vhost: str = "/"

    def fresh_vhost(self) -> None:
        """Give the test an empty virtual host, on all nodes; those that were killed run again."""
        for member in self.members:
            if not member.alive():
                member.start()
        self.vhost = f"test-{uuid.uuid4().hex[:12]}"
        self.members[0].ctl("add_vhost", self.vhost)
        self.members[0].ctl("set_permissions", "--vhost", self.vhost, "guest", ".*", ".*", ".*")

    def url(self, *, first: int = 0) -> str:
        """One URL that names every node, `first` first."""
        hosts = [f"127.0.0.1:{member.port}" for member in self.members]
        return f"amqp://guest:guest@{','.join(hosts[first:] + hosts[:first])}/{self.vhost}"

    def alive(self) -> list[Member]:
        """The nodes that run."""
        return [member for member in self.members if member.alive()]

    def leader_of(self, queue: str) -> Member:
        """The node that leads a quorum queue."""
        found = {each["name"]: each["leader"] for each in self._queues("leader")}
        return next(member for member in self.members if member.name == found[queue])

    def counts(self) -> dict[str, int]:
        """How many messages, waiting or in somebody's hands, each queue that is not empty has."""
        return {each["name"]: each["messages"] for each in self._queues("messages") if each["messages"]}

    def _queues(self, column: str) -> list[dict[str, Any]]:
        command = ("list_queues", "--vhost", self.vhost, "name", column, "--formatter", "json")
        found: list[dict[str, Any]] = json.loads(self.alive()[0].ctl(*command))
        return found

    def end(self) -> None:
        """End every node; what they stored goes with the session."""
        for member in self.members:
            member.kill()
        if self.members[0].epmd:
            self.members[0].epmd.kill()


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Three started and joined nodes; raises ServiceUnavailable where RabbitMQ cannot be installed."""
    reason = installation().closed()
    if reason is not None:
        msg = f"no RabbitMQ nodes for a cluster: {reason}"
        raise ServiceUnavailable(msg)
    made = Cluster(_members(sessions.current()))
    try:
        _start(made)
        yield made
    finally:
        made.end()


def _members(session: Session) -> list[Member]:
    epmd = free_port()
    folders = [session.subfolder("rabbit-node") for _ in range(_SIZE)]
    return [Member(session, free_port(), free_port(), epmd, free_port(), folder) for folder in folders]


def _start(made: Cluster) -> None:
    first, *others = made.members
    first.start_epmd()
    for other in others:
        other.epmd = first.epmd
    with ThreadPoolExecutor() as threads:
        list(threads.map(Member.start, made.members))
    for other in others:
        other.join(first)
