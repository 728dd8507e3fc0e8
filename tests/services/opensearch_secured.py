"""A real OpenSearch with its security plugin: HTTPS by a CA of its own, users, roles. Native alone.

`secured_opensearch` starts it when the first test asks for it; it ends with the session. A conftest or a test
module that wants it imports the fixture.
"""

import base64
import json
import secrets
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from tests.services import sessions
from tests.services.opensearch import Native, assembled, native_closed
from tests.services.processes import free_port
from tests.services.ways import ServiceUnavailable

# The only certificate that may do everything, also before there are users.
_CHIEF_DN = "CN=chief,OU=tests,O=postbote"
WORM = "worm-"
"""Indices whose names begin like this and go on with a month take no change at all: see `immutable_indices`."""

_SECURITY = f"""\
plugins.security.ssl.transport.pemcert_filepath: node.pem
plugins.security.ssl.transport.pemkey_filepath: node.key
plugins.security.ssl.transport.pemtrustedcas_filepath: ca.pem
plugins.security.ssl.transport.enforce_hostname_verification: false
plugins.security.ssl.http.enabled: true
plugins.security.ssl.http.clientauth_mode: OPTIONAL
plugins.security.ssl.http.pemcert_filepath: node.pem
plugins.security.ssl.http.pemkey_filepath: node.key
plugins.security.ssl.http.pemtrustedcas_filepath: ca.pem
plugins.security.allow_default_init_securityindex: true
plugins.security.authcz.admin_dn: ["{_CHIEF_DN}"]
plugins.security.restapi.roles_enabled: ["all_access", "security_rest_api_access"]
plugins.security.compliance.immutable_indices: ["{WORM}2*"]
"""


@dataclass(frozen=True)
class Login:
    """A user's name and password."""

    user: str
    password: str = field(repr=False)

    @property
    def header(self) -> str:
        """The value of `Authorization`."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class Authority:
    """The CA, the node's certificate and the chief's, as files below `folder`."""

    folder: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    @property
    def ca_file(self) -> Path:
        """The CA's certificate."""
        return self.folder / "ca.pem"

    def issue(self) -> None:
        """Write the files, unless they are there."""
        if not self.ca_file.exists():
            self.ca.cert_pem.write_to_path(self.ca_file)

            chief = self.ca.issue_cert(
                "localhost", common_name="chief", organization_name="postbote", organization_unit_name="tests"
            )
            _write(chief, self.folder, "chief")
            _write(self.ca.issue_cert("localhost"), self.folder, "node")

    def context(self) -> ssl.SSLContext:
        """A client's, with the chief's certificate."""
        context = ssl.create_default_context(cafile=self.ca_file)
        context.load_cert_chain(self.folder / "chief.pem", self.folder / "chief.key")
        return context


def _write(issued: trustme.LeafCert, folder: Path, name: str) -> None:
    (folder / f"{name}.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    # The plugin reads PKCS #8 alone.
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(key.private_bytes(*form))


@dataclass
class SecuredNative(Native):
    """Our own Java process, with the plugin; it takes requests once its users are read."""

    authority: Authority | None = None

    def _configure(self) -> None:
        assert self.authority is not None
        super()._configure()
        folder = self.node / "config"
        self.authority.issue()
        for each in ("ca.pem", "node.pem", "node.key"):
            shutil.copy(self.authority.folder / each, folder / each)
        with (folder / "opensearch.yml").open("a") as file:
            file.write(_SECURITY)
        if not (folder / "opensearch-security").exists():
            shutil.copytree(self.home / "plugins/opensearch-security/config", folder / "opensearch-security")
            # None of the demonstration's users, whose passwords are known to all.
            users = "_meta: {type: internalusers, config_version: 2}\n"
            (folder / "opensearch-security/internal_users.yml").write_text(users)

    def _answers(self) -> bool:
        assert self.authority is not None
        url = f"https://localhost:{self.port}/_plugins/_security/health"  # 503 until the users are read
        try:
            with _opener(self.authority.context()).open(url, timeout=10) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


def _opener(context: ssl.SSLContext) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))


@dataclass
class SecuredOpenSearch:
    """A server at `url`; `admin` is an operator who may do everything by password."""

    url: str
    authority: Authority
    host: SecuredNative
    admin: Login = field(default_factory=lambda: Login("admin", secrets.token_urlsafe(24)))

    @property
    def ca_file(self) -> Path:
        """The CA that clients have to trust."""
        return self.authority.ca_file

    def start(self) -> None:
        """Start it (again), with its operator."""
        self.host.start()
        self.let_in(self.admin, backend_roles=["admin"])

    def request(
        self, method: str, path: str, body: Any = None, login: Login | None = None, *, kind: str = "application/json"
    ) -> tuple[int, Any]:
        """Ask as `login`, or by the certificate that may do everything; returns the status and the decoded answer."""
        data = body.encode() if isinstance(body, str) else None if body is None else json.dumps(body).encode()
        context = ssl.create_default_context(cafile=self.ca_file) if login else self.authority.context()
        headers = {"Content-Type": kind, **({"Authorization": login.header} if login else {})}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with _opener(context).open(request, timeout=30) as reply:
                return reply.status, json.loads(reply.read() or b"null")
        except urllib.error.HTTPError as error:
            text = error.read()
            error.close()
            return error.code, json.loads(text) if text.startswith(b"{") else text.decode()

    def done(self, method: str, path: str, body: Any = None, login: Login | None = None) -> Any:
        """Like `request`, for what must succeed."""
        status, answer = self.request(method, path, body, login)
        assert status < 300, (method, path, status, answer)
        return answer

    def let_in(self, login: Login, **attributes: Any) -> None:
        """Make a user, or give one another password."""
        body = {"password": login.password, **attributes}
        self.done("PUT", f"/_plugins/_security/api/internalusers/{login.user}", body)


def server() -> SecuredOpenSearch:
    """A server, not started yet; raises ServiceUnavailable where none can be made."""
    missing = native_closed()
    if missing is not None:
        msg = f"an OpenSearch with its security plugin is run natively alone: {missing}"
        raise ServiceUnavailable(msg)
    session, port = sessions.current(), free_port()
    authority = Authority(session.subfolder("authority"))
    node = session.subfolder("opensearch-secured")
    host = SecuredNative(session, port, node, assembled("secured"), authority=authority)
    return SecuredOpenSearch(f"https://localhost:{port}", authority, host)


@pytest.fixture(scope="session")
def secured_opensearch() -> Iterator[SecuredOpenSearch]:
    """The session's secured OpenSearch, started; its memory is given back before the session ends."""
    started = server()
    started.start()
    yield started
    started.host.stop()
