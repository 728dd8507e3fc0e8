"""How far a process has read its TCP connections, by the kernel's own books.

A process that is stopped (SIGSTOP) reads no more, and what it would have done next it does no more
either: what was sent to it and stands in its sockets' receive queues is what a kill takes from it unread.
Both are looked up in /proc, see proc(5): the process's descriptors give the sockets' inodes, and
/proc/PID/net/tcp the ports and queues of each inode.
"""

import re
from collections.abc import Iterator
from pathlib import Path

_SOCKET = re.compile(r"socket:\[(\d+)\]")


def stopped(pid: int) -> bool:
    """Whether every thread has stopped, or the process is gone; one inside a system call stops behind it."""
    return all(state in "TtZX" for state in _states(pid))


def unread(pid: int, servers: frozenset[int]) -> dict[tuple[int, int], int]:
    """Octets in the receive queue of each connection to these ports of loopback, by (its own port, the server's)."""
    own = set(_inodes(pid))
    found: dict[tuple[int, int], int] = {}
    for line in _read(Path(f"/proc/{pid}/net/tcp")).splitlines()[1:]:
        fields = line.split()
        local, remote, queues, inode = fields[1], fields[2], fields[4], fields[9]
        if inode in own and _port(remote) in servers:
            found[_port(local), _port(remote)] = int(queues.partition(":")[2], 16)
    return found


def _states(pid: int) -> Iterator[str]:
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        # The name in parentheses may hold anything, spaces and parentheses too.
        yield _read(stat).rpartition(") ")[2][:1] or "X"


def _inodes(pid: int) -> Iterator[str]:
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            match = _SOCKET.fullmatch(str(descriptor.readlink()))
        except OSError:  # closed since it was listed
            continue
        if match:
            yield match[1]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the thread or the process is gone
        return ""


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
