"""Token buckets with a clock that is moved by hand."""

import pytest

from worker.control.throttle import PER_ADDRESS, PER_CLIENT, LoginThrottle, Rate, Throttle, client_key

OWNER, ADDRESS = "192.0.2.1", "ada@dev.example"


class Clock:
    """Seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_passes_and_then_one_each_interval(clock: Clock) -> None:
    throttle = Throttle(Rate(3, 10.0), clock=clock)
    assert [throttle.draw("a") for _ in range(4)] == [0, 0, 0, 10.0]
    clock.now += 4
    assert throttle.draw("a") == pytest.approx(6.0)
    clock.now += 6
    assert [throttle.draw("a"), throttle.draw("a")] == [0, pytest.approx(10.0)]


def test_tries_that_are_refused_cost_nothing(clock: Clock) -> None:
    throttle = Throttle(Rate(1, 10.0), clock=clock)
    throttle.draw("a")
    for _ in range(100):
        clock.now += 0.099
        assert throttle.draw("a") > 0
    clock.now += 0.2
    assert throttle.draw("a") == 0


def test_a_long_rest_fills_the_bucket_and_no_more(clock: Clock) -> None:
    throttle = Throttle(Rate(2, 1.0), clock=clock)
    throttle.draw("a")
    clock.now += 1_000_000
    assert [throttle.draw("a") > 0 for _ in range(3)] == [False, False, True]


def test_keys_do_not_share_a_bucket(clock: Clock) -> None:
    throttle = Throttle(Rate(1, 1.0), clock=clock)
    assert [throttle.draw("a"), throttle.draw("b")] == [0, 0]
    assert throttle.draw("a") > 0


def test_memory_is_bounded_and_what_was_tried_longest_ago_is_forgotten(clock: Clock) -> None:
    throttle = Throttle(Rate(1, 1e9), clock=clock, capacity=3)
    for key in "abc":
        throttle.draw(key)
    assert throttle.draw("a") > 0  # tried again: the youngest now
    throttle.draw("d")
    assert len(throttle) == 3
    assert "b" not in throttle
    assert throttle.draw("a") > 0
    throttle.fill("e")
    assert len(throttle) == 3


def test_ten_thousand_keys_are_the_default_bound(clock: Clock) -> None:
    throttle = Throttle(Rate(1, 1.0), clock=clock)
    for number in range(10_500):
        throttle.draw(str(number))
    assert len(throttle) == 10_000


def test_an_address_has_ten_tries_and_then_one_in_thirty_seconds(clock: Clock) -> None:
    logins = LoginThrottle(clock=clock)
    clients = [f"203.0.113.{n}" for n in range(12)]
    waits = [logins.draw(ADDRESS, client) for client in clients]
    assert waits[:10] == [0] * 10
    assert waits[10:] == [30.0, 30.0]
    clock.now += 30
    assert logins.draw("ADA@dev.example", clients[0]) == 0


def test_a_client_has_thirty_tries_and_then_one_in_two_seconds(clock: Clock) -> None:
    logins = LoginThrottle(clock=clock)
    waits = [logins.draw(f"{n}@dev.example", OWNER) for n in range(32)]
    assert waits == [0] * 30 + [2.0, 2.0]


def test_a_client_that_is_stopped_uses_up_nobodys_tries(clock: Clock) -> None:
    logins = LoginThrottle(clock=clock)
    for number in range(30):
        logins.draw(f"{number}@dev.example", "203.0.113.66")
    for _ in range(50):
        assert logins.draw(ADDRESS, "203.0.113.66") > 0
    assert [logins.draw(ADDRESS, OWNER) for _ in range(10)] == [0] * 10


def test_coming_in_gives_the_address_all_of_its_tries_again(clock: Clock) -> None:
    logins = LoginThrottle(clock=clock)
    for _ in range(9):
        logins.draw(ADDRESS, OWNER)
    logins.came_in(ADDRESS, OWNER)
    assert [logins.draw(ADDRESS, "203.0.113.9") for _ in range(10)] == [0] * 10


def test_an_owner_who_came_in_before_is_not_locked_out_by_tries_from_elsewhere(clock: Clock) -> None:
    logins = LoginThrottle(clock=clock)
    logins.draw(ADDRESS, OWNER)
    logins.came_in(ADDRESS, OWNER)
    for number in range(250):
        logins.draw(ADDRESS, f"203.0.113.{number}")
    assert logins.draw(ADDRESS, "203.0.113.250") > 0
    assert logins.draw(ADDRESS, OWNER) == 0


def test_an_owner_who_is_new_waits_as_long_as_one_try_takes_to_come_back(clock: Clock) -> None:
    logins = LoginThrottle(clock=clock)
    for number in range(250):
        logins.draw(ADDRESS, f"203.0.113.{number}")
    assert logins.draw(ADDRESS, OWNER) == 30.0
    clock.now += 30
    assert logins.draw(ADDRESS, OWNER) == 0


def test_the_known_client_has_no_endless_tries_either(clock: Clock) -> None:
    logins = LoginThrottle(clock=clock)
    logins.came_in(ADDRESS, OWNER)
    assert [logins.draw(ADDRESS, OWNER) > 0 for _ in range(12)] == [False] * 10 + [True] * 2


@pytest.mark.parametrize(
    ("name", "address", "key"),
    [
        ("IPv4 as it is", "192.0.2.1", "192.0.2.1"),
        ("IPv6 by its network", "2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("IPv4 in IPv6", "::ffff:192.0.2.1", "192.0.2.1"),
        ("a link-local one with its zone", "fe80::1%eth0", "fe80::/64"),
        ("no address", "unix", "unix"),
        ("none at all", None, ""),
    ],
)
def test_what_counts_as_one_client(name: str, address: str | None, key: str) -> None:
    assert client_key(address) == key


def test_the_rates_are_the_documented_ones() -> None:
    assert (Rate(10, 30.0), Rate(30, 2.0)) == (PER_ADDRESS, PER_CLIENT)
