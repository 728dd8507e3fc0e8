"""A connection that is reset with more in it than one call reads is read to its end, on both loops."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from worker.rabbit.event_loop import ReadsToTheEnd

SENT = 300_000
A_CALL = 4096
LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


def reset_after(octets: int) -> socket.socket:
    """Our end of a connection whose other end has sent so much and was reset."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * SENT)
        theirs, _ = server.accept()
    theirs.sendall(bytes(octets))
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    while len(ours.recv(SENT, socket.MSG_PEEK)) < octets:
        pass
    theirs.close()
    ours.setblocking(False)
    return ours


async def read_all(ours: socket.socket, loop: Any) -> tuple[int, str]:
    """What a reader of little at a time gets, and how it ends."""
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    read = 0

    def on_readable() -> None:
        nonlocal read
        try:
            read += len(ours.recv(A_CALL))
        except OSError as error:
            loop.remove_reader(ours.fileno())
            ended.set_result(type(error).__name__)

    loop.add_reader(ours.fileno(), on_readable)
    async with asyncio.timeout(5):
        await ended
    return read, ended.result()


@LOOPS
def test_what_was_sent_before_a_reset_is_read_and_then_the_reset_is_heard(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def run() -> tuple[int, str]:
        return await read_all(ours, ReadsToTheEnd(asyncio.get_running_loop()))

    with reset_after(SENT) as ours, asyncio.Runner(loop_factory=new_loop) as runner:
        read, ended = runner.run(run())
    assert (read, ended) == (SENT, "ConnectionResetError")
