"""What a stopped process has not read is what the kernel says, to the octet."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.sockets import stopped, unread
from tests.services.processes import wait_until

READS_TEN = (
    "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); s.recv(10); sys.stdin.read()"
)


@contextmanager
def reader_of_ten() -> Iterator[tuple[socket.socket, int, subprocess.Popen[bytes]]]:
    """A process that reads ten octets and no more, and our end of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        process = subprocess.Popen([sys.executable, "-c", READS_TEN, str(port)], stdin=subprocess.PIPE)
        try:
            connection, _ = server.accept()
            with connection:
                yield connection, port, process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate()


def test_what_was_sent_and_not_read_stands_in_the_receive_queue() -> None:
    with reader_of_ten() as (connection, port, process):
        connection.sendall(b"x" * 25)
        ours = connection.getpeername()[1]
        wait_until(lambda: unread(process.pid, frozenset({port})) == {(ours, port): 15})


def test_a_process_has_stopped_when_each_of_its_threads_has() -> None:
    with reader_of_ten() as (_, _, process):
        assert not stopped(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: stopped(process.pid))


def test_a_process_that_is_gone_has_stopped_and_reads_nothing() -> None:
    with reader_of_ten() as (_, port, process):
        process.kill()
        process.wait()
        assert stopped(process.pid)
        assert unread(process.pid, frozenset({port})) == {}
