"""Every endpoint of the whole application x everybody who may ask it: who gets what.

An endpoint without a row fails a test. A row's first status is that of all outsiders alike.
"""

import re
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Match

from tests.control.api_whole.whole import DEV, LAB, OUTSIDERS, PASSWORD, WHO, Whole
from tests.support.events import make_event
from worker.embedded.certificates import ensure_certificates
from worker.embedded.sink import SmtpSink

RAFAY = {
    "host": "smtp.example.net", "port": 587, "username": "a@example.net", "password": PASSWORD,
    "use_tls": True, "use_insecure": False, "retries": 1,
}  # fmt: skip
NATIVE = {"host": "smtp.example.net", "port": 587, "tls": "starttls", "username": "a@example.net", "password": PASSWORD}
SINK = {"host": "127.0.0.1", "port": "{port}", "tls": "none", "from_address": "a@example.com"}
BY_SINK = {"host": "127.0.0.1", "port": "{port}", "use_tls": False, "use_insecure": False, "retries": 0}
TEST_MAIL = {"sender_email": "a@example.com", "recipient_email": "b@example.com", "subject": "s", "body": "b"}
ORG = {"name": "org{n}", "admin": {"email": "first{n}@x.example"}}
EVENT = make_event("r@example.com", scope={"partner": "acme", "org": "dev"}, id="matrix-{n}")
CONFIG, CONFIGS, SECRETS = "/event/v1/email/config", "/v1/smtp-configs", "/v1/secrets"

# Columns: C controller, P partner, X other partner, O org, L other partner's org, F org with the feature off; small
# letters are viewers, the others admins. N: everybody without a valid principal.
#     method, path, body                                                N    C   c   P   p   X   O   o   L   F
ROWS: list[tuple[str, str, Any, str]] = [
    ("GET", "/openapi.json", None, "200 200 200 200 200 200 200 200 200 200"),
    ("GET", "/healthz", None, "200 200 200 200 200 200 200 200 200 200"),
    ("GET", "/readyz", None, "200 200 200 200 200 200 200 200 200 200"),
    ("GET", "/metrics", None, "401 200 200 404 404 404 404 404 404 404"),
    (
        "POST",
        "/auth/login",
        {"email": "login@who.example", "password": PASSWORD},
        "200 200 200 200 200 200 200 200 200 200",
    ),
    (
        "POST",
        "/auth/login",
        {"email": "nobody{n}@who.example", "password": PASSWORD},
        "401 401 401 401 401 401 401 401 401 401",
    ),
    ("POST", "/auth/logout", None, "204 204 204 204 204 204 204 204 204 204"),
    ("GET", "/auth/me", None, "401 200 200 200 200 200 200 200 200 200"),
    (
        "POST",
        "/auth/password",
        {"current": PASSWORD, "new": f"another {PASSWORD}"},
        "401 204 204 204 204 204 204 204 204 204",
    ),
    ("GET", "/auth/links/{link}", None, "200 200 200 200 200 200 200 200 200 200"),
    ("GET", "/auth/links/no-such-link", None, "404 404 404 404 404 404 404 404 404 404"),
    ("POST", "/auth/links/{link}", {"password": PASSWORD}, "200 200 200 200 200 200 200 200 200 200"),
    ("GET", "/v1/users", None, "401 200 200 200 200 200 200 200 200 200"),
    ("GET", "/v1/users?partner=acme&org=dev", None, "401 200 200 200 200 404 200 200 404 404"),
    ("POST", "/v1/users", {"email": "new{n}@x.example"}, "401 201 403 201 403 201 201 403 201 201"),
    (
        "POST",
        "/v1/users?partner=acme&org=dev",
        {"email": "new{n}@x.example"},
        "401 201 403 201 403 404 201 403 404 404",
    ),
    ("PATCH", "/v1/users/{user}", {"role": "viewer"}, "401 200 403 200 403 200 200 403 200 200"),
    (
        "PATCH",
        "/v1/users/{dev_user}?partner=acme&org=dev",
        {"role": "viewer"},
        "401 200 403 200 403 404 200 403 404 404",
    ),
    ("DELETE", "/v1/users/{user}", None, "401 204 403 204 403 204 204 403 204 204"),
    ("DELETE", "/v1/users/{dev_user}", None, "401 404 403 404 403 404 204 403 404 404"),
    ("GET", "/v1/tokens", None, "401 200 403 200 403 200 200 403 200 200"),
    ("POST", "/v1/tokens", {"name": "t"}, "401 201 403 201 403 201 201 403 201 201"),
    ("DELETE", "/v1/tokens/{token}", None, "401 204 403 204 403 204 204 403 204 204"),
    ("DELETE", "/v1/tokens/{dev_token}", None, "401 404 403 404 403 404 204 403 404 404"),
    ("GET", "/v1/partners", None, "401 200 200 404 404 404 404 404 404 404"),
    ("POST", "/v1/partners", {"name": "p{n}"}, "401 201 403 404 404 404 404 404 404 404"),
    ("GET", "/v1/organizations", None, "401 200 200 200 200 200 200 200 200 200"),
    ("GET", "/v1/organizations?partner=acme", None, "401 200 200 200 200 404 404 404 404 404"),
    ("POST", "/v1/organizations", ORG, "401 422 403 201 403 201 404 404 404 404"),
    ("POST", "/v1/organizations", {**ORG, "partner": "acme"}, "401 201 403 422 403 422 404 404 404 404"),
    ("GET", "/v1/organizations/dev?partner=acme", None, "401 200 200 200 200 404 200 200 404 404"),
    ("PATCH", "/v1/organizations/dev", {"smtp_enabled": True}, "401 422 403 200 403 404 404 404 404 404"),
    ("PATCH", "/v1/organizations/dev?partner=acme", {"smtp_enabled": True}, "401 200 403 200 403 404 404 404 404 404"),
    ("GET", CONFIG, None, "401 200 200 200 200 200 200 200 200 404"),
    ("POST", CONFIG, {"email_config": {"smtp_config": RAFAY}}, "401 200 403 200 403 200 200 403 200 404"),
    ("DELETE", CONFIG, None, "401 200 403 200 403 200 200 403 200 404"),
    (
        "POST",
        f"{CONFIG}/verification",
        {**TEST_MAIL, "email_config": {"smtp_config": BY_SINK}},
        "401 200 403 200 403 200 200 403 200 404",
    ),
    ("GET", CONFIGS, None, "401 200 200 200 200 200 200 200 200 404"),
    ("POST", CONFIGS, {**NATIVE, "display_name": "another{n}"}, "401 201 403 201 403 201 201 403 201 404"),
    ("POST", f"{CONFIGS}/check", SINK, "401 200 403 200 403 200 200 403 200 404"),
    ("GET", f"{CONFIGS}/effective", None, "401 200 200 200 200 200 200 200 200 404"),
    ("GET", f"{CONFIGS}/effective?partner=acme&org=dev", None, "401 200 200 200 200 404 200 200 404 404"),
    ("PUT", f"{CONFIGS}/order", {"names": ["default"]}, "401 200 403 200 403 200 200 403 200 404"),
    ("GET", f"{CONFIGS}/default", None, "401 200 200 200 200 200 200 200 200 404"),
    ("GET", f"{CONFIGS}/nowhere", None, "401 404 404 404 404 404 404 404 404 404"),
    ("PUT", f"{CONFIGS}/default", NATIVE, "401 200 403 200 403 200 200 403 200 404"),
    ("GET", f"{CONFIGS}/default/history", None, "401 200 200 200 200 200 200 200 200 404"),
    ("POST", f"{CONFIGS}/default/rollback", {"version": 1}, "401 200 403 200 403 200 200 403 200 404"),
    ("DELETE", f"{CONFIGS}/default", None, "401 200 403 200 403 200 200 403 200 404"),
    ("GET", SECRETS, None, "401 200 200 200 200 200 200 200 200 404"),
    ("POST", SECRETS, {"name": "fresh", "value": PASSWORD}, "401 201 403 201 403 201 201 403 201 404"),
    ("PUT", f"{SECRETS}/kept", {"value": PASSWORD}, "401 200 403 200 403 200 200 403 200 404"),
    ("PUT", f"{SECRETS}/nowhere", {"value": PASSWORD}, "401 404 403 404 403 404 404 403 404 404"),
    ("DELETE", f"{SECRETS}/kept", None, "401 200 403 200 403 200 200 403 200 404"),
    ("POST", "/v1/events", EVENT, "401 202 403 202 403 403 202 403 403 403"),
    ("GET", "/v1/events/%2Ftests/story", None, "401 200 200 200 200 404 200 200 404 404"),
    ("GET", "/v1/events/story?source=%2Ftests&id=story", None, "401 200 200 200 200 404 200 200 404 404"),
    ("GET", "/event/v1/auditlog", None, "401 200 200 200 200 200 200 200 200 200"),
    ("GET", "/event/v1/auditlog?filter.partner=acme&filter.org=dev", None, "401 200 200 200 200 200 200 200 200 200"),
    ("GET", "/opsauditlogs/", None, "401 200 200 200 200 200 200 200 200 200"),
    ("GET", "/opsauditlogs", None, "401 200 200 200 200 200 200 200 200 200"),
    ("GET", "/v1/stats", None, "401 200 200 200 200 200 200 200 200 200"),
    ("GET", "/v1/never-was", None, "404 404 404 404 404 404 404 404 404 404"),
]
COLUMNS = "CcPpXOoLF"
# Who changes nothing first, and what is about an org of the partner before the partner's admin has changed it.
ORDER = "cpoFLXOPC"


@pytest.fixture
async def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    """A server to try records on, for the rows that do."""
    certificates = ensure_certificates(Path(tmp_path_factory.getbasetemp()) / "tls")
    async with SmtpSink(certificates, accounts={}, plain=True) as sink:
        yield sink.plain_port


def filled(what: Any, values: dict[str, Any]) -> Any:
    """The body or path with its ``{names}`` filled in; one that is a name alone keeps the value's type."""
    match what:
        case dict():
            return {key: filled(value, values) for key, value in what.items()}
        case str() if what[:1] == "{" and what[1:-1] in values:
            return values[what[1:-1]] if what == "{port}" else str(values[what[1:-1]])
        case str():
            return what.format_map(values)
        case _:
            return what


async def asked_by(whole: Whole, who: str, row: tuple[str, str, Any, str], port: int) -> httpx.Response:
    method, path, body, _ = row
    values = {"n": whole.number(), "port": port}
    if "{dev_" in path:
        values |= {f"dev_{name}": value for name, value in (await whole.fresh(DEV)).items()}
    elif "{" in path:
        values |= await whole.fresh(WHO[who][1] if who in WHO else DEV)
    return await whole.ask(who, method, filled(path, values), filled(body, values))


def expected(row: tuple[str, str, Any, str]) -> dict[str, int]:
    outsiders, *others = map(int, row[3].split())
    return {**dict.fromkeys(OUTSIDERS, outsiders), **dict(zip(COLUMNS, others, strict=True))}


@pytest.mark.parametrize("row", ROWS, ids=[f"{r[0]} {r[1]} {list(r[2] or [])}" for r in ROWS])
async def test_who_gets_what(whole: Whole, port: int, row: tuple[str, str, Any, str]) -> None:
    answers = {who: await asked_by(whole, who, row, port) for who in (*OUTSIDERS, *ORDER)}
    assert {who: answer.status_code for who, answer in answers.items()} == expected(row)
    assert len({answers[who].content for who in OUTSIDERS}) == 1 or answers["nobody"].status_code < 400
    for who, answer in answers.items():
        # An answer under /auth/ names no referrer, whatever it is: the path of a link is a secret.
        if answer.status_code == 404 and not row[1].startswith("/auth/"):
            nowhere = await whole.ask(who, row[0], "/v1/never-was")
            assert (answer.content, answer.headers) == (nowhere.content, nowhere.headers), who


def endpoints_of(routes: Iterable[Any]) -> Iterator[Any]:
    for route in routes:
        inner = getattr(route, "original_router", None)
        yield from endpoints_of(inner.routes) if inner is not None else [route]


def endpoint_of(endpoints: list[Any], method: str, path: str) -> tuple[str, str] | None:
    """What answers such a request, as the description names it."""
    scope = {"type": "http", "method": method, "path": path.partition("?")[0], "root_path": ""}
    found = next((each for each in endpoints if each.matches(scope)[0] is Match.FULL), None)
    return None if found is None else (method, found.path_format)


async def test_every_endpoint_has_a_row(whole: Whole) -> None:
    endpoints = list(endpoints_of(whole.application.routes))
    served = {(method, each.path_format) for each in endpoints for method in each.methods - {"HEAD"}}
    described = {
        (method.upper(), path) for path, each in whole.application.openapi()["paths"].items() for method in each
    }
    assert described <= served
    assert served - described == {("GET", "/openapi.json"), ("GET", "/opsauditlogs")}
    tried = {endpoint_of(endpoints, method, path) for method, path, _, _ in ROWS}
    assert served - tried == set()
    assert tried - served == {None}  # the path that never was


async def test_whatever_asks_for_a_principal_says_so_and_the_rest_is_known(whole: Whole) -> None:
    paths = whole.application.openapi()["paths"]
    public = {
        (method.upper(), path) for path, each in paths.items() for method, o in each.items() if "security" not in o
    }
    assert public == {
        ("GET", "/healthz"), ("GET", "/readyz"), ("POST", "/auth/login"), ("POST", "/auth/logout"),
        ("GET", "/auth/links/{value}"), ("POST", "/auth/links/{value}"),
    }  # fmt: skip


# Asked by whom, how, for what is another's, and for what is not there at all.
LAB_EVENT, NO_EVENT = ({"partner": "globex", "org": name} for name in ("lab", "nowhere"))
PAIRS: list[tuple[str, str, str, str, Any]] = [
    ("O", "GET", "/v1/users?partner=acme&org=ops", "/v1/users?partner=acme&org=nowhere", None),
    ("O", "GET", "/v1/users?partner=globex", "/v1/users?partner=nobody", None),
    ("P", "GET", "/v1/users?partner=globex&org=lab", "/v1/users?partner=globex&org=nowhere", None),
    ("X", "GET", "/v1/users?partner=acme&org=dev", "/v1/users?partner=nobody&org=dev", None),
    ("O", "POST", "/v1/users?partner=globex&org=lab", "/v1/users?partner=globex&org=nowhere", {"email": "a@x.example"}),
    ("O", "PATCH", "/v1/users/{their_user}", "/v1/users/{no_id}", {"role": "viewer"}),
    ("P", "PATCH", "/v1/users/{their_user}", "/v1/users/{no_id}", {"role": "viewer"}),
    ("O", "DELETE", "/v1/users/{their_user}", "/v1/users/{no_id}", None),
    ("O", "DELETE", "/v1/tokens/{their_token}", "/v1/tokens/{no_id}", None),
    ("P", "DELETE", "/v1/tokens/{their_token}", "/v1/tokens/{no_id}", None),
    ("O", "GET", "/v1/organizations/ops", "/v1/organizations/nowhere", None),
    ("X", "GET", "/v1/organizations/dev", "/v1/organizations/nowhere", None),
    ("X", "GET", "/v1/organizations/dev?partner=acme", "/v1/organizations/dev?partner=nobody", None),
    ("X", "PATCH", "/v1/organizations/dev?partner=acme", "/v1/organizations/dev?partner=nobody", {"smtp_enabled": True}),
    ("O", "GET", f"{CONFIGS}/effective?partner=acme&org=ops", f"{CONFIGS}/effective?partner=acme&org=nowhere", None),
    ("X", "GET", f"{CONFIGS}/effective?partner=acme", f"{CONFIGS}/effective?partner=nobody", None),
    *(
        (who, method, f"{CONFIGS}/of-{theirs}{rest}", f"{CONFIGS}/nowhere{rest}", body)
        for who, theirs in (("O", "acme"), ("O", "ops"), ("O", "controller"), ("P", "globex"), ("P", "dev"), ("X", "dev"))
        for method, rest, body in (
            ("GET", "", None),
            ("DELETE", "", None),
            ("GET", "/history", None),
            ("POST", "/rollback", {"version": 1}),
        )
    ),
    *(
        (who, method, f"{SECRETS}/of-{theirs}", f"{SECRETS}/nowhere", body)
        for who, theirs in (("O", "acme"), ("O", "ops"), ("P", "dev"), ("X", "dev"), ("C", "acme"))
        for method, body in (("PUT", {"value": PASSWORD}), ("DELETE", None))
    ),
    ("O", "GET", "/v1/events/%2Ftests/story-of-lab", "/v1/events/%2Ftests/nowhere", None),
    ("P", "GET", "/v1/events/story?source=/tests&id=story-of-lab", "/v1/events/story?source=/tests&id=nowhere", None),
    ("O", "GET", "/event/v1/auditlog?filter.partner=globex", "/event/v1/auditlog?filter.partner=nobody", None),
    ("O", "GET", "/opsauditlogs/?eventid=story-of-lab", "/opsauditlogs/?eventid=nowhere", None),
    ("O", "GET", "/opsauditlogs/?config=of-controller", "/opsauditlogs/?config=nowhere", None),
    ("P", "GET", "/opsauditlogs/?config=of-controller", "/opsauditlogs/?config=nowhere", None),
    ("O", "GET", "/opsauditlogs/?timefrom=now-1h&text=INTERNALWORDS", "/opsauditlogs/?timefrom=now-1h&text=nowhere", None),
    ("P", "GET", "/opsauditlogs/?timefrom=now-1h&text=INTERNALWORDS", "/opsauditlogs/?timefrom=now-1h&text=nowhere", None),
]  # fmt: skip


@pytest.mark.parametrize("who", sorted({pair[0] for pair in PAIRS}), ids=lambda letter: WHO[letter][0])
async def test_what_is_anothers_looks_like_what_is_not_there(whole: Whole, who: str) -> None:
    lab = await whole.fresh(LAB)
    values = {"their_user": lab["user"], "their_token": lab["token"], "no_id": uuid.uuid4()}
    for method, theirs, nothing, body in (pair[1:] for pair in PAIRS if pair[0] == who):
        answers = [await whole.ask(who, method, path.format_map(values), body) for path in (theirs, nothing)]
        found = [
            (answer.status_code, *in_common(answer, path))
            for answer, path in zip(answers, (theirs, nothing), strict=True)
        ]
        assert found[0] == found[1], (method, theirs)
        if theirs.startswith(("/opsauditlogs", "/event/v1/auditlog")):
            assert answers[0].json()["records"] == [], theirs


def in_common(answer: httpx.Response, path: str) -> tuple[str, dict[str, str]]:
    """An answer without what the asker said itself, and without the milliseconds that it took."""
    name = path.partition("?")[0].rsplit("/")[3] if path.startswith((CONFIGS, SECRETS)) else "-"
    text = re.sub(r'"took_ms":\d+', '"took_ms":0', answer.text).replace(name, "NAME")
    return text, {n: v for n, v in answer.headers.items() if n != "content-length"}


async def test_a_user_of_an_org_cannot_send_for_another_one_whether_or_not_it_is_there(whole: Whole) -> None:
    answers = [
        await whole.ask("O", "POST", "/v1/events", make_event("r@example.com", scope=scope, id="e"))
        for scope in (LAB_EVENT, NO_EVENT)
    ]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert (answers[0].content, answers[0].headers) == (answers[1].content, answers[1].headers)


HOST = "smtp.controller.internal"
# How many records each finds; the controller's are told the server, the others are not.
FOUND = {"C": 2, "c": 2, "P": 1, "p": 1, "O": 1, "o": 1, "X": 1, "L": 1, "F": 0}


@pytest.mark.parametrize(
    "path",
    [
        "/event/v1/auditlog?filter.type=email.delivery",
        "/opsauditlogs?type=email.delivery",
        "/opsauditlogs/?source=/tests",
    ],
)
async def test_mail_by_the_controllers_record_tells_a_tenant_nothing_of_its_server(whole: Whole, path: str) -> None:
    for who, records in FOUND.items():
        answer = await whole.ask(who, "GET", path)
        assert answer.json()["total"] == records, who
        for word in (HOST, "of-controller", "INTERNALWORDS"):
            assert (word in answer.text) is (who in "Cc"), (who, word)
        assert ('"code":250' in answer.text) is (records > 0), who


async def test_nor_does_the_story_of_one(whole: Whole) -> None:
    for who in "CPOo":
        answer = await whole.ask(who, "GET", "/v1/events/story?source=/tests&id=story")
        assert answer.status_code == 200
        told = (HOST in answer.text, "INTERNALWORDS" in answer.text)
        assert told == (who == "C", who == "C"), who
