"""What a process loads: a worker holds it for weeks, and a health check pays for it every few seconds."""

import subprocess
import sys

import pytest

from worker.cli_late import ELSEWHERE

_RESOLVED = """
import sys
from typer.main import get_command
from worker.cli import app
assert get_command(app).get_command(None, {command!r})
import {module}
print(*sys.modules)
"""
_OF_THE_STORE = ("sqlalchemy", "alembic", "aiosqlite", "psycopg", "cryptography", "argon2", "worker.store.configs")
_OF_THE_API = ("fastapi", "worker.reception", "worker.api.auth", "worker.audit.search", "schemas.audit_query")
_OF_THE_EMBEDDED_FORM = ("aiosmtpd", "worker.embedded", "worker.demo")
_OF_OPERATORS = ("rich.progress", "worker.rabbit.parked", "worker.delivery.parked")
_OF_SIGNERS = ("dkim",)
_OF_A_WORKER = ("pika", "opensearchpy", "aiohttp", "structlog", "rich", "jinja2", "aiosmtplib", "uvicorn", "worker.app")


def loaded_by(command: str, module: str) -> set[str]:
    """The modules of a process that has found `command` and imported what runs it, with their packages."""
    code = _RESOLVED.format(command=command, module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("command", "module", "unneeded"),
    [
        (
            "worker",
            "worker.app",
            (*_OF_THE_STORE, *_OF_THE_API, *_OF_THE_EMBEDDED_FORM, *_OF_OPERATORS, *_OF_SIGNERS),
        ),
        ("health", "worker.cli_health", (*_OF_A_WORKER, *_OF_THE_STORE, *_OF_THE_API)),
    ],
)
def test_a_command_loads_what_it_needs_and_no_other_command(command, module, unneeded):
    loaded = loaded_by(command, module)
    assert module in loaded
    assert loaded & set(unneeded) == set()
    assert {name for name in loaded if name.startswith("worker.cli_")} <= {"worker.cli_late", module}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_command_of_another_module_is_found_by_its_name_and_listed(name):
    from typer.main import get_command

    from worker.cli import app

    group = get_command(app)
    assert group.get_command(None, name).get_short_help_str()
    assert name in group.list_commands(None)


def test_what_is_misspelt_is_suggested_whatever_module_holds_it():
    from typer.testing import CliRunner

    from worker.cli import app

    assert "Did you mean 'topology'?" in CliRunner().invoke(app, ["topologie"]).output
