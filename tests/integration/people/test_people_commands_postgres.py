"""The commands about people on a real PostgreSQL: its schema is the operator's, the rest is as on SQLite."""

import asyncio
import json

from tests.support.process import run_postbote
from worker.store.database import Store

PASSWORD = "correct-horse-battery-staple"
ROOT = "root@controller.example"


def test_an_old_schema_is_refused_with_its_remedy_and_then_all_is_made(postgres_url):
    env = {"POSTBOTE_DATABASE_URL": postgres_url, "POSTBOTE_ADMIN_PASSWORD": PASSWORD}
    refused = run_postbote("init", "--email", ROOT, env=env)
    assert refused.returncode == 1
    assert "postbote db upgrade" in refused.stderr
    asyncio.run(upgraded(postgres_url))
    for _ in range(2):
        assert run_postbote("init", "--email", ROOT, env=env).returncode == 0
    for command in (
        ("partner", "create", "acme"),
        ("org", "create", "acme/dev", "--admin-email", "admin@dev.example", "--smtp", "on"),
        ("token", "create", "--scope", "org:acme/dev", "--role", "viewer", "--expires", "1d", "--name", "ci"),
    ):
        done = run_postbote(*command, env=env)
        assert done.returncode == 0, done.stderr
    users = json.loads(run_postbote("user", "list", "--json", env=env).stdout)
    assert [(user["email"], user["state"]) for user in users] == [("admin@dev.example", "invited"), (ROOT, "active")]


async def upgraded(url: str) -> None:
    store = Store(url)
    await store.upgrade()
    await store.close()
