"""The HTTP application, and serving it inside a loop that others run in, too."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import structlog
import uvicorn

from worker import __version__
from worker.api.plain import Application
from worker.errors import SettingsError

if TYPE_CHECKING:  # a worker without an API does without FastAPI, too
    from fastapi import APIRouter, FastAPI

log = structlog.get_logger(__name__)

_BACKLOG = 256


def make_application(routers: "Sequence[APIRouter]", *, changed: Callable[[], None] | None = None) -> "FastAPI":
    """Put the routers together; the schema is at /openapi.json, without a page that loads scripts.

    Whatever goes wrong is answered by problem details: unknown paths and methods, and every error of
    `refusals`; anything else is a 500 that tells nothing. `changed` is called after each request that may
    have changed something, before its answer goes out: see `worker.control.trials.Broadcast`.
    """
    from fastapi import FastAPI

    from worker.api.headers import Answers
    from worker.api.refusals import answer_refusals

    application = FastAPI(title="Postbote", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    application.add_middleware(Answers, changed=changed)
    answer_refusals(application)
    for router in routers:
        application.include_router(router)
    return application


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process's own decide in which order things stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(
    application: "Application | FastAPI", host: str, port: int, proxies: Sequence[object] = ()
) -> AsyncIterator[int]:
    """Serve while the block runs; yields the port (a free one where `port` is 0).

    `proxies`: the networks whose X-Forwarded-For is believed; anybody else's would be a made-up client.

    Raises SettingsError where the address cannot be bound.
    """
    bound = _bind(host, port)
    actual = int(bound.getsockname()[1])
    trusted = [str(network) for network in proxies]
    config = uvicorn.Config(application, log_config=None, access_log=False, lifespan="off", forwarded_allow_ips=trusted)
    server = _Server(config)
    running = asyncio.ensure_future(server.serve(sockets=[bound]))
    log.info("http is listening", host=host, port=actual)
    try:
        yield actual
    finally:
        server.should_exit = True
        await running
        bound.close()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(_BACKLOG)  # now, so that nobody is refused once the log has said that we listen
    except OSError as error:
        bound.close()
        msg = f"POSTBOTE_HTTP_PORT: cannot listen on {host}:{port}: {error.strerror} (0 picks a free port)"
        raise SettingsError(msg) from None
    return bound
