"""Which record wins and why, what each asker may know of it, and how it fares."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from schemas.audit import ConfigUsed, Outcome
from schemas.audit_query import AuditPage
from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig
from tests.support.databases import upgraded
from tests.unit.audit.audit_samples import audit_record
from worker.control.explaining import Explaining, explained
from worker.control.standing import (
    BreakerState,
    LastEnd,
    LastEnds,
    LastInAudit,
    breaker_reader,
    breakers_unknown,
    last_unknown,
)
from worker.delivery.breakers import BreakerKey, Breakers
from worker.embedded.audit import SqliteAudit
from worker.errors import AuditUnavailable, SecretUnreadable, StoreUnavailable
from worker.store.configs import ConfigStore
from worker.store.controller import ControllerFromEnvironment
from worker.store.secrets import SecretBox, new_key
from worker.testing import StaticConfigs

PASSWORD = "correct-horse-battery-staple"
ORG, PARTNER, OTHER = Scope("acme", "web"), Scope("acme"), Scope("globex")
ENVIRONMENT = SmtpConfig(display_name="environment", host="env.test", port=25, tls="none")


def record(scope, name="default", **changes):
    given = {"partner": scope.partner, "org": scope.org, "display_name": name, "host": "mail.test", "port": 587}
    return SmtpConfig(**{**given, "tls": "starttls", "username": "ann@from.test", "password": PASSWORD, **changes})


def used_by(scope, name):
    return ConfigUsed(scope=scope, name=name, version=1, fingerprint="ab" * 8, host="mail.test", port=587)


@pytest.fixture
async def store(tmp_path):
    opened = ConfigStore(f"sqlite:///{tmp_path / 'postbote.db'}", SecretBox([new_key()]))
    await upgraded(opened.database)
    yield opened
    await opened.close()


OFF = "the org's own records are off: they do not count until its SMTP feature is turned on"
NONE = "it has no record"


@pytest.mark.parametrize(
    ("stored", "org_on", "environment", "wins", "passed_over"),
    [
        ([record(CONTROLLER)], False, None, (CONTROLLER, "default"),
         [(ORG, None, NONE), (PARTNER, None, NONE)]),
        ([record(CONTROLLER), record(PARTNER)], False, None, (PARTNER, "default"),
         [(ORG, None, NONE), (CONTROLLER, "default", "partner:acme is more specific")]),
        ([record(PARTNER), record(ORG)], True, None, (ORG, "default"),
         [(PARTNER, "default", "org:acme/web is more specific"), (CONTROLLER, None, NONE)]),
        ([record(PARTNER), record(ORG)], False, None, (PARTNER, "default"),
         [(ORG, "default", OFF), (CONTROLLER, None, NONE)]),
        ([record(CONTROLLER), record(CONTROLLER, "spare")], False, None, (CONTROLLER, "default"),
         [(ORG, None, NONE), (PARTNER, None, NONE), (CONTROLLER, "spare", "'default' is its scope's default")]),
        ([record(CONTROLLER)], False, ENVIRONMENT, (CONTROLLER, "environment"),
         [(ORG, None, NONE), (PARTNER, None, NONE),
          (CONTROLLER, "default", "the environment's record (FW_EVENT_SMTP_SERVER_ADDR) stands in its place")]),
        ([record(PARTNER)], False, ENVIRONMENT, (PARTNER, "default"),
         [(ORG, None, NONE), (CONTROLLER, "environment", "partner:acme is more specific")]),
        ([record(ORG)], False, None, None,
         [(ORG, "default", OFF), (PARTNER, None, NONE), (CONTROLLER, None, NONE)]),
        ([], True, None, None,
         [(ORG, None, NONE), (PARTNER, None, NONE), (CONTROLLER, None, NONE)]),
    ],
)  # fmt: skip
async def test_one_record_wins_and_every_other_one_has_its_reason(
    store, stored, org_on, environment, wins, passed_over
) -> None:
    for each in stored:
        await store.put(each)
    await store.set_org_feature(ORG, on=org_on)
    source = store if environment is None else ControllerFromEnvironment(store, environment)
    found = await explained(store.records, source, environment, ORG)
    winner = found.winner
    assert (None if winner is None else (winner.scope, winner.display_name)) == wins
    assert [(each.scope, each.name, each.why) for each in found.passed_over] == passed_over
    assert found.org_feature is org_on


class Listed:
    def __init__(self, config, *, is_default=True):
        self.scope, self.name, self.is_default = config.scope, config.display_name, is_default


def explaining(*records, fallbacks=(), org_on=True, breakers=breakers_unknown, last=last_unknown, before=None):
    """Over records of which the first of each scope is its default."""
    defaults = {each.scope: each for each in reversed(records)}
    listed = {
        scope: [Listed(each, is_default=each is default) for each in (*records, *fallbacks) if each.scope == scope]
        for scope, default in defaults.items()
    }

    async def listing(scope):
        return listed.get(scope, [])

    of = {fallbacks[0].scope: tuple(fallbacks)} if fallbacks else {}
    source = StaticConfigs(defaults, org_on, before, of)
    return Explaining(listing, source, None, breakers, last)


SECRETIVE = record(CONTROLLER, "the-relay", host="relay.controller.internal", username="boss@from.test", version=73)


class TestAskers:
    async def test_of_a_wider_scopes_record_only_level_from_and_warnings_are_told(self) -> None:
        spare = record(CONTROLLER, "the-spare", host="spare.controller.internal")
        told = await explaining(SECRETIVE, fallbacks=[spare]).explain(ORG, ORG)
        assert told == {
            "scope": "org:acme/web",
            "applies": {
                "scope": "controller",
                "from": "boss@from.test",
                "warnings": [],
                "own": False,
                "breaker": None,
                "last": None,
            },
            "fallbacks": [],
            "passed_over": [{"scope": "org:acme/web", "name": None, "why": "it has no record"}],
            "org_feature": True,
        }

    @pytest.mark.parametrize("asker", [ORG, PARTNER])
    async def test_nothing_of_a_wider_record_shows_its_server_user_or_version(self, asker) -> None:
        text = json.dumps(await explaining(SECRETIVE, record(PARTNER, "mine")).explain(ORG, asker))
        for hidden in ("internal", "the-relay", "73", SECRETIVE.fingerprint, PASSWORD):
            assert hidden not in text
        assert ("mine" in text) is (asker == PARTNER)

    async def test_an_org_learns_nothing_of_what_wider_scopes_have_beside_its_own_record(self) -> None:
        told = await explaining(record(ORG), record(PARTNER), SECRETIVE).explain(ORG, ORG)
        assert told["applies"]["host"] == "mail.test"
        assert told["passed_over"] == []

    async def test_while_the_feature_is_off_an_org_sees_neither_it_nor_its_records(self) -> None:
        records = explaining(record(ORG, "mine"), record(PARTNER), org_on=False)
        told = await records.explain(ORG, ORG)
        assert (told["org_feature"], told["passed_over"]) == (None, [])
        seen = await records.explain(ORG, PARTNER)
        assert (seen["org_feature"], seen["passed_over"][0]["why"]) == (False, OFF)

    async def test_the_controller_sees_everything_but_secrets(self) -> None:
        text = json.dumps(await explaining(record(PARTNER), SECRETIVE).explain(ORG, CONTROLLER))
        assert "the-relay" in text
        assert "mail.test" in text
        assert PASSWORD not in text

    async def test_an_unreadable_password_names_nobodys_record(self) -> None:
        def before():
            raise SecretUnreadable("record 'the-relay' of controller: cannot be decrypted")

        with pytest.raises(StoreUnavailable) as caught:
            await explaining(SECRETIVE, before=before).explain(ORG, ORG)
        assert "the-relay" not in str(caught.value)


class TestFallbacks:
    async def test_they_stand_in_their_order_and_are_not_passed_over(self) -> None:
        first, second, unused = (record(PARTNER, name) for name in ("first", "second", "unused"))
        records = explaining(record(PARTNER), unused, fallbacks=[first, second])
        told = await records.explain(PARTNER, PARTNER)
        assert [each["name"] for each in told["fallbacks"]] == ["first", "second"]
        assert [(each["scope"], each["name"]) for each in told["passed_over"]] == [("partner:acme", "unused")]


class TestBreakers:
    NOW = datetime(2025, 11, 21, 12, tzinfo=UTC)

    def opened(self, config, reason="credentials-refused"):
        breakers = Breakers(draw=lambda: 0.0)
        breakers.failed(BreakerKey.of(config), reason, self.NOW.timestamp())
        return breakers

    async def test_open_until_the_earliest_probe_with_its_reason(self) -> None:
        config = record(PARTNER)
        read = breaker_reader(self.opened(config), lambda: None)
        assert read(config) == BreakerState("open", self.NOW + timedelta(seconds=10), "credentials-refused")
        told = await explaining(config, breakers=read).explain(PARTNER, PARTNER)
        assert told["applies"]["breaker"] == {
            "state": "open",
            "until": "2025-11-21T12:00:10+00:00",
            "reason": "credentials-refused",
        }

    async def test_a_probe_under_way_is_told(self) -> None:
        config = record(PARTNER)
        breakers = self.opened(config)
        breakers.check(BreakerKey.of(config), self.NOW.timestamp() + 10)
        read = breaker_reader(breakers, lambda: None)
        assert read(config) == BreakerState("probing", self.NOW + timedelta(seconds=70), "credentials-refused")

    async def test_a_record_that_nothing_was_heard_of_is_closed_and_so_is_a_new_version(self) -> None:
        config = record(PARTNER)
        read = breaker_reader(self.opened(config), lambda: None)
        assert read(record(OTHER)) == BreakerState("closed")
        assert read(config.model_copy(update={"version": 2})) == BreakerState("closed")

    async def test_while_the_stream_is_away_it_is_not_known(self) -> None:
        config = record(PARTNER)
        assert breaker_reader(self.opened(config), lambda: "the stream is not read")(config) is None

    @pytest.mark.parametrize("reason", ["egress-denied", "host-not-found"])
    async def test_a_tenant_is_not_told_why_a_host_is_out_of_reach(self, reason) -> None:
        config = record(PARTNER)
        records = explaining(config, breakers=breaker_reader(self.opened(config, reason), lambda: None))
        asked = {asker: (await records.explain(PARTNER, asker))["applies"]["breaker"]["reason"] for asker in
                 (PARTNER, CONTROLLER)}  # fmt: skip
        assert asked == {PARTNER: "unreachable", CONTROLLER: reason}

    async def test_of_a_wider_record_that_it_rests_is_told_and_not_why(self) -> None:
        read = breaker_reader(self.opened(SECRETIVE), lambda: None)
        told = await explaining(SECRETIVE, breakers=read).explain(ORG, ORG)
        assert (told["applies"]["breaker"]["state"], told["applies"]["breaker"]["reason"]) == ("open", None)


class TestLast:
    @pytest.fixture
    async def audit(self, tmp_path):
        opened = await SqliteAudit(tmp_path / "audit.db").open()
        yield opened
        await opened.close()

    async def test_the_newest_of_each_kind_by_this_record_counts(self, audit) -> None:
        by = {"config": used_by("partner:acme", "default"), "org": None}
        await audit.write(
            [
                audit_record(1, seconds=1, **by),
                audit_record(2, seconds=2, **by),
                audit_record(3, seconds=3, outcome=Outcome.CONFIG_FAULT, **by),
                audit_record(4, seconds=4, outcome=Outcome.THROTTLED, **by),
                audit_record(5, seconds=5, config=used_by("partner:acme", "other")),
                audit_record(6, seconds=6, config=used_by("partner:globex", "default"), partner="globex"),
            ]
        )
        found = await LastInAudit(audit)(record(PARTNER), CONTROLLER)
        assert found is not None
        assert found.success == LastEnd("2025-11-21T12:00:02Z", "accepted", 250, "2.0.0")
        assert found.failure is not None
        assert (found.failure.at, found.failure.outcome) == ("2025-11-21T12:00:03Z", "config_fault")

    async def test_by_a_wider_record_only_the_askers_own_mail_counts(self, audit) -> None:
        by = {"config": used_by("controller", "default")}
        await audit.write(
            [
                audit_record(1, seconds=1, partner="acme", org="web", **by),
                audit_record(2, seconds=2, partner="globex", org=None, **by),
                audit_record(3, seconds=3, partner="globex", org=None, outcome=Outcome.REFUSED, **by),
            ]
        )
        records = explaining(record(CONTROLLER), last=LastInAudit(audit))
        told = await records.explain(ORG, ORG)
        assert told["applies"]["last"]["success"]["at"] == "2025-11-21T12:00:01Z"
        assert told["applies"]["last"]["failure"] is None
        everything = await records.explain(ORG, CONTROLLER)
        assert everything["applies"]["last"]["success"]["at"] == "2025-11-21T12:00:02Z"

    async def test_an_audit_that_is_away_or_slow_is_not_known(self) -> None:
        class Away:
            async def search(self, query):
                raise AuditUnavailable("away")

        class Slow:
            async def search(self, query) -> AuditPage:
                await asyncio.Event().wait()
                raise AssertionError

        assert await LastInAudit(Away())(record(PARTNER), PARTNER) is None
        assert await LastInAudit(Slow(), limit_s=0.05)(record(PARTNER), PARTNER) is None

    def test_none_and_not_known_are_two_things(self) -> None:
        assert LastEnds(None, None).to_json() == {"success": None, "failure": None}
