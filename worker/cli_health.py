"""``postbote health``: the container's health check, without a tool that a slim image lacks."""

import http.client

import orjson

from worker.settings import Settings

_TIMEOUT_S = 3.0


def ask(settings: Settings, *, ready: bool) -> tuple[bool, str]:
    """Ask the process's own endpoint; return whether all is well and what it said."""
    path = "/readyz" if ready else "/healthz"
    connection = http.client.HTTPConnection(settings.http_host, settings.http_port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status == http.client.OK, orjson.dumps(orjson.loads(response.read())).decode()
    except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
        return False, f"{settings.http_host}:{settings.http_port}{path}: {error}"
    finally:
        connection.close()
