"""The request lines of the documented systems, as they stand, by curl, against the real API with a real login."""

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import PATIENCE_S, Site
from tests.services import packages
from tests.support.access import request, token_for

LINES = [
    line
    for line in (Path(__file__).parent / "documented_lines.txt").read_text().splitlines()
    if line.startswith("curl ")
]
PASSWORD = "correct horse battery staple"
PARTNER_ADMIN = "admin@acme.example"


def run_line(line: str, console: str, rsid: str) -> tuple[int, Any]:
    """Run the line until it is not told to wait, as a client is to: an index may be in the making."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        status, body, retry_after = run_once(line, console, rsid)
        if status != 503 or not retry_after or time.monotonic() > deadline:
            return status, body
        time.sleep(float(retry_after))


def run_once(line: str, console: str, rsid: str) -> tuple[int, Any, str]:
    """Run the line by the shell, with nothing added but two words at its end; the status, the JSON and Retry-After."""
    packages.install(["curl"], ["curl"])
    script = f"{line} --silent --show-error --write-out '\\n%{{http_code}} %header{{retry-after}}'"
    done = subprocess.run(
        ["bash", "-c", script],
        env={"CONSOLE": console, "RSID": rsid, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    body, _, words = done.stdout.rpartition("\n")
    status, _, retry_after = words.partition(" ")
    return int(status), json.loads(body), retry_after


def log_in(base: str, email: str, password: str) -> str:
    """Log in over HTTP; returns the session's value."""
    status, _, headers = request("POST", f"{base}/auth/login", body={"email": email, "password": password})
    assert status == 200
    found = re.search(r"rsid=([^;]+);", headers["Set-Cookie"])
    assert found
    return found[1]


@pytest.fixture
def console(site: Site, mailbox: Any) -> Any:
    """The API and a worker with the controller's record from the environment, and a partner's admin."""
    site.env_extra |= {
        "FW_EVENT_SMTP_SERVER_ADDR": "localhost",
        "FW_EVENT_SMTP_SERVER_PORT": str(mailbox.port_plain),
        "FW_EVENT_SMTP_SERVER_USE_TLS": "false",
        "POSTBOTE_CONTROLLER_FROM_ADDRESS": "noreply@example.com",
    }
    token_for(site.env["POSTBOTE_DATABASE_URL"])
    site.run("partner", "create", "acme")
    site.run(
        "user", "add", "--scope", "partner:acme", "--role", "admin", "--email", PARTNER_ADMIN, "--password-stdin",
        stdin=PASSWORD,
    )  # fmt: skip
    with site.worker() as running:
        running.wait_for("consuming")
        yield running.base_url
        assert running.terminate() == 0


def test_the_documented_lines_work_as_they_stand(console: str, mailbox: Any) -> None:
    rsid = log_in(console, PARTNER_ADMIN, PASSWORD)
    posted, shown, deleted, verified, audit, ops_audit = (run_line(line, console, rsid) for line in LINES)
    assert posted[0] == 200
    assert shown[0] == 200
    record = shown[1]["email_config"]["smtp_config"]
    wanted = {"username": "relay@example.com", "host": "smtp.example.com", "port": 587}
    wanted |= {"use_tls": True, "use_insecure": False, "retries": 3}
    assert {name: record[name] for name in wanted} == wanted
    assert "app-password" not in json.dumps([posted, shown, deleted, verified, audit, ops_audit])
    assert (deleted[0], deleted[1]["now_applies"]["scope"]) == (200, "controller")
    assert (verified[0], verified[1]["delivered"]) == (200, True)
    [mail] = mailbox.wait_for(1)
    assert (mail["From"], mail["To"], mail["Subject"]) == ("noreply@example.com", "ops@example.net", "SMTP test")
    assert (audit[0], ops_audit[0]) == (200, 200)
    assert {"total", "records"} <= audit[1].keys()
    assert {"total", "records"} <= ops_audit[1].keys()


def test_without_a_session_each_line_is_refused(console: str) -> None:
    for line in LINES:
        status, problem = run_line(line, console, "made-up")
        assert (status, problem["status"]) == (401, 401), line
