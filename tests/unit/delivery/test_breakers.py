"""Breakers: what opens and closes them, how often a wrong login is tried, and how replicas come to agree."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.smtp_config import Scope, SmtpConfig, TlsMode
from worker.delivery.breakers import (
    FIRST_BACKOFF_S,
    JITTER,
    MAX_BACKOFF_S,
    MAX_SKEW_S,
    PROBE_LIMIT_S,
    Allowed,
    BreakerKey,
    Breakers,
    Change,
    Probe,
    State,
    Waits,
    backoff_s,
    closes,
    opens,
)
from worker.delivery.outcome import decide
from worker.delivery.ports import Answer, Fault, Phase, SmtpReply

T = 1_700_000_000.0
KEY = BreakerKey(Scope("acme", "dev"), "default", 3)
LONGEST_S = MAX_BACKOFF_S * (1 + JITTER)

WRONG_PASSWORD = Answer(Phase.AUTH, SmtpReply(535, "5.7.8 Error: authentication failed"))
ACCEPTED = Answer(Phase.FINAL, SmtpReply(250, "2.0.0 Ok"))
SILENT = Answer(Phase.GREETING, fault=Fault.TIMEOUT)


def steady() -> Breakers:
    """Without jitter: every wait is exactly its backoff."""
    return Breakers(draw=lambda: 0.0)


def opened(breakers: Breakers, at: float = T) -> Change:
    change = breakers.learned(KEY, [WRONG_PASSWORD], at)
    assert change is not None
    return change


def test_a_record_nobody_complained_of_may_be_used() -> None:
    assert steady().check(KEY, T) == Allowed()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (WRONG_PASSWORD, "opens"),
        (Answer(Phase.AUTH, SmtpReply(432, "4.7.12 A password transition is needed")), "opens"),
        (Answer(Phase.AUTH, fault=Fault.AUTH_NOT_OFFERED), "opens"),
        (Answer(Phase.TLS, fault=Fault.TLS_UNTRUSTED), "opens"),
        (Answer(Phase.TLS, fault=Fault.TLS_NOT_OFFERED), "opens"),
        (Answer(Phase.TLS, fault=Fault.TLS_FAILED), "opens"),
        (Answer(Phase.RESOLVE, fault=Fault.DNS_NOT_FOUND), "opens"),
        (Answer(Phase.CONNECT, fault=Fault.EGRESS_DENIED), "opens"),
        (Answer(Phase.RESOLVE, fault=Fault.DNS_UNAVAILABLE), "neither"),
        (Answer(Phase.CONNECT, fault=Fault.UNREACHABLE), "neither"),
        (SILENT, "neither"),
        (Answer(Phase.AUTH, SmtpReply(454, "4.7.0 Temporary authentication failure")), "neither"),
        (Answer(Phase.GREETING, SmtpReply(421, "4.7.0 Too many connections")), "neither"),
        (Answer(Phase.MAIL, fault=Fault.LOST), "neither"),
        (Answer(Phase.FINAL, fault=Fault.LOST), "neither"),
        (Answer(Phase.MAIL, SmtpReply(530, "5.7.0 Authentication required")), "closes"),
        (Answer(Phase.MAIL, SmtpReply(553, "5.7.1 Sender address rejected: not owned by user")), "closes"),
        (Answer(Phase.RCPT, SmtpReply(554, "5.7.1 <bob@example.com>: Relay access denied")), "closes"),
        (Answer(Phase.RCPT, SmtpReply(550, "5.1.1 User unknown")), "closes"),
        (Answer(Phase.DATA, SmtpReply(451, "4.3.0 Error")), "closes"),
        (ACCEPTED, "closes"),
    ],
    ids=lambda value: f"{value.phase} {value.reply.code if value.reply else value.fault}" if isinstance(value, Answer) else value,
)  # fmt: skip
def test_login_tls_and_dns_open_it_and_any_reply_from_mail_on_closes_it(answer, expected) -> None:
    found = {(True, False): "opens", (False, True): "closes", (False, False): "neither"}
    assert found[opens(answer, decide(answer)), closes(answer)] == expected
    assert (steady().learned(KEY, [answer], T) is not None) is (expected == "opens")
    probing = steady()
    opened(probing)
    assert isinstance(probing.check(KEY, T + 10), Probe)
    change = probing.learned(KEY, [answer], T + 11)
    assert change is not None
    assert change.state is (State.CLOSED if expected == "closes" else State.OPEN)
    assert change.failures == (2 if expected == "opens" else 1)


def test_an_open_one_lets_one_probe_through_after_its_backoff_and_nothing_else() -> None:
    breakers = steady()
    change = opened(breakers)
    assert (change.state, change.failures, change.reason) == (State.OPEN, 1, "credentials-refused")
    assert breakers.check(KEY, T + 9.9) == Waits(T + 10, "credentials-refused")
    probe = breakers.check(KEY, T + 10)
    assert isinstance(probe, Probe)
    assert probe.change.state is State.PROBING
    assert all(isinstance(breakers.check(KEY, T + 10 + n / 10), Waits) for n in range(20))
    assert breakers.learned(KEY, [ACCEPTED], T + 12) is not None
    assert breakers.check(KEY, T + 12) == Allowed()


def test_each_failed_probe_doubles_the_backoff_up_to_five_minutes() -> None:
    breakers, now, waits = steady(), T, []
    opened(breakers)
    for _ in range(8):
        waiting = breakers.check(KEY, now)
        assert isinstance(waiting, Waits)
        waits.append(waiting.until - now)
        now = waiting.until
        assert isinstance(breakers.check(KEY, now), Probe)
        now = round(now) + 1.0
        assert breakers.learned(KEY, [WRONG_PASSWORD], now)
    assert waits == pytest.approx([10, 20, 40, 80, 160, 300, 300, 300])


def test_jitter_only_lengthens_a_wait() -> None:
    for drawn in (0.0, 0.5, 0.999):
        breakers = Breakers(draw=lambda drawn=drawn: drawn)
        opened(breakers)
        waiting = breakers.check(KEY, T)
        assert isinstance(waiting, Waits)
        assert waiting.until - T == pytest.approx(FIRST_BACKOFF_S * (1 + JITTER * drawn))


def test_the_same_fault_of_everything_under_way_counts_once() -> None:
    breakers = steady()
    opened(breakers)
    assert [breakers.learned(KEY, [WRONG_PASSWORD], T + n / 100) for n in range(200)] == [None] * 200
    assert breakers.check(KEY, T + 10.1).__class__ is Probe


def test_what_was_under_way_when_it_opened_does_not_close_it() -> None:
    breakers = steady()
    opened(breakers)
    assert breakers.learned(KEY, [ACCEPTED], T + 1) is None
    assert isinstance(breakers.check(KEY, T + 2), Waits)


def test_one_recipients_reply_is_enough_to_close() -> None:
    breakers = steady()
    opened(breakers)
    breakers.check(KEY, T + 10)
    refused = Answer(Phase.RCPT, SmtpReply(550, "5.1.1 User unknown"))
    change = breakers.learned(KEY, [Answer(Phase.RCPT, fault=Fault.LOST), refused], T + 11)
    assert change is not None
    assert change.state is State.CLOSED


def test_a_probe_without_a_verdict_is_due_again_after_as_long_a_wait() -> None:
    breakers = steady()
    opened(breakers)
    breakers.check(KEY, T + 10)
    change = breakers.learned(KEY, [SILENT], T + 15)
    assert change is not None
    assert (change.state, change.failures) == (State.OPEN, 1)
    assert breakers.check(KEY, T + 24.9) == Waits(T + 25, "credentials-refused")
    assert isinstance(breakers.check(KEY, T + 25), Probe)


def test_a_probe_whose_event_vanished_frees_its_place_after_a_limit() -> None:
    breakers = steady()
    opened(breakers)
    assert isinstance(breakers.check(KEY, T + 10), Probe)
    assert isinstance(breakers.check(KEY, T + 10 + PROBE_LIMIT_S - 0.1), Waits)
    assert isinstance(breakers.check(KEY, T + 10 + PROBE_LIMIT_S), Probe)
    assert breakers.learned(KEY, [ACCEPTED], T + 80) is not None  # whichever of the two answers


def test_one_that_opens_again_at_once_goes_on_with_its_backoff() -> None:
    breakers = steady()
    opened(breakers)
    for n, at in enumerate([T + 10, T + 40, T + 90]):
        assert isinstance(breakers.check(KEY, at), Probe), n
        assert breakers.learned(KEY, [WRONG_PASSWORD], at + 1)
    assert isinstance(breakers.check(KEY, T + 200), Probe)
    assert breakers.learned(KEY, [ACCEPTED], T + 201)
    change = opened(breakers, T + 202)
    assert change.failures == 5
    calm = steady()
    opened(calm)
    calm.check(KEY, T + 10)
    calm.learned(KEY, [ACCEPTED], T + 11)
    assert opened(calm, T + 200).failures == 1


def test_a_new_version_starts_closed_and_the_old_one_is_forgotten() -> None:
    breakers, newer = steady(), KEY._replace(version=4)
    opened(breakers)
    assert breakers.check(newer, T + 1) == Allowed()
    assert len(breakers) == 0
    assert breakers.learned(newer, [WRONG_PASSWORD], T + 2) is not None
    # Mail that was resolved before the new version says nothing about it.
    assert breakers.learned(KEY, [WRONG_PASSWORD], T + 3) is None
    assert breakers.check(KEY, T + 3) == Allowed()
    assert isinstance(breakers.check(newer, T + 3), Waits)


def test_an_old_versions_change_from_another_replica_is_not_taken() -> None:
    breakers, other = steady(), steady()
    breakers.learned(KEY._replace(version=4), [WRONG_PASSWORD], T)
    assert not breakers.apply(opened(other, T + 5), T + 5)
    assert breakers.apply(Change(KEY._replace(version=5), State.OPEN, T, 1, "x"), T + 5)


@pytest.mark.parametrize("other", [Scope(), Scope("acme"), Scope("acme", "qa"), Scope("other", "dev")])
def test_one_tenants_fault_is_no_other_tenants(other) -> None:
    breakers = steady()
    opened(breakers)
    assert breakers.check(KEY._replace(scope=other), T) == Allowed()
    assert breakers.check(KEY._replace(name="second"), T) == Allowed()


def test_a_key_is_made_of_the_record_that_an_event_resolved_to() -> None:
    config = SmtpConfig(partner="acme", display_name="eu", host="h.test", port=25, tls=TlsMode.NONE, version=9)
    assert BreakerKey.of(config) == BreakerKey(Scope("acme"), "eu", 9)


def test_memory_is_bounded_and_the_longest_untouched_goes_first() -> None:
    breakers = Breakers(draw=lambda: 0.0, max_keys=3)
    keys = [KEY._replace(name=f"n{n}") for n in range(5)]
    for n, each in enumerate(keys):
        breakers.learned(each, [WRONG_PASSWORD], T + n)
        breakers.check(keys[0], T + n)
    assert len(breakers) == 3
    assert isinstance(breakers.check(keys[0], T + 5), Waits)
    assert breakers.check(keys[1], T + 5) == Allowed()


def test_mail_that_goes_through_costs_no_memory() -> None:
    breakers = steady()
    for n in range(100):
        breakers.learned(KEY._replace(name=f"n{n}"), [ACCEPTED], T)
    assert len(breakers) == 0


def test_a_clock_that_is_set_back_an_hour_prolongs_no_wait_beyond_the_longest() -> None:
    breakers = steady()
    opened(breakers, T + 3600)
    waiting = breakers.check(KEY, T)
    assert isinstance(waiting, Waits)
    assert waiting.until - T == FIRST_BACKOFF_S
    assert isinstance(breakers.check(KEY, T + 10), Probe)
    closing = breakers.learned(KEY, [ACCEPTED], T + 11)
    assert closing is not None
    assert closing.at > T + 3600  # or the other replicas would take it for older than the opening
    assert breakers.check(KEY, T + 12) == Allowed()


def test_a_change_from_a_made_up_future_is_not_taken() -> None:
    breakers = steady()
    assert not breakers.apply(Change(KEY, State.OPEN, T + MAX_SKEW_S + 1, 1, "x"), T)
    assert breakers.check(KEY, T) == Allowed()


# Between replicas


def test_another_replicas_opening_stops_this_one_and_its_closing_frees_it() -> None:
    here, there = steady(), steady()
    assert here.apply(opened(there), T)
    assert isinstance(here.check(KEY, T + 1), Waits)
    probe = there.check(KEY, T + 10)
    assert isinstance(probe, Probe)
    assert here.apply(probe.change, T + 10)
    assert isinstance(here.check(KEY, T + 11), Waits)  # its own is not due while the other's is under way
    closing = there.learned(KEY, [ACCEPTED], T + 12)
    assert closing is not None
    assert here.apply(closing, T + 12)
    assert here.check(KEY, T + 12) == Allowed()


def test_a_replica_that_dies_in_its_probe_is_followed_by_another() -> None:
    here, there = steady(), steady()
    here.apply(opened(there), T)
    probe = there.check(KEY, T + 10)
    assert isinstance(probe, Probe)
    here.apply(probe.change, T + 10)
    assert isinstance(here.check(KEY, T + 10 + PROBE_LIMIT_S), Probe)


def test_another_replicas_probe_is_not_ended_by_what_was_under_way_here() -> None:
    here, there = steady(), steady()
    here.apply(opened(there), T)
    probe = there.check(KEY, T + 10)
    assert isinstance(probe, Probe)
    here.apply(probe.change, T + 10)
    assert here.learned(KEY, [ACCEPTED], T + 11) is None
    assert here.learned(KEY, [WRONG_PASSWORD], T + 11) is None
    assert here.learned(KEY, [SILENT], T + 11) is None


def test_an_opening_of_an_hour_ago_is_probed_at_once_and_a_fresh_one_is_not() -> None:
    restarted = steady()
    restarted.apply(Change(KEY, State.OPEN, T - 3000, 4, "x"), T)
    assert isinstance(restarted.check(KEY, T), Probe)
    restarted.apply(Change(KEY._replace(name="b"), State.OPEN, T - 1, 4, "x"), T)
    assert isinstance(restarted.check(KEY._replace(name="b"), T), Waits)


def test_a_hastened_one_is_tried_after_the_shortest_backoff_and_once() -> None:
    breakers = steady()
    fifth = Change(KEY, State.OPEN, T, 5, "credentials-refused")
    assert breakers.apply(fifth, T)
    breakers.hasten(KEY, T)
    assert breakers.check(KEY, T + FIRST_BACKOFF_S - 1) == Waits(T + FIRST_BACKOFF_S, "credentials-refused")
    assert isinstance(breakers.check(KEY, T + FIRST_BACKOFF_S), Probe)
    breakers.hasten(KEY, T + FIRST_BACKOFF_S)
    assert isinstance(breakers.check(KEY, T + FIRST_BACKOFF_S), Waits)
    breakers.learned(KEY, [WRONG_PASSWORD], T + FIRST_BACKOFF_S)
    assert isinstance(breakers.check(KEY, T + 3 * FIRST_BACKOFF_S), Waits), "it goes on with the backoff that it had"


def test_to_hasten_one_that_is_due_or_closed_changes_nothing() -> None:
    breakers = steady()
    breakers.hasten(KEY, T)
    assert len(breakers) == 0
    opened(breakers)
    breakers.hasten(KEY, T)
    assert breakers.check(KEY, T + FIRST_BACKOFF_S - 1) == Waits(T + FIRST_BACKOFF_S, "credentials-refused")


CHANGES = st.builds(
    Change,
    key=st.sampled_from([KEY._replace(version=v) for v in (1, 2, 3)]),
    state=st.sampled_from(list(State)),
    at=st.sampled_from([T, T + 1, T + 2]),
    failures=st.integers(0, 4),
    reason=st.sampled_from(["credentials-refused", "tls-failed"]),
)


@given(st.lists(CHANGES, max_size=12), st.randoms(use_true_random=False))
def test_changes_may_come_late_twice_and_in_any_order(changes, shuffle) -> None:
    one, other = steady(), steady()
    for each in changes:
        one.apply(each, T + 3)
    mixed = changes + changes
    shuffle.shuffle(mixed)
    for each in mixed:
        other.apply(each, T + 3)
    assert one.check(KEY, T + 3).__class__ is other.check(KEY, T + 3).__class__
    assert [b.last for b in one._breakers.values()] == [b.last for b in other._breakers.values()]


@given(st.integers(0, 2**32))
def test_replicas_that_heard_each_other_agree_whatever_each_of_them_lived_through(seed) -> None:
    rng = random.Random(seed)
    replicas = [Breakers(draw=rng.random) for _ in range(3)]
    said: list[Change] = []
    now = T
    for _ in range(40):
        now += rng.random() * 15
        one = rng.choice(replicas)
        permission = one.check(KEY, now)
        if isinstance(permission, Probe):
            said.append(permission.change)
        if not isinstance(permission, Waits):
            change = one.learned(KEY, [rng.choice([WRONG_PASSWORD, ACCEPTED, SILENT])], now + 0.1)
            said += [change] if change else []
        if said and rng.random() < 0.5:
            rng.choice(replicas).apply(rng.choice(said), now)
    for each in replicas:
        for change in rng.sample(said, len(said)):
            each.apply(change, now)
    assert len({str([b.last for b in each._breakers.values()]) for each in replicas}) == 1


def test_ten_replicas_try_a_wrong_password_about_once_a_backoff_together() -> None:
    """The server takes 2 s to refuse, a change takes 0.2 s to the others; each replica asks ten times a second."""
    rng = random.Random(11)
    replicas = [Breakers(draw=rng.random) for _ in range(10)]
    tries, under_way, mail = [], [], []
    for step in range(10 * 600):
        now = T + step / 10
        for due, change, origin in [m for m in mail if m[0] <= now]:
            mail.remove((due, change, origin))
            for each in replicas:
                if each is not origin:
                    each.apply(change, now)
        for each, change in [(r, r.learned(KEY, [WRONG_PASSWORD], now)) for end, r in under_way if end <= now]:
            mail += [(now + 0.2, change, each)] if change else []
        under_way = [(end, r) for end, r in under_way if end > now]
        for each in replicas:
            permission = each.check(KEY, now)
            if isinstance(permission, Probe):
                mail.append((now + 0.2, permission.change, each))
            if not isinstance(permission, Waits) and each not in [r for _, r in under_way]:
                tries.append(now - T)
                under_way.append((now + 2.0, each))
    first = [t for t in tries if t < 5]
    assert len(first) <= 10  # nobody knew yet: one each
    # 10, 20, 40, 80, 160, 300 s and their jitter fill ten minutes with five or six probes.
    later = [t for t in tries if t >= 5]
    assert 4 <= len(later) <= 9
    assert sum(b - a < 1.0 for a, b in itertools.pairwise(later)) <= 3


@pytest.mark.parametrize(("apart_s", "most"), [(0.0, 4), (1.0, 8)])
def test_twenty_replicas_that_restart_do_not_try_a_wrong_password_each(apart_s, most) -> None:
    """All at once, or one a second; they last heard of a refusal half a minute ago, and a change takes 0.2 s to the others."""
    rng = random.Random(11)
    said, replicas, tries = [(T, Change(KEY, State.OPEN, T - 30, 6, "credentials-refused"))], [], []
    for step in range(10 * 60):
        now = T + step / 10
        while len(replicas) < 20 and now >= T + len(replicas) * apart_s:
            replicas.append(Breakers(draw=rng.random))
            for _, change in said:
                replicas[-1].apply(change, now)
            replicas[-1].hasten(KEY, now)
        for change in [change for due, change in said if now - 0.1 < due <= now]:
            for each in replicas:
                each.apply(change, now)
        for each in replicas:
            permission = each.check(KEY, now)
            if isinstance(permission, Probe):
                tries.append(now)
                refused = each.learned(KEY, [WRONG_PASSWORD], now + 0.05)
                said += [(now + 0.2, change) for change in (permission.change, refused) if change]
    assert 1 <= len(tries) <= most


@pytest.mark.parametrize(("failures", "expected"), [(-5, 10), (0, 10), (1, 10), (2, 20), (6, 300), (10**9, 300)])
def test_any_count_of_failures_has_a_backoff(failures, expected) -> None:
    assert backoff_s(failures) == expected
