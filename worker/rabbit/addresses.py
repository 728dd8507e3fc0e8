"""What an AMQP URL says: one node, or several of a cluster, any of which will do.

    amqp://user:password@a:5672,b:5672,c:5672/vhost?heartbeat=10    one URL with several hosts
    amqp://user:password@a/vhost,amqps://user:password@b/vhost      several URLs

Both become one URL a node. Checked at the start, so that a misspelt parameter is an error there and no
broker that is never reached. Knows no library: the settings ask here, too.
"""

import re
from urllib.parse import parse_qsl, urlsplit, urlunsplit

_SCHEMES = ("amqp", "amqps")
# A password may have a comma: only one before another URL divides.
_NEXT_URL = re.compile(r"\s*,\s*(?=amqps?://)", re.IGNORECASE)
# What pika reads of a URL, and understands as RabbitMQ's own clients do.
_PARAMETERS = frozenset(
    {
        "blocked_connection_timeout",
        "channel_max",
        "client_properties",
        "connection_attempts",
        "frame_max",
        "heartbeat",
        "locale",
        "retry_delay",
        "socket_timeout",
        "ssl_options",
        "stack_timeout",
        "tcp_options",
    }
)


def addresses(text: str) -> tuple[str, ...]:
    """One URL for each node that `text` names, in its order; raises ValueError, without the password."""
    return tuple(node for url in _NEXT_URL.split(text.strip()) for node in _nodes(url))


def parameters_of(url: str) -> frozenset[str]:
    """The names of the parameters that a URL sets."""
    return frozenset(name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True))


def host_of(url: str) -> str:
    """The host and the port that a node's URL names, for a log."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _nodes(url: str) -> list[str]:
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    if parts.scheme not in _SCHEMES or not (hosts or parts.path.strip("/")):
        msg = f"expected a URL that begins with {' or '.join(s + '://' for s in _SCHEMES)}"
        raise ValueError(msg)
    if at and not all(credentials.partition(":")[::2]):
        msg = "a user and a password belong together"
        raise ValueError(msg)
    if unknown := parameters_of(url) - _PARAMETERS:
        msg = f"unknown parameter {', '.join(sorted(unknown))}"
        raise ValueError(msg)
    if not hosts:  # a virtual host of this host
        return [url]
    return [_checked(urlunsplit(parts._replace(netloc=credentials + at + host.strip()))) for host in hosts.split(",")]


def _checked(url: str) -> str:
    parts = urlsplit(url)
    try:
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # its words may hold half of a password that has a slash
        named = False
    if not named:
        msg = "every host must have a name, and a port, where it has one, from 1 to 65535"
        raise ValueError(msg)
    return url
