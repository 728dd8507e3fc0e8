"""`postbote demo`, as a newcomer runs it: in an empty folder, and then once more in the same one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_demo(directory):
    # A controller's server in the environment is a real one: the demo must not mail through it.
    environment = {**os.environ, "COLUMNS": "200", "FW_EVENT_SMTP_SERVER_ADDR": "smtp.invalid"}
    command = [sys.executable, "-m", "worker.cli", "demo", "--directory", str(directory)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo")
    return directory, [run_demo(directory), run_demo(directory)]


@pytest.mark.parametrize("number", [0, 1], ids=["first run", "second run in the same folder"])
def test_the_demo_ends_as_expected_and_tells_who_was_mailed_through_what(runs, number):
    done = runs[1][number]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Not as expected" not in done.stdout
    for fact in (
        r"password\.reset +controller +root@ops\.example +accepted +controller +TLSv1\.3 +1 +250 ",
        r"password\.reset +acme/dev +linus@dev\.acme\.example +accepted +acme/dev +TLSv1\.3 +1 +250 ",
        r"password\.reset +acme/qa +quinn@qa\.acme\.example +accepted +acme +TLSv1\.3 +1 +250 ",
        r"email\.requested +acme +zoë@acme\.example +accepted +acme ",
        r"busy@customer\.example +accepted +acme/dev +TLSv1\.3 +3 +250 ",
        r"acme/qa +gone@customer\.example +refused +acme +TLSv1\.3 +1 +550 5\.1\.1 ",
        r"email\.requested +acme +- +invalid +- +- +1 +data\.subject: ",
        r"30 events, 33 recipients in [\d.]+ s: 31 accepted, 2 refused, 1 invalid; 1 after retries",
        r"postbote run --embedded",
        r"docker compose up",
    ):
        assert re.search(fact, done.stdout), f"{fact}\n{done.stdout}"


def test_each_run_left_its_mails_as_files(runs):
    directory, _ = runs
    mails = [path.read_bytes() for path in (directory / "mails").glob("*.eml")]
    assert len(mails) == 2 * 28
    identities = {re.search(rb"(?im)^Message-ID:\s*(\S+)", mail)[1] for mail in mails}
    assert len(identities) == len(mails)
    assert not any(re.search(rb"(?im)^Bcc:", mail.partition(b"\r\n\r\n")[0]) for mail in mails)
