"""Schemathesis over the whole OpenAPI, as three principals: no 5xx, and nothing that the document does not say.

The API runs in its embedded form in a network namespace of its own, in which there is nothing but loopback: what
is fuzzed are host names and ports, too, and whatever they lead to stays on this machine.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import packages
from tests.support.access import token_for
from worker.control.principals import Role

PORT = 8025
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
SCRIPT = """
set -eu
ip link set lo up
"$PYTHON" -m worker.cli run --embedded 2> "$FOLDER/api.log" &
api=$!
trap 'kill "$api"; wait "$api"' EXIT
until "$PYTHON" -m worker.cli health --ready > /dev/null; do kill -0 "$api"; done
"$PYTHON" -m schemathesis.cli run "http://127.0.0.1:$POSTBOTE_HTTP_PORT/openapi.json" "$@"
"""
PRINCIPALS = [("controller", Role.ADMIN), ("partner:acme", Role.VIEWER), ("org:acme/tools", Role.ADMIN)]


@pytest.mark.parametrize(("scope", "role"), PRINCIPALS, ids=[f"{scope}-{role}" for scope, role in PRINCIPALS])
def test_no_request_makes_the_api_fail_or_say_what_its_document_does_not(
    scope: str, role: Role, tmp_path: Path
) -> None:
    packages.install(["unshare", "ip"], ["util-linux", "iproute2"])
    token = token_for(f"sqlite:///{tmp_path / 'postbote.db'}", scope, role)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("POSTBOTE_")},
        "PYTHON": sys.executable,
        "FOLDER": str(tmp_path),
        "POSTBOTE_DATA_DIR": str(tmp_path),
        "POSTBOTE_HTTP_PORT": str(PORT),
    }
    alone = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--user", "--map-root-user"]
    options = ["--header", f"Authorization: Bearer {token}", "--checks", ",".join(CHECKS), "--max-examples", "8"]
    options += ["--phases", "examples,coverage,fuzzing", "--seed", "20", "--generation-database", "none"]
    options += ["--continue-on-failure", "--suppress-health-check", "all", "--warnings", "off", "--no-color"]
    done = subprocess.run(
        [*alone, "bash", "-c", SCRIPT, "fuzz", *options],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    log = (tmp_path / "api.log").read_text()
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2000:] + log[-3000:]
    assert "Traceback" not in log
