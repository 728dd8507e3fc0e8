"""Which nodes an AMQP URL names, and which words are no URL."""

import pytest

from worker.rabbit.addresses import addresses, host_of, parameters_of

GOOD = {
    "one URL is itself": ("amqp://u:p@a:5672/%2F", ["amqp://u:p@a:5672/%2F"]),
    "a host may have no port, user or path": ("amqp://a", ["amqp://a"]),
    "a virtual host alone means this host": ("amqp:///v", ["amqp:///v"]),
    "hosts share everything else": (
        "amqps://u:p@a:1,b, c:3/v?heartbeat=2",
        ["amqps://u:p@a:1/v?heartbeat=2", "amqps://u:p@b/v?heartbeat=2", "amqps://u:p@c:3/v?heartbeat=2"],
    ),
    "URLs stand for themselves": ("amqp://u:p@a/v , amqps://w:q@b/v", ["amqp://u:p@a/v", "amqps://w:q@b/v"]),
    "both forms at once": ("amqp://a,b/v,amqp://c/v", ["amqp://a/v", "amqp://b/v", "amqp://c/v"]),
    "a comma in a password divides nothing": ("amqp://u:p,w@a/v", ["amqp://u:p,w@a/v"]),
    "a comma in a parameter divides nothing": (
        "amqp://a/v?tcp_options={'TCP_USER_TIMEOUT':9,'TCP_KEEPIDLE':9}",
        ["amqp://a/v?tcp_options={'TCP_USER_TIMEOUT':9,'TCP_KEEPIDLE':9}"],
    ),
    "IPv6": ("amqp://[::1]:1,[fe80::1]/v", ["amqp://[::1]:1/v", "amqp://[fe80::1]/v"]),
}


@pytest.mark.parametrize("name", GOOD)
def test_nodes_of(name: str) -> None:
    text, expected = GOOD[name]
    assert list(addresses(text)) == expected


BAD = {
    "another scheme": ("http://geheim", "begins with amqp://"),
    "no host": ("amqp://", "begins with amqp://"),
    "nothing": ("", "begins with amqp://"),
    "one of several is none": ("amqp://a,,b/v", "must have a name"),
    "a comma at the end": ("amqp://a/v,amqp://", "begins with amqp://"),
    "a user without a password": ("amqp://u@a/v", "belong together"),
    "a password with a slash": ("amqp://u:geheim/1@a/v", "must have a name"),
    "a port that is none": ("amqp://u:geheim@a:65536/v", "must have a name"),
    "a misspelt parameter": ("amqp://a/v?hartbeat=2", "unknown parameter hartbeat"),
}


@pytest.mark.parametrize("name", BAD)
def test_is_refused(name: str) -> None:
    text, words = BAD[name]
    with pytest.raises(ValueError, match=words) as caught:
        addresses(text)
    assert "geheim" not in str(caught.value)


def test_a_log_may_name_the_host_and_never_the_password() -> None:
    assert host_of("amqp://u:geheim@a:5672/v") == "a:5672"


def test_parameters_are_named_whatever_they_say() -> None:
    assert parameters_of("amqp://a/v?heartbeat=2&locale=") == {"heartbeat", "locale"}
