"""Every SMTP endpoint by every principal; what an org without the feature sees; and where a password is not."""

import json
import logging
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
    OPS,
    OTHER_PASSWORD,
    PASSWORD,
    SECRETS,
    TESTS,
    VERIFICATION,
    Site,
    native,
    rafay,
    test_mail,
)
from worker.control.principals import Role
from worker.logs import configure_logging
from worker.store.secrets import new_key

# Every endpoint: method, path, body, and what an admin is answered who has a record and a secret.
ENDPOINTS: list[tuple[str, str, Any, int]] = [
    ("GET", CONFIG, None, 200),
    ("POST", CONFIG, rafay(), 200),
    ("POST", VERIFICATION, test_mail(), 200),
    ("POST", VERIFICATION, test_mail(**rafay(password=OTHER_PASSWORD)), 200),
    ("GET", CONFIGS, None, 200),
    ("POST", CONFIGS, native(display_name="another"), 201),
    ("GET", f"{CONFIGS}/effective", None, 200),
    ("POST", f"{CONFIGS}/check", native(), 200),
    ("POST", f"{CONFIGS}/check", {"name": "default"}, 200),
    ("PUT", f"{CONFIGS}/order", {"names": ["default"]}, 200),
    ("GET", f"{CONFIGS}/default", None, 200),
    ("PUT", f"{CONFIGS}/default", native(password=OTHER_PASSWORD), 200),
    ("GET", f"{CONFIGS}/default/history", None, 200),
    ("POST", f"{CONFIGS}/default/rollback", {"version": 1}, 200),
    ("GET", SECRETS, None, 200),
    ("POST", SECRETS, {"name": "fresh", "value": OTHER_PASSWORD}, 201),
    ("PUT", f"{SECRETS}/kept", {"value": OTHER_PASSWORD}, 200),
    ("DELETE", f"{SECRETS}/kept", None, 200),
    ("DELETE", f"{CONFIGS}/default", None, 200),
    ("DELETE", CONFIG, None, 200),
]
IDS = [f"{method} {path}" for method, path, _, _ in ENDPOINTS]

# What is refused, and holds a password all the same.
MISTAKES: list[tuple[str, str, Any]] = [
    ("POST", CONFIG, rafay(use_tls=False)),
    ("POST", CONFIG, rafay(username=None)),
    ("POST", CONFIG, rafay(port=0)),
    ("POST", CONFIG, rafay(password=[PASSWORD])),
    ("POST", CONFIG, rafay(password=f"{PASSWORD}\n")),
    ("POST", CONFIG, rafay(pasword=PASSWORD)),
    ("POST", CONFIG, rafay(secret="nope")),
    ("POST", CONFIG, {"email_config": PASSWORD}),
    ("POST", CONFIGS, native(dkim_key=PASSWORD)),
    ("POST", CONFIGS, native(ca_bundle=f"-----BEGIN PRIVATE KEY-----{PASSWORD}")),
    ("POST", CONFIGS, native(password=PASSWORD * 200)),
    ("PUT", f"{CONFIGS}/check", native()),
    ("PUT", f"{CONFIGS}/default", native(display_name="other")),
    ("POST", f"{CONFIGS}/check", native(name=PASSWORD)),
    ("POST", VERIFICATION, test_mail(**rafay(use_tls=False))),
    ("POST", VERIFICATION, test_mail(password=PASSWORD)),
    ("POST", SECRETS, {"name": "kept", "value": PASSWORD}),
    ("POST", SECRETS, {"name": "config:x", "value": PASSWORD}),
    ("POST", SECRETS, {"name": "x", "value": f"{PASSWORD}\n"}),
    ("POST", SECRETS, {"name": "x", "value": {"value": PASSWORD}}),
    ("PUT", f"{SECRETS}/nope", {"value": PASSWORD}),
    ("PUT", f"{SECRETS}/kept", {"values": PASSWORD}),
]


async def furnish(site: Site, scope: Scope) -> None:
    """A record and a secret of the scope; made in the store, for an org may be without the feature."""
    own = {"partner": scope.partner, "org": scope.org}
    config = SmtpConfig(
        **own, host="smtp.example.com", port=587, tls="starttls", username="relay@example.com", password=PASSWORD
    )
    await site.store.put(config, TESTS)
    await site.store.create_secret(scope, "kept", PASSWORD, TESTS, shared=False)


def test_the_matrix_has_every_endpoint(site: Site) -> None:
    known = {(method.upper(), path) for path, each in site.application.openapi()["paths"].items() for method in each}
    tried = {(method, _pattern(path)) for method, path, _, _ in ENDPOINTS}
    assert known == tried


def _pattern(path: str) -> str:
    return path.replace("/default", "/{name}").replace("/kept", "/{name}")


@pytest.mark.parametrize(("method", "path", "body", "status"), ENDPOINTS, ids=IDS)
@pytest.mark.parametrize("scope", [CONTROLLER, ACME, DEV], ids=str)
async def test_an_admin_may_and_a_viewer_reads(
    site: Site, scope: Scope, method: str, path: str, body: Any, status: int
) -> None:
    await furnish(site, scope)
    viewed = await site.ask(scope, method, path, body, role=Role.VIEWER)
    assert viewed.status_code == (200 if method == "GET" else 403), viewed.text
    assert site.broadcast.count == 0
    done = await site.ask(scope, method, path, body)
    assert done.status_code == status, done.text


@pytest.mark.parametrize(("method", "path", "body", "_status"), ENDPOINTS, ids=IDS)
async def test_nobody_without_a_principal(site: Site, method: str, path: str, body: Any, _status: int) -> None:
    client = await site.client(ACME)
    for header in ("Bearer nonsense", ""):
        answer = await client.request(method, path, json=body, headers={"Authorization": header})
        assert answer.status_code == 401


@pytest.mark.parametrize(("method", "path", "body", "_status"), ENDPOINTS, ids=IDS)
@pytest.mark.parametrize("role", list(Role), ids=str)
async def test_without_the_feature_each_endpoint_is_a_path_that_never_was(
    site: Site, role: Role, method: str, path: str, body: Any, _status: int
) -> None:
    await furnish(site, OPS)
    unknown = await site.ask(OPS, method, "/v1/never-was", body, role=role)
    for sent in (body, {"nonsense": True}):
        answer = await site.ask(OPS, method, path, sent, role=role)
        assert (answer.status_code, answer.content) == (404, unknown.content)
        assert sorted(answer.headers.items()) == sorted(unknown.headers.items())
    assert [record.version for record in await site.store.records(OPS)] == [1]


async def test_the_feature_switched_off_and_on_again(site: Site) -> None:
    await site.ask(DEV, "POST", CONFIG, rafay())
    await site.people.switch_org_smtp("acme", "dev", TESTS, on=False)
    assert (await site.ask(DEV, "GET", CONFIG)).status_code == 404
    await site.people.switch_org_smtp("acme", "dev", TESTS, on=True)
    assert (await site.ask(DEV, "GET", CONFIG)).status_code == 200


@pytest.mark.parametrize("asker", [GLOBEX, LAB, CONTROLLER], ids=str)
async def test_what_is_not_yours_is_like_what_is_not_there(site: Site, asker: Scope) -> None:
    await furnish(site, ACME)
    for method, path, body, _ in ENDPOINTS:
        if "default" in path or "kept" in path:
            elsewhere = path.replace("default", "never-was").replace("kept", "never-was")
            there = await site.ask(asker, method, path, body)
            nowhere = await site.ask(asker, method, elsewhere, body)
            assert there.status_code == nowhere.status_code
            if there.status_code == 404:
                assert there.content == nowhere.content
    [record] = await site.store.records(ACME)
    assert record.version == 1


async def test_a_password_is_in_no_answer_and_in_no_log(
    site: Site, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging("debug", "json")
    caplog.set_level(logging.DEBUG)
    told = []
    for scope in (CONTROLLER, ACME, DEV):
        await furnish(site, scope)
        for method, path, body in [*MISTAKES, *((m, p, b) for m, p, b, _ in ENDPOINTS)]:
            answer = await site.ask(scope, method, path, body)
            assert answer.status_code < 500, (method, path, answer.text)
            told.append(answer.text + str(answer.headers))
        for method, path, body in MISTAKES:
            assert (await site.ask(scope, method, path, body)).status_code != 200
    heard = [*told, caplog.text, *capfd.readouterr()]
    for secret in (PASSWORD, OTHER_PASSWORD):
        assert [text for text in heard if secret in text] == []
        assert secret.encode() not in site.path.read_bytes()


@pytest.mark.parametrize("keys", [(), (new_key(),)], ids=["no key", "another key"])
async def test_a_key_that_is_missing_is_an_answer_without_a_password(
    site: Site, caplog: pytest.LogCaptureFixture, keys: tuple[str, ...]
) -> None:
    caplog.set_level(logging.DEBUG)
    await furnish(site, ACME)
    site.with_keys(*keys)
    for method, path, body, _ in ENDPOINTS:
        if method == "GET":
            assert (await site.ask(ACME, method, path, body)).status_code == 200, "what is shown needs no key"
    for path, body in ((VERIFICATION, test_mail()), (f"{CONFIGS}/check", {"name": "default"})):
        answer = await site.ask(ACME, "POST", path, body)
        assert (answer.status_code, answer.json()["title"]) == (503, "Secrets unavailable")
    assert PASSWORD not in caplog.text


def test_the_schema_is_json_and_describes_every_body(site: Site) -> None:
    schema = json.loads(json.dumps(site.application.openapi()))
    for path, methods in schema["paths"].items():
        for method, described in methods.items():
            wanted = (method.upper(), path) in {(m, _pattern(p)) for m, p, b, _ in ENDPOINTS if b is not None}
            assert ("requestBody" in described) == wanted, (method, path)
            assert {"401", "403", "404", "503"} <= set(described["responses"])
