"""Accounts whose owner a mail leads in: the mails go through Postbote itself, and their links work once."""

import re
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest

from tests.integration.conftest import Site
from tests.support.access import request, token_for
from tests.support.process import Postbote

PUBLIC = "https://console.example.com"
ADMIN, COLLEAGUE, NEW_ADDRESS = "ada@tools.example", "bob@tools.example", "ada.l@tools.example"
PASSWORD = "correct horse battery staple"


@pytest.fixture
def running(site: Site, mailbox: Any) -> Iterator[Postbote]:
    """Worker and API with a controller's record of the environment: the mails go to a real Postfix."""
    site.env_extra |= {
        "FW_EVENT_SMTP_SERVER_ADDR": "localhost",
        "FW_EVENT_SMTP_SERVER_PORT": str(mailbox.port_plain),
        "FW_EVENT_SMTP_SERVER_USE_TLS": "false",
        "POSTBOTE_CONTROLLER_FROM_ADDRESS": "noreply@example.com",
        "POSTBOTE_PUBLIC_URL": PUBLIC,
    }
    assert site.token
    with site.worker() as process:
        process.wait_for("consuming")
        yield process
        assert process.terminate() == 0


def link_in(mail: EmailMessage) -> str | None:
    """The one-time link's path in a mail's text part."""
    part = mail.get_body(("plain",))
    assert part is not None
    found = re.search(rf"{re.escape(PUBLIC)}(/auth/links/[A-Za-z0-9_-]+)", part.get_content())
    return None if found is None else found[1]


def test_a_first_admin_comes_in_by_mail_invites_a_colleague_and_changes_address(
    site: Site, running: Postbote, mailbox: Any
) -> None:
    base = running.base_url
    partner = token_for(site.env["POSTBOTE_DATABASE_URL"], "partner:acme")

    def ask(method: str, path: str, token: str | None, body: Any = None, **headers: str) -> tuple[int, Any]:
        status, told, _ = request(method, base + path, token, body, headers)
        return status, told

    def logged_in(email: str) -> dict[str, str]:
        body = {"email": email, "password": PASSWORD}
        status, _, headers = request("POST", f"{base}/auth/login", None, body)
        assert status == 200, email
        return {"Cookie": headers["Set-Cookie"].partition(";")[0]}

    assert ask("POST", "/v1/partners", site.token, {"name": "acme"})[0] == 201
    organization = {"name": "tools", "admin": {"email": ADMIN, "name": "Ada"}}
    assert ask("POST", "/v1/organizations", partner, organization)[0] == 201

    [welcome] = mailbox.wait_for(1)
    assert welcome["To"] in {ADMIN, f"Ada <{ADMIN}>"}
    link = link_in(welcome)
    assert link
    assert ask("GET", link, None)[1]["purpose"] == "set_password"
    assert ask("POST", link, None, {"password": PASSWORD})[0] == 200
    assert ask("POST", link, None, {"password": PASSWORD})[0] == 404, "a link works once"
    ada = logged_in(ADMIN)

    invited = {"email": COLLEAGUE, "name": "Bob", "role": "viewer"}
    assert ask("POST", "/v1/users", None, invited, **ada)[0] == 201
    invitation = mailbox.wait_for(2)[1]
    link = link_in(invitation)
    assert link
    assert ask("POST", link, None, {"password": PASSWORD})[0] == 200
    bob = logged_in(COLLEAGUE)
    assert ask("POST", "/v1/users", None, {**invited, "email": "eve@tools.example"}, **bob)[0] == 403

    [own] = [user for user in ask("GET", "/v1/users", None, **ada)[1]["users"] if user["email"] == ADMIN]
    assert ask("PATCH", f"/v1/users/{own['id']}", None, {"email": NEW_ADDRESS}, **ada)[0] == 202
    told = mailbox.wait_for(4)[2:]
    assert {mail["Delivered-To"] for mail in told} == {ADMIN, NEW_ADDRESS}
    assert [link_in(mail) for mail in told if mail["Delivered-To"] == ADMIN] == [None], "the old one cannot confirm"
    assert ask("GET", "/auth/me", None, **logged_in(ADMIN))[0] == 200, "not effective before it is confirmed"
    [link] = [link_in(mail) for mail in told if mail["Delivered-To"] == NEW_ADDRESS]
    assert link
    assert ask("POST", link, None, {})[0] == 200
    logged_in(NEW_ADDRESS)
    assert ask("POST", "/auth/login", None, {"email": ADMIN, "password": PASSWORD})[0] == 401


def test_without_a_record_that_could_send_the_mail_nobody_is_made(site: Site) -> None:
    partner = token_for(site.env["POSTBOTE_DATABASE_URL"], "partner:acme")
    with Postbote("api", env=site.env) as api:
        base = api.base_url
        assert request("POST", f"{base}/v1/partners", site.token, {"name": "acme"})[0] == 201
        organization = {"name": "tools", "admin": {"email": ADMIN, "name": "Ada"}}
        status, told, _ = request("POST", f"{base}/v1/organizations", partner, organization)
        assert status == 409, told
        assert request("GET", f"{base}/v1/organizations", partner)[1]["organizations"] == []
