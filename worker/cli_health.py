"""``postbote health``: the container's health check, without a tool that a slim image lacks."""

import http.client
from ipaddress import IPv6Address, ip_address

import orjson

from worker.settings import Settings

_TIMEOUT_S = 3.0


def ask(settings: Settings, *, ready: bool) -> tuple[bool, str]:
    """Ask the process's own endpoint; return whether all is well and what it said."""
    path = "/readyz" if ready else "/healthz"
    host = _reachable(settings.http_host)
    connection = http.client.HTTPConnection(host, settings.http_port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status == http.client.OK, orjson.dumps(orjson.loads(response.read())).decode()
    except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
        return False, f"{host}:{settings.http_port}{path}: {error}"
    finally:
        connection.close()


def _reachable(listening: str) -> str:
    """Who listens everywhere is asked on loopback: "everywhere" is no place to connect to."""
    address = ip_address(listening)
    if not address.is_unspecified:
        return listening
    return "::1" if isinstance(address, IPv6Address) else "127.0.0.1"
