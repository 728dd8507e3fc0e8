"""Test mails and checks over HTTP: which record is tried, in whose name, and how often."""

import asyncio
from typing import Any

import pytest

from schemas.audit import Outcome
from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig
from tests.control.api_smtp.site import (
    ACME,
    CONFIG,
    CONFIGS,
    DEV,
    GLOBEX,
    LAB,
    OTHER_PASSWORD,
    PASSWORD,
    VERIFICATION,
    Site,
    native,
    paths,
    rafay,
    test_mail,
)
from worker.control.throttle import Rate
from worker.control.trials import TestMail as Mail
from worker.control.trials import Verification

CHECK = f"{CONFIGS}/check"


async def test_the_documented_line_sends_by_the_scopes_own_record(site: Site) -> None:
    await site.ask(ACME, "POST", CONFIG, rafay())
    line = (
        '{ "sender_email": "noreply@example.com", "recipient_email": "ops@example.net", '
        '"subject": "SMTP test", "body": "It works." }'
    )
    client = await site.client(ACME)
    answer = await client.post(VERIFICATION, content=line, headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "delivered": True,
            "outcome": "accepted",
            "reason": None,
            "reply": {"code": 250, "text": "2.0.0 Ok"},
            "hint": None,
            "message_id": "<1@postbote>",
            "took_ms": 12.5,
            "audit": "/event/v1/auditlog?filter.eventid=e-1",
        },
    )
    [(config, scope, mail)] = site.verifier.asked
    assert (config.host, config.scope, scope) == ("smtp.example.com", ACME, ACME)
    assert config.password is not None
    assert config.password.get_secret_value() == PASSWORD
    assert mail == Mail("noreply@example.com", "ops@example.net", "SMTP test", "It works.")


async def test_a_mail_that_was_not_taken_is_told_with_its_hint(site: Site) -> None:
    await site.ask(ACME, "POST", CONFIG, rafay())
    reply = {"code": 535, "enhanced": "5.7.8", "text": "no", "phase": "auth"}
    site.verifier.answer = Verification(Outcome.CONFIG_FAULT, "auth_refused", reply, "use an app password", None, 3.0)
    told = (await site.ask(ACME, "POST", VERIFICATION, test_mail())).json()
    assert (told["delivered"], told["outcome"], told["reply"]["code"]) == (False, "config_fault", 535)
    assert (told["hint"], told["audit"]) == ("use an app password", None)


async def test_without_the_events_id_the_audit_is_asked_for_the_recipient(site: Site) -> None:
    await site.ask(ACME, "POST", CONFIG, rafay())
    site.verifier.answer = Verification(Outcome.ACCEPTED, None, None, None, None, 3.0, "b" * 40)
    link = (await site.ask(ACME, "POST", VERIFICATION, test_mail())).json()["audit"]
    assert "filter.type=email.verification&filter.recipient=ops%40example.net&filter.timefrom=" in link


APPLIES = [
    # whose records are stored; whose applies to dev
    ((CONTROLLER, ACME, DEV), DEV),
    ((CONTROLLER, ACME), ACME),
    ((CONTROLLER,), CONTROLLER),
    ((CONTROLLER, LAB, GLOBEX), CONTROLLER),
]


@pytest.mark.parametrize(("stored", "owner"), APPLIES, ids=str)
async def test_the_record_that_applies_is_tried(site: Site, stored: tuple[Scope, ...], owner: Scope) -> None:
    for scope in stored:
        await site.ask(scope, "POST", CONFIG, rafay(from_address="noreply@example.com"))
    assert (await site.ask(DEV, "POST", VERIFICATION, test_mail())).status_code == 200
    [(config, scope, _)] = site.verifier.asked
    assert (config.scope, scope) == (owner, DEV)


async def test_where_none_applies_the_answer_says_what_to_do(site: Site) -> None:
    answer = await site.ask(ACME, "POST", VERIFICATION, test_mail())
    assert answer.status_code == 409
    assert "POST /event/v1/email/config" in answer.json()["detail"]
    assert site.verifier.asked == []


SENDERS = [
    ("the record's From", {"from_address": "noreply@example.com"}, "noreply@EXAMPLE.com", 200),
    ("the user, where that is an address", {}, "relay@example.com", 200),
    ("an admitted address", {"allowed_from": ["a@b.example"]}, "a@b.example", 200),
    ("an admitted domain", {"allowed_from": ["@b.example"]}, "any@b.example", 200),
    ("another address", {"allowed_from": ["a@b.example"]}, "ceo@acme.example", 422),
    ("a record without a sender", {"username": "relay"}, "noreply@example.com", 422),
]


@pytest.mark.parametrize(("record", "sender", "status"), [row[1:] for row in SENDERS], ids=[row[0] for row in SENDERS])
async def test_by_a_wider_scopes_server_only_admitted_senders(
    site: Site, record: dict[str, Any], sender: str, status: int
) -> None:
    await site.ask(ACME, "POST", CONFIG, rafay(**record))
    answer = await site.ask(DEV, "POST", VERIFICATION, test_mail(sender_email=sender))
    assert (answer.status_code, paths(answer)) == (status, [] if status == 200 else ["sender_email"]), answer.text
    assert len(site.verifier.asked) == (status == 200)
    own = await site.ask(ACME, "POST", VERIFICATION, test_mail(sender_email=sender))
    assert own.status_code == 200, "by the own server any sender may be tried"


UNSAVED = [
    ("with its password", rafay(host="new.example.com", password=OTHER_PASSWORD), 200, OTHER_PASSWORD),
    ("with the stored password", rafay(password=None, retries=1), 200, PASSWORD),
    ("with the stored password at another host", rafay(password=None, host="evil.example"), 422, None),
    ("anonymous", rafay(username=None, password=None), 200, None),
    ("as Palette spells it", {"email_config": {"smtpServer": "p", "smtpPort": 25, "userName": "u", "password": OTHER_PASSWORD}}, 200, OTHER_PASSWORD),
    ("misspelt", rafay(hots="x"), 422, None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "password"), [row[1:] for row in UNSAVED], ids=[row[0] for row in UNSAVED])
async def test_a_record_that_is_not_stored_is_tried(
    site: Site, body: dict[str, Any], status: int, password: str | None
) -> None:
    await site.ask(ACME, "POST", CONFIG, rafay())
    answer = await site.ask(ACME, "POST", VERIFICATION, test_mail(**body))
    assert answer.status_code == status, answer.text
    if status == 200:
        [(config, _, _)] = site.verifier.asked
        assert (config.password.get_secret_value() if config.password else None) == password
    else:
        assert all(path.startswith("email_config.smtp_config.") for path in paths(answer))
    [record] = await site.store.records(ACME)
    assert (record.version, record.fields["host"]) == (1, "smtp.example.com")


async def test_an_org_cannot_try_its_partners_password_at_its_own_server(site: Site) -> None:
    await site.ask(ACME, "POST", CONFIG, rafay())
    answer = await site.ask(DEV, "POST", VERIFICATION, test_mail(**rafay(password=None)))
    assert (answer.status_code, paths(answer)) == (422, ["email_config.smtp_config.password"])


WRONG = [
    ({"sender_email": "me"}, "sender_email"),
    ({"sender_email": "Me <me@example.com>"}, "sender_email"),
    ({"recipient_email": "a@b.example\r\nRCPT TO:<c@d.example>"}, "recipient_email"),
    ({"recipient_email": ["a@b.example"]}, "recipient_email"),
    ({"subject": "Hi\r\nBcc: x@y.example"}, "subject"),
    ({"subject": "x" * 501}, "subject"),
    ({"body": "x" * (100 * 1024 + 1)}, "body"),
    ({"body": "ü" * (51 * 1024)}, "body"),
    ({"body": "a\0b"}, "body"),
    ({"recipients": "a@b.example"}, "recipients"),
]


@pytest.mark.parametrize(("change", "path"), WRONG, ids=[f"{p}-{i}" for i, (_, p) in enumerate(WRONG)])
async def test_a_mail_that_cannot_be_one_is_refused(site: Site, change: dict[str, Any], path: str) -> None:
    await site.ask(ACME, "POST", CONFIG, rafay())
    answer = await site.ask(ACME, "POST", VERIFICATION, test_mail(**change))
    assert answer.status_code == 422
    assert [found.split(".")[0] for found in paths(answer)] == [path]
    assert site.verifier.asked == []


async def test_a_body_may_have_line_breaks_and_100_kilobytes(site: Site) -> None:
    await site.ask(ACME, "POST", CONFIG, rafay())
    body = "line\r\n" * 17000
    assert (await site.ask(ACME, "POST", VERIFICATION, test_mail(body=body))).status_code == 200


class TestTheControllersRecordFromTheEnvironment:
    @pytest.fixture
    def environment(self) -> SmtpConfig:
        return SmtpConfig(
            display_name="environment", host="env.example", port=25, tls="none", from_address="e@e.example"
        )

    async def test_it_is_what_applies(self, site: Site) -> None:
        assert (await site.ask(CONTROLLER, "POST", VERIFICATION, test_mail())).status_code == 200
        refused = await site.ask(ACME, "POST", VERIFICATION, test_mail())
        assert (refused.status_code, paths(refused)) == (422, ["sender_email"])
        admitted = await site.ask(ACME, "POST", VERIFICATION, test_mail(sender_email="e@e.example"))
        assert admitted.status_code == 200
        assert {config.host for config, _, _ in site.verifier.asked} == {"env.example"}

    async def test_it_is_checked_by_its_name(self, site: Site) -> None:
        assert (await site.ask(CONTROLLER, "POST", CHECK, {"name": "environment"})).status_code == 200
        assert (await site.ask(ACME, "POST", CHECK, {"name": "environment"})).status_code == 422


async def test_a_record_is_checked_by_its_fields_or_its_name(site: Site) -> None:
    await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native())
    stages = {"stages": [{"name": "dns", "ok": True}]}
    for body in (
        native(host="new.example"),
        native(recipient="a@b.example"),
        {"name": "relay"},
        rafay(),
        native(password=None, display_name="relay"),
    ):
        answer = await site.ask(ACME, "POST", CHECK, body)
        assert (answer.status_code, answer.json()) == (200, stages), answer.text
    hosts = [config.host for config, _, _ in site.prober.asked]
    assert hosts == ["new.example", *["smtp.example.com"] * 4]
    assert [recipient for _, _, recipient in site.prober.asked] == [None, "a@b.example", None, None, None]
    assert all(config.password.get_secret_value() == PASSWORD for config, _, _ in site.prober.asked)  # type: ignore[union-attr]


UNCHECKED = [
    ({"name": "nope"}, "name"),
    ({"name": 3}, "name"),
    ({"name": "a\0"}, "name"),
    ({"name": "relay", "host": "h"}, "name"),
    ({"recipient": "a@b.example"}, "host"),
    (native(recipient="me"), "recipient"),
    (native(password=None, host="evil.example"), "password"),
    ([], "body"),
]


@pytest.mark.parametrize(("body", "path"), UNCHECKED, ids=str)
async def test_what_cannot_be_checked_is_named(site: Site, body: Any, path: str) -> None:
    await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native())
    answer = await site.ask(ACME, "POST", CHECK, body)
    assert answer.status_code == 422
    assert path in paths(answer)
    assert site.prober.asked == []


async def test_a_scope_has_so_many_trials_a_minute(site: Site) -> None:
    site.rate = Rate(2, 30.0)
    site.application = site.make_application()
    for scope in (ACME, GLOBEX):
        await site.ask(scope, "POST", CONFIG, rafay())
    assert [(await site.ask(ACME, "POST", VERIFICATION, test_mail(sender_email="me"))).status_code] == [422]
    assert (await site.ask(ACME, "POST", VERIFICATION, test_mail())).status_code == 200
    assert (await site.ask(ACME, "POST", CHECK, {"name": "default"})).status_code == 200
    site.clock[0] = 10.5
    for path, body in ((VERIFICATION, test_mail()), (CHECK, {"name": "default"})):
        answer = await site.ask(ACME, "POST", path, body)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "20")
    assert (await site.ask(GLOBEX, "POST", VERIFICATION, test_mail())).status_code == 200, "another's are its own"
    site.clock[0] = 30.0
    assert (await site.ask(ACME, "POST", VERIFICATION, test_mail())).status_code == 200


async def test_few_are_under_way_at_once_and_nobody_waits(site: Site) -> None:
    scopes = (CONTROLLER, ACME, DEV, GLOBEX, LAB)
    for scope in scopes:
        await site.ask(scope, "POST", CONFIG, rafay())
    let_go, entered = asyncio.Event(), asyncio.Semaphore(0)

    async def hold() -> None:
        entered.release()
        await let_go.wait()

    site.verifier.before = hold
    async with asyncio.timeout(30):  # whoever should have been refused is held
        first = [asyncio.create_task(site.ask(ACME, "POST", VERIFICATION, test_mail())) for _ in range(2)]
        for _ in first:
            await entered.acquire()
        assert (await site.ask(ACME, "POST", VERIFICATION, test_mail())).status_code == 429, "two of one scope"
        others = [asyncio.create_task(site.ask(scope, "POST", VERIFICATION, test_mail())) for scope in (DEV, LAB)]
        for _ in others:
            await entered.acquire()
        fifth = await site.ask(GLOBEX, "POST", VERIFICATION, test_mail())
        assert (fifth.status_code, fifth.headers["retry-after"]) == (429, "5")
    let_go.set()
    assert {answer.status_code for answer in await asyncio.gather(*first, *others)} == {200}
    assert (await site.ask(GLOBEX, "POST", VERIFICATION, test_mail())).status_code == 200
