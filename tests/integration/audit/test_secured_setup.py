"""The lines of docs/opensearch.md that set up users and roles, as they stand, against the real security plugin."""

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.integration.audit.security_site import ROLES, Operator
from tests.services import packages
from tests.services.opensearch_secured import Login
from tests.unit.audit.audit_samples import audit_record
from worker.audit.opensearch import OpenSearchAudit

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs/opensearch.md").read_text()
OWN = {"writer": "POSTBOTE_OPENSEARCH_PASSWORD", "lookup": "POSTBOTE_OPENSEARCH_LOOKUP_PASSWORD"}
OWN["reader"] = "POSTBOTE_OPENSEARCH_READER_PASSWORD"


def shell_lines(text):
    """What is indented, without the indentation."""
    return "\n".join(line.removeprefix("    ") for line in text.splitlines() if line.startswith("    "))


def variables(server, passwords):
    """The first lines, with this server's host and CA and with passwords for the dots: nothing else is another."""
    lines = shell_lines(DOCUMENT.partition("## Setting it up")[0])
    lines = lines.replace("https://opensearch:9200", server.url)
    lines = lines.replace("/etc/postbote/opensearch-ca.pem", str(server.ca_file))
    for role, name in OWN.items():
        lines = lines.replace(f"{name}=...", f"{name}={passwords[f'postbote_{role}']}")
    assert "..." not in lines
    return lines


def setting_up():
    """The lines of "Setting it up", with nothing changed."""
    return shell_lines(re.split("^## ", DOCUMENT, flags=re.MULTILINE)[1])


class Documented(Operator):
    """Whose users and roles are called as they are in the document."""

    def name(self, role):
        return role


@pytest.fixture
def operator(secured_opensearch):
    """With a prefix of its own, and nothing set up."""
    packages.install(["curl"], ["curl"])
    found = Documented(secured_opensearch, f"setup-{uuid.uuid4().hex[:8]}")
    yield found
    found.clear()
    for kind in ("rolesmapping", "internalusers", "roles"):
        for role in ROLES:
            found.server.request("DELETE", f"/_plugins/_security/api/{kind}/{role}")


def run_lines(operator):
    """Run them as an operator does, in a bash in the project's folder; the first that fails ends them."""
    admin = operator.server.admin
    return subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", f"{variables(operator.server, operator.passwords)}\n{setting_up()}"],
        cwd=ROOT,
        env={
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "ADMIN": admin.user,
            "ADMIN_PASSWORD": admin.password,
            "POSTBOTE_AUDIT_INDEX_PREFIX": operator.prefix,
        },
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


async def test_the_lines_as_they_stand_give_the_three_users_their_roles_and_the_audit_works_with_them(operator):
    done = run_lines(operator)
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(re.findall(r'"status":"(?:OK|CREATED)"', done.stdout)) == 5, done.stdout
    for role in ROLES:
        known = operator.server.done("GET", "/_plugins/_security/authinfo", login=operator.login(role))
        assert (known["user_name"], set(known["roles"])) == (role, {"own_index", role})

    audit, record = OpenSearchAudit(**operator.writing()), audit_record(event_id="set up")
    await audit.write([record])
    assert await audit.recorded({record.document_id: record.index_month}) == {record.document_id}
    await audit.close()
    operator.refresh()
    search = ("POST", f"/{operator.prefix}-*/_search", {"query": {"match_all": {}}})
    statuses = {role: operator.server.request(*search, operator.login(role))[0] for role in ROLES}
    assert statuses == {"postbote_writer": 403, "postbote_lookup": 403, "postbote_reader": 200}


def test_lines_with_another_password_of_the_administrator_end_with_the_first_and_say_so(operator):
    operator.server.admin, right = Login(operator.server.admin.user, "not-the-password"), operator.server.admin
    try:
        done = run_lines(operator)
    finally:
        operator.server.admin = right
    assert (done.returncode, "401" in done.stderr) == (22, True)
    assert operator.server.request("GET", "/_plugins/_security/api/roles/postbote_writer")[0] == 404
