"""What a server said before the connection broke, where a write of ours found out first.

A server that answers 250 and closes, as one does after its last permitted message, may be written to
in the same moment. The write fails, the transport closes, and the 250 is still in the socket, read by
nobody: the mail would be in doubt, and sent again. asyncio and uvloop close the socket only after
`connection_lost`, so it can be read there.
"""

import asyncio
import os
import socket

_ENOUGH_OCTETS = 64 * 1024


def last_words(transport: asyncio.Transport) -> bytes:
    """Return what is left in the socket of a transport that broke; b"" where there is nothing, or it is over TLS.

    To be called in `connection_lost`. Over TLS nothing is left to decrypt it with.
    """
    ours = transport.get_extra_info("socket")
    if ours is None or transport.get_extra_info("sslcontext") is not None:
        return b""
    try:
        # uvloop's socket is a stand-in that cannot receive.
        with socket.socket(fileno=os.dup(ours.fileno())) as readable:
            return readable.recv(_ENOUGH_OCTETS, socket.MSG_DONTWAIT)
    except OSError:  # there is nothing, or the socket is gone
        return b""
