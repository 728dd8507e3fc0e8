"""/event/v1/email/config: the documented requests, by the scope of whoever asks."""

from typing import Any

import pytest

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
    TESTS,
    Site,
    native,
    paths,
    rafay,
)
from worker.store.secrets import new_key

DOCUMENTED = (
    '{ "email_config": { "smtp_config": { "username": "relay@example.com", "password": "app-password", '
    '"host": "smtp.example.com", "port": 587, "use_tls": true, "use_insecure": false, "retries": 3 } } }'
)
AT = "email_config.smtp_config"


async def password_of(site: Site, scope: Scope, name: str = "default") -> str | None:
    config = await site.store.opened(scope, name)
    assert config is not None
    return config.password.get_secret_value() if config.password else None


@pytest.mark.parametrize("scope", [CONTROLLER, ACME, DEV], ids=str)
async def test_the_documented_line_stores_the_record_of_whoever_asks(site: Site, scope: Scope) -> None:
    client = await site.client(scope)
    form = {"content-type": "application/x-www-form-urlencoded"}  # what curl says with --data-raw
    answer = await client.post(CONFIG, content=DOCUMENTED, headers=form)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    shown = told["email_config"]["smtp_config"]
    documented = {"username": "relay@example.com", "host": "smtp.example.com", "port": 587}
    documented |= {"use_tls": True, "use_insecure": False, "retries": 3, "password_set": True}
    assert {name: shown[name] for name in documented} == documented
    assert (told["scope"], told["version"], told["warnings"], told["notices"]) == (str(scope), 1, [], [])
    assert answer.headers["etag"] == '"1"'
    again = await client.get(CONFIG)
    assert (again.status_code, again.json(), again.headers["etag"]) == (200, told, '"1"')
    assert await password_of(site, scope) == "app-password"
    [record] = await site.store.records(scope)
    assert (record.name, record.is_default) == ("default", True)
    assert site.broadcast.count == 1


async def test_each_scope_has_its_own_record(site: Site) -> None:
    for scope, host in ((CONTROLLER, "c.example"), (ACME, "a.example"), (DEV, "d.example"), (LAB, "l.example")):
        assert (await site.ask(scope, "POST", CONFIG, rafay(host=host))).status_code == 200
    for scope, host in ((CONTROLLER, "c.example"), (ACME, "a.example"), (DEV, "d.example"), (LAB, "l.example")):
        assert (await site.ask(scope, "GET", CONFIG)).json()["email_config"]["smtp_config"]["host"] == host
    assert (await site.ask(GLOBEX, "GET", CONFIG)).status_code == 404


async def test_the_scopes_default_is_meant_whatever_it_is_called(site: Site) -> None:
    for name in ("relay-a", "relay-b"):
        assert (await site.ask(ACME, "POST", CONFIGS, native(display_name=name))).status_code == 201
    await site.ask(ACME, "PUT", f"{CONFIGS}/order", {"names": ["relay-b", "relay-a"]})
    answer = await site.ask(ACME, "POST", CONFIG, rafay(retries=5))
    assert answer.json()["email_config"]["smtp_config"]["display_name"] == "relay-b"
    wrong = await site.ask(ACME, "POST", CONFIG, rafay(display_name="relay-a"))
    assert (wrong.status_code, paths(wrong)) == (422, [f"{AT}.display_name"])


KEPT = [
    ("nothing else", {}, 200),
    ("other retries", {"retries": 7}, 200),
    ("another From", {"from_address": "a@example.com"}, 200),
    ("another host", {"host": "evil.example.net"}, 422),
    ("another port", {"port": 465}, 422),
    ("another user", {"username": "somebody"}, 422),
]


@pytest.mark.parametrize(("change", "status"), [row[1:] for row in KEPT], ids=[row[0] for row in KEPT])
async def test_without_a_password_the_stored_one_stays_at_its_server(
    site: Site, change: dict[str, Any], status: int
) -> None:
    await site.ask(ACME, "POST", CONFIG, rafay())
    answer = await site.ask(ACME, "POST", CONFIG, rafay(**{"password": None, **change}))
    assert answer.status_code == status, answer.text
    assert paths(answer) == ([] if status == 200 else [f"{AT}.password"])
    assert await password_of(site, ACME) == PASSWORD
    host = (await site.ask(ACME, "GET", CONFIG)).json()["email_config"]["smtp_config"]["host"]
    assert host == "smtp.example.com"


async def test_a_user_without_a_password_needs_a_stored_one(site: Site) -> None:
    answer = await site.ask(ACME, "POST", CONFIG, rafay(password=None))
    assert (answer.status_code, paths(answer)) == (422, [f"{AT}.password"])
    assert (await site.ask(ACME, "GET", CONFIG)).status_code == 404
    assert site.broadcast.count == 0


async def test_an_anonymous_record_is_saved_with_warnings_that_stay(site: Site) -> None:
    body = rafay(username=None, password=None, use_insecure=True)
    for answer in (await site.ask(ACME, "POST", CONFIG, body), await site.ask(ACME, "GET", CONFIG)):
        assert answer.status_code == 200
        anonymous, unverified = answer.json()["warnings"]
        assert anonymous.startswith("anonymous")
        assert unverified.startswith("verify_tls is off")
        assert answer.json()["email_config"]["smtp_config"]["password_set"] is False


async def test_an_answer_may_be_sent_back_changed(site: Site) -> None:
    await site.ask(ACME, "POST", CONFIGS, native(display_name="main", tls="ssl", port=587, allowed_from=["@a.example"]))
    shown = (await site.ask(ACME, "GET", CONFIG)).json()
    shown["email_config"]["smtp_config"]["retries"] = 9
    answer = await site.ask(ACME, "POST", CONFIG, shown)
    assert answer.status_code == 200, answer.text
    now = answer.json()
    assert now["email_config"]["smtp_config"] == shown["email_config"]["smtp_config"]
    assert (now["version"], await password_of(site, ACME, "main")) == (2, PASSWORD)


async def test_palettes_and_harness_bodies_are_taken_here_too(site: Site) -> None:
    palette = {"smtpServer": "p.example", "smtpPort": "465", "fromEmailId": "a@p.example", "userName": "u"}
    answer = await site.ask(ACME, "POST", CONFIG, {**palette, "password": PASSWORD, "insecureSkipVerifyTls": True})
    shown = answer.json()["email_config"]["smtp_config"]
    assert (shown["tls"], shown["use_insecure"], shown["from_address"]) == ("ssl", True, "a@p.example")
    harness = {"host": "h.example", "port": 465, "useSSL": True, "startTLS": True, "username": "u", "password": "x" * 9}
    answer = await site.ask(ACME, "POST", CONFIG, harness)
    assert [notice for notice in answer.json()["notices"] if "both on" in notice]


REFUSED = [
    ("no JSON", b"{", 400, []),
    ("a list", [], 422, ["body"]),
    ("an unknown field", rafay(use_tsl=True), 422, [f"{AT}.use_tsl"]),
    ("credentials in clear", rafay(use_tls=False), 422, [f"{AT}.use_tls"]),
    ("a password alone", rafay(username=None), 422, [f"{AT}.password"]),
    ("a reference of a partner", rafay(password=None, password_ref="env:HOME"), 422, [f"{AT}.password_ref"]),
    ("a secret that is not there", rafay(password=None, secret="nope"), 422, [f"{AT}.secret"]),
    ("a signature without a key", rafay(dkim_domain="a.example", dkim_selector="s"), 422, [f"{AT}.dkim_key"]),
    ("a key that cannot sign", rafay(dkim_domain="a.example", dkim_selector="s", dkim_key="-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----"), 422, [f"{AT}.dkim_key"]),
    ("a megabyte and more", b" " * (1 << 20) + b"{}", 413, []),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "at"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_what_cannot_be_saved_is_named(site: Site, body: Any, status: int, at: list[str]) -> None:
    client = await site.client(ACME)
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = await client.post(CONFIG, **content)
    assert (answer.status_code, paths(answer)) == (status, at), answer.text
    assert PASSWORD not in answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert await site.store.records(ACME) == ()


DELETED = [
    ("nothing wider", (DEV,), None),
    ("a partner's", (DEV, ACME), "partner"),
    ("the controller's", (DEV, CONTROLLER), "controller"),
    ("both", (DEV, ACME, CONTROLLER), "partner"),
    ("another partner's", (DEV, GLOBEX), None),
]


@pytest.mark.parametrize(("stored", "applies"), [row[1:] for row in DELETED], ids=[row[0] for row in DELETED])
async def test_a_delete_says_whose_record_applies_now(
    site: Site, stored: tuple[Scope, ...], applies: str | None
) -> None:
    for scope in stored:
        await site.ask(scope, "POST", CONFIG, rafay(host=f"{scope.level}.example"))
    answer = await site.ask(DEV, "DELETE", CONFIG)
    deleted = {"scope": "org:acme/dev", "display_name": "default"}
    assert (answer.status_code, answer.json()) == (200, {"deleted": deleted, "now_applies": {"scope": applies}})
    words = "a wider scope's record applies" if applies else "none applies"
    for method in ("GET", "DELETE"):
        gone = await site.ask(DEV, method, CONFIG)
        assert gone.status_code == 404
        assert gone.json()["detail"].endswith(words)
        assert "example" not in gone.text
    assert len(await site.store.records(stored[-1])) == (stored[-1] != DEV)


async def test_after_a_delete_the_scopes_next_record_applies(site: Site) -> None:
    await site.ask(ACME, "POST", CONFIG, rafay())
    await site.ask(ACME, "POST", CONFIGS, native(display_name="second"))
    answer = await site.ask(ACME, "DELETE", CONFIG)
    assert answer.json()["now_applies"] == {"scope": "partner"}
    assert (await site.ask(ACME, "GET", CONFIG)).json()["email_config"]["smtp_config"]["display_name"] == "second"


async def test_a_stale_write_is_refused_with_the_version_there_is(site: Site) -> None:
    await site.ask(ACME, "POST", CONFIG, rafay())
    await site.ask(ACME, "POST", CONFIG, rafay(retries=4), if_match='"1"')
    for method, body in (("POST", rafay(retries=5)), ("DELETE", None)):
        stale = await site.ask(ACME, method, CONFIG, body, if_match='"1"')
        assert (stale.status_code, stale.headers["etag"], paths(stale)) == (412, '"2"', ["If-Match"])
    assert (await site.ask(ACME, "POST", CONFIG, rafay(), if_none_match="*")).status_code == 412
    assert (await site.ask(ACME, "GET", CONFIG)).json()["email_config"]["smtp_config"]["retries"] == 4


async def test_a_record_whose_password_no_key_opens_is_still_shown_replaced_and_deleted(site: Site) -> None:
    await site.ask(ACME, "POST", CONFIG, rafay())
    site.with_keys(new_key())
    assert (await site.ask(ACME, "GET", CONFIG)).status_code == 200
    assert (await site.ask(ACME, "POST", CONFIG, rafay(password=OTHER_PASSWORD))).status_code == 200
    assert (await site.ask(ACME, "DELETE", CONFIG)).status_code == 200


class TestTheControllersRecordFromTheEnvironment:
    @pytest.fixture
    def environment(self) -> SmtpConfig:
        return SmtpConfig(
            display_name="environment",
            host="env.example.com",
            port=587,
            tls="starttls",
            username="controller",
            password=PASSWORD,
        )

    async def test_it_is_shown_read_only_and_without_its_password(self, site: Site) -> None:
        shown = (await site.ask(CONTROLLER, "GET", CONFIG)).json()
        assert shown["read_only"] is True
        smtp = shown["email_config"]["smtp_config"]
        assert (smtp["host"], smtp["password_set"]) == ("env.example.com", True)
        listed = (await site.ask(CONTROLLER, "GET", CONFIGS)).json()["smtp_configs"]
        assert [(each["display_name"], each["read_only"]) for each in listed] == [("environment", True)]
        one = (await site.ask(CONTROLLER, "GET", f"{CONFIGS}/environment")).json()
        assert one["host"] == "env.example.com"
        for told in (shown, listed, one):
            assert PASSWORD not in str(told)

    CHANGES = (
        ("POST", CONFIG, rafay()),
        ("DELETE", CONFIG, None),
        ("POST", CONFIGS, native()),
        ("PUT", f"{CONFIGS}/default", native()),
        ("DELETE", f"{CONFIGS}/default", None),
        ("PUT", f"{CONFIGS}/order", {"names": ["default"]}),
        ("POST", f"{CONFIGS}/default/rollback", {"version": 1}),
    )

    @pytest.mark.parametrize(("method", "path", "body"), CHANGES, ids=lambda value: str(value)[:40])
    async def test_a_change_is_refused_and_the_variables_are_named(
        self, site: Site, method: str, path: str, body: Any
    ) -> None:
        await site.store.put(SmtpConfig(host="stored.example", port=25, tls="none"), TESTS)
        answer = await site.ask(CONTROLLER, method, path, body)
        assert answer.status_code == 409
        for variable in ("FW_EVENT_SMTP_SERVER_ADDR", "FW_EVENT_SMTP_SERVER_PASSWORD", "POSTBOTE_CONTROLLER_"):
            assert variable in answer.json()["detail"]
        assert [record.version for record in await site.store.records(CONTROLLER)] == [1]

    async def test_partners_and_orgs_are_free_to_have_their_own(self, site: Site) -> None:
        for scope in (ACME, DEV):
            assert (await site.ask(scope, "POST", CONFIG, rafay())).status_code == 200
        assert (await site.ask(ACME, "DELETE", CONFIG)).json()["now_applies"] == {"scope": "controller"}
        assert "wider" in (await site.ask(ACME, "GET", CONFIG)).json()["detail"]
