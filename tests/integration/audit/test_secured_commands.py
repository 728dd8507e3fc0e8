"""The commands that change the audit, under the real security plugin: the administrator's, and nobody else's."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from tests.integration.audit.commands import environment, run, run_json, run_well
from tests.integration.audit.older_templates import template_of
from tests.integration.audit.security_site import ROLES, Operator
from tests.unit.audit.audit_samples import audit_record
from worker.audit.index_template import VERSION
from worker.audit.opensearch import OpenSearchAudit
from worker.delivery.privacy import Privacy, RecipientMode
from worker.proof.chain import Chain
from worker.proof.sealed import SealedAudit
from worker.rabbit.publisher import Publisher

OLD, KEPT = datetime(2024, 2, 10, tzinfo=UTC), datetime(2025, 11, 21, tzinfo=UTC)
KEY = "a key of the tests of some length, no secret"
OPHELIA = "ophelia@example.com"
MIGRATE = ("audit", "migrate")
# From the last day of 2024 back, whatever day it is today.
AGE = f"{(datetime.now(UTC) - datetime(2025, 1, 1, tzinfo=UTC)).days}d"
PRUNE = ("audit", "prune", "--older-than", AGE, "--yes")
FORGET = ("audit", "forget", "--recipient", OPHELIA, "--yes")
# By command, the first permission that it misses: nothing was done before.
REFUSED = {MIGRATE: "indices:admin/index_template/", PRUNE: "indices:admin/get", FORGET: "indices:admin/refresh"}
DEEDS = ("audit", "search", "--since", "1d", "--type", "audit.changed", "--json")


@pytest.fixture(scope="module")
def operator(secured_opensearch):
    """With two months as a Postbote of before version 3 made them."""
    found = Operator(secured_opensearch)
    found.set_up()
    found.server.done("PUT", f"/_index_template/{found.prefix}-v2", template_of(2, found.prefix))
    for month in ("2024.02", "2025.11"):
        found.server.done("PUT", f"/{found.prefix}-{month}")
    asyncio.run(fill(found))
    yield found
    found.clear()


@pytest.fixture
async def env(operator, amqp_url, tmp_path):
    """Of a host with the three users exported; RabbitMQ has a worker's queues."""
    publisher = await Publisher(amqp_url, "test").start(declare=True)
    await publisher.close()
    more = {
        "POSTBOTE_AMQP_URL": amqp_url,
        "POSTBOTE_DATABASE_URL": f"sqlite:///{tmp_path / 'postbote.db'}",
        "POSTBOTE_AUDIT_HASH_KEY": KEY,
    }
    return environment(operator.server.url, operator.prefix, **operator.three_users(), **more)


async def fill(operator):
    """20 records in each month, a chain over both; half of each month's are of the same person."""
    admin = operator.server.admin
    audit = OpenSearchAudit(**{**operator.writing(), **vars(admin), "lookup_as": None})
    sealed = SealedAudit(audit, Chain("worker-1/1"), privacy=Privacy(RecipientMode.PLAIN, KEY.encode()))
    people = [OPHELIA if n % 4 < 2 else f"user{n}@example.org" for n in range(40)]
    records = [audit_record(n, event_time=OLD if n % 2 else KEPT, recipient=whom) for n, whom in enumerate(people)]
    await sealed.write(records)
    await sealed.close(60)  # the proofs' index is made by it
    await audit.close()


def acting_as(env, login):
    """How the document runs a command: the user given before it, and the others as they are exported."""
    return {**env, "POSTBOTE_OPENSEARCH_USER": login.user, "POSTBOTE_OPENSEARCH_PASSWORD": login.password}


def everything(operator):
    """All that a command could leave half done: records, indices with their blocks, templates, pipeline."""
    server, prefix = operator.server, operator.prefix
    operator.refresh()
    found = server.done("POST", f"/{prefix}-*/_search?expand_wildcards=all&size=1000&version=true", {})
    return {
        "documents": sorted((hit["_index"], hit["_id"], hit["_version"], str(hit["_source"])) for hit in hits(found)),
        "indices": {
            name: facts
            for name, facts in server.done("GET", f"/{prefix}-*?expand_wildcards=all").items()
            if name != f"{prefix}-claims"  # where a turn was asked for
        },
        "templates": server.done("GET", f"/_index_template/{prefix}*")["index_templates"],
        "pipelines": server.request("GET", f"/_ingest/pipeline/{prefix}*")[1],
    }


def hits(answer):
    return answer["hits"]["hits"]


async def whole(env, records):
    """Let `verify` be content, as the reader, with at least so many records: it leaves out the last three seconds'."""
    (report,) = await run_json("audit", "verify", "--since", "2020-01-01T00:00:00Z", env=env)
    assert (report["findings"], report["whole"], report["records"] >= records) == ([], True, True)


async def test_each_of_the_other_users_is_refused_in_words_and_leaves_everything_as_it_was(operator, env):
    before = await asyncio.to_thread(everything, operator)
    logins = [operator.login(role) for role in ROLES]
    for command, needed in REFUSED.items():
        ended = await asyncio.gather(*(run(*command, env=acting_as(env, login)) for login in logins))
        for login, (code, out, err) in zip(logins, ended, strict=True):
            assert (code, out) == (1, ""), (command, login.user, err)
            [line] = err.splitlines()
            assert f"no permissions for [{needed}" in line, (command, line)
            assert login.user in line
            assert "see POSTBOTE_OPENSEARCH_USER" in line
    assert await asyncio.to_thread(everything, operator) == before


async def test_the_administrator_migrates_prunes_and_forgets_and_the_audit_stays_whole(operator, env):
    admin = acting_as(env, operator.server.admin)
    migrated = await run_json(*MIGRATE, env=admin)
    assert [(line["month"], line["action"], line["records"]) for line in migrated] == [
        ("2024.02", "got a copy", 20),
        ("2025.11", "got a copy", 20),
    ]
    # Whoever looks up may claim, so it has its turn, and is refused behind that.
    lookup = acting_as(env, operator.login("postbote_lookup"))
    (code, _, err), _ = await asyncio.gather(run(*MIGRATE, env=lookup), whole(env, 40))
    assert (code, "no permissions for [indices:admin/get]" in err) == (1, True), err
    (removed,) = await run_json(*PRUNE, env=admin)
    assert (removed["action"], removed["month"], removed["records"]) == ("removed", "2024.02", 20)
    await whole(env, 20)
    (forgotten,) = await run_json(*FORGET, env=admin)
    assert (forgotten["rewritten"], forgotten["unprovable"], forgotten["contested"]) == (10, 0, 0)
    await whole(env, 20)

    left = await asyncio.to_thread(everything, operator)
    assert not any("ophelia" in source for *_, source in left["documents"])
    assert not any("2024.02" in name for name in left["indices"])
    kept = left["indices"][f"{operator.prefix}-2025.11-v{VERSION}"]
    assert kept["settings"]["index"]["final_pipeline"] == f"{operator.prefix}-create-only"
    assert "blocks" not in kept["settings"]["index"]
    found = [json.loads(line) for line in (await run_well(*DEEDS, env=env)).splitlines()]
    assert [deed["action"] for deed in found] == ["forgotten", "pruned", "migrated", "migrated"]


# By command, the first permission that it misses: nothing was done before.
REFUSED = {MIGRATE: "indices:admin/index_template/", PRUNE: "indices:admin/get", FORGET: "indices:admin/refresh"}
DEEDS = ("audit", "search", "--since", "1d", "--type", "audit.changed", "--json")
