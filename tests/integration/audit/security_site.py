"""The operator's part over a secured OpenSearch: the sample roles under a prefix of the test's own, and its users."""

import asyncio
import secrets
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.services.opensearch_secured import Login, SecuredOpenSearch
from tests.support.process import run_postbote
from worker.audit.link import OpenSearchAccess

SAMPLES = Path(__file__).parents[3] / "samples/opensearch-security"
ROLES = ("postbote_writer", "postbote_lookup", "postbote_reader")


def _fresh() -> str:
    return secrets.token_urlsafe(24)


@dataclass
class Operator:
    """Who sets up users and roles for the audit under `prefix`, with the files that an operator would use."""

    server: SecuredOpenSearch
    prefix: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:8]}")
    passwords: dict[str, str] = field(default_factory=lambda: {role: _fresh() for role in ROLES})

    def set_up(self) -> None:
        """Roles, their users, and the templates."""
        self.apply("roles")
        logins = [self.login(role) for role in ROLES]
        users = [{"op": "add", "path": f"/{each.user}", "value": {"password": each.password}} for each in logins]
        self.server.done("PATCH", "/_plugins/_security/api/internalusers", users)
        self.apply("roles_mapping")

    def migrate(self) -> None:
        """Install the templates by the command, as the administrator."""
        done = run_postbote("audit", "migrate", env=self.environment(self.server.admin))
        assert done.returncode == 0, done.stderr + done.stdout

    def apply(self, name: str) -> None:
        """Send one of the sample files, its names made this test's."""
        text = (SAMPLES / f"{name}.json").read_text().replace("systemaudit", self.prefix)
        body = text.replace("postbote_", f"{self.prefix}_")
        kind = {"roles_mapping": "rolesmapping"}.get(name, name)
        status, answer = self.server.request("PATCH", f"/_plugins/_security/api/{kind}", body)
        assert status == 200, answer

    def take_role(self, role: str) -> None:
        """Let the user of a role have none."""
        self.server.done("DELETE", f"/_plugins/_security/api/rolesmapping/{self.name(role)}")

    def name(self, role: str) -> str:
        """The test's own name of a role and its user."""
        return role.replace("postbote_", f"{self.prefix}_")

    def login(self, role: str) -> Login:
        return Login(self.name(role), self.passwords[role])

    def access(self, role: str) -> OpenSearchAccess:
        login = self.login(role)
        return OpenSearchAccess(self.server.url, login.user, login.password, self.server.ca_file)

    def writing(self) -> dict[str, Any]:
        """What OpenSearchAudit takes."""
        writer, lookup = self.login("postbote_writer"), self.login("postbote_lookup")
        own = {"user": writer.user, "password": writer.password, "lookup_as": (lookup.user, lookup.password)}
        return {"url": self.server.url, "ca_file": self.server.ca_file, "index_prefix": self.prefix, **own}

    def reading(self) -> dict[str, Any]:
        """What OpenSearchSearch and OpenSearchStats take."""
        login = self.login("postbote_reader")
        own = {"user": login.user, "password": login.password}
        return {"url": self.server.url, "ca_file": self.server.ca_file, "index_prefix": self.prefix, **own}

    def environment(self, login: Login, url: str | None = None) -> dict[str, str]:
        """For a process that is this one user."""
        return {
            "POSTBOTE_OPENSEARCH_URL": url or self.server.url,
            "POSTBOTE_OPENSEARCH_CA_FILE": str(self.server.ca_file),
            "POSTBOTE_OPENSEARCH_USER": login.user,
            "POSTBOTE_OPENSEARCH_PASSWORD": login.password,
            "POSTBOTE_AUDIT_INDEX_PREFIX": self.prefix,
        }

    def three_users(self, url: str | None = None) -> dict[str, str]:
        """For a process with a user for each thing."""
        found = self.environment(self.login("postbote_writer"), url)
        for name in ("lookup", "reader"):
            login = self.login(f"postbote_{name}")
            found |= {
                f"POSTBOTE_OPENSEARCH_{name.upper()}_USER": login.user,
                f"POSTBOTE_OPENSEARCH_{name.upper()}_PASSWORD": login.password,
            }
        return found

    def refresh(self) -> None:
        self.server.done("POST", f"/{self.prefix}-*/_refresh?expand_wildcards=all")

    def stored(self, index: str, document_id: str) -> Any:
        """A document as it lies there."""
        return self.server.done("GET", f"/{index}/_doc/{document_id}")["_source"]

    def clear(self) -> None:
        """Remove indices, templates and pipeline; users and roles end with the server."""
        everything = f"/{self.prefix}*?expand_wildcards=all"
        for path in (everything, f"/_index_template/{self.prefix}*", f"/_ingest/pipeline/{self.prefix}*"):
            self.server.request("DELETE", path)


async def settled(condition: Any, seconds: float = 20.0) -> None:
    """Wait until a condition of ours holds: what OpenSearch knows announces nothing."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)
