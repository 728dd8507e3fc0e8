"""The index template of the audit's monthly indices, as data, its installation and its upgrade.

Each version has a name and a priority of its own, and OpenSearch uses the template of highest
priority: replicas of two versions that start together cannot overwrite each other's, and what an
operator changed in an installed template stays. An older replica installs nothing once a newer
version is there. A newer one also teaches the indices that exist its new fields: a template alone
would take effect with the next month. What more an older month needs is `postbote audit migrate`'s
to bring (see `migration`): which version a month has stands in its mapping's `_meta`.
"""

import re
from typing import Any

import orjson
import structlog

from worker.audit.create_only import ensure_pipeline, pipeline_name
from worker.audit.link import Call, NotAllowed, OpenSearchLink, RequestRefused
from worker.errors import AuditUnavailable

log = structlog.get_logger(__name__)

_NOT_FOUND = 404
_MIGRATE_FIRST = (
    "OpenSearch has no index template {name}, and this user may not install it: "
    "run `postbote audit migrate` as one who may ({reason})"
)

# 2: the fields of changes to the control plane (schemas.audit_change); 3: the recipient's domain; 4: the chain, and the
# recipient's keyed hash.
VERSION = 4
VERSION_KEY = "template"
"""Under this key, the version that an index was made by or brought up to stands in its mapping's `_meta`."""
DEAD_LETTER_MONTH = "deadletter"
"""Stands where the month stands in the name of the index that keeps what could not be indexed."""

# Longer than any identifier that an event may carry (256), in characters; what is longer is kept, not indexed.
MAX_INDEXED_CHARS = 1024
_KEYWORD: dict[str, Any] = {"type": "keyword", "ignore_above": MAX_INDEXED_CHARS}
_DATE: dict[str, Any] = {"type": "date"}
_MILLISECONDS: dict[str, Any] = {"type": "float"}


_RECIPIENT: dict[str, Any] = {**_KEYWORD, "normalizer": "lowercased"}
# Found by its domain without a look at every address: what is indexed is what stands behind the last @.
_BY_DOMAIN: dict[str, Any] = {"fields": {"domain": {**_KEYWORD, "normalizer": "domain"}}}
_ANALYSIS: dict[str, Any] = {
    "char_filter": {"local_part": {"type": "pattern_replace", "pattern": "^.*@", "replacement": ""}},
    "normalizer": {
        "lowercased": {"type": "custom", "filter": ["lowercase"]},
        "domain": {"type": "custom", "char_filter": ["local_part"], "filter": ["lowercase"]},
    },
}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"dynamic": False, "properties": properties}


_PROPERTIES: dict[str, Any] = {
    "@timestamp": _DATE,
    "category": _KEYWORD,
    "type": _KEYWORD,
    "outcome": _KEYWORD,
    "reason": {"type": "text", "fields": {"keyword": _KEYWORD}},
    "partner": _KEYWORD,
    "org": _KEYWORD,
    "event_id": _KEYWORD,
    "event_source": _KEYWORD,
    "event_type": _KEYWORD,
    "event_category": _KEYWORD,
    "event_time": _DATE,
    "recipient": _RECIPIENT,
    "attempt": {"type": "integer"},
    "config": _object(
        scope=_KEYWORD,
        name=_KEYWORD,
        version={"type": "integer"},
        fingerprint=_KEYWORD,
        host=_KEYWORD,
        port={"type": "integer"},
    ),
    "tls": _object(version=_KEYWORD, cipher=_KEYWORD, verified={"type": "boolean"}),
    "reply": _object(
        code={"type": "short"},
        enhanced=_KEYWORD,
        text={"type": "text", "fields": {"keyword": _KEYWORD}},
        phase=_KEYWORD,
    ),
    "remote_queue_id": _KEYWORD,
    "message_id": _KEYWORD,
    "possible_duplicate": {"type": "boolean"},
    "timings": _object(
        queued_ms=_MILLISECONDS,
        resolve_ms=_MILLISECONDS,
        render_ms=_MILLISECONDS,
        connect_ms=_MILLISECONDS,
        transaction_ms=_MILLISECONDS,
        total_ms=_MILLISECONDS,
    ),
    "worker_id": _KEYWORD,
    "trace_id": _KEYWORD,
    "next_attempt_at": _DATE,
    "action": _KEYWORD,
    "subject": _KEYWORD,
    "version": {"type": "long"},
    "changed": _KEYWORD,
    "recipient_hash": _KEYWORD,
    "chain": _object(writer=_KEYWORD, seq={"type": "long"}),
    "actor": _object(kind=_KEYWORD, name=_KEYWORD, scope=_KEYWORD, origin=_KEYWORD),
    # The record that could not be indexed, whole: kept and never looked into.
    "dead_letter": {"type": "object", "enabled": False},
}


def mappings() -> dict[str, Any]:
    """The mappings of an index of this version."""
    return {
        "_meta": {VERSION_KEY: VERSION},
        "dynamic": False,
        "properties": {**_PROPERTIES, "recipient": {**_RECIPIENT, **_BY_DOMAIN}},
    }


def template_name(prefix: str = "systemaudit") -> str:
    """The name under which this version is installed."""
    return f"{prefix}-v{VERSION}"


def index_template(prefix: str = "systemaudit", auto_expand_replicas: str = "0-1") -> dict[str, Any]:
    """The body of ``PUT _index_template`` for ``PREFIX-*``.

    Fields that it doesn't name are stored and not indexed, so that no record can grow the mapping.
    `auto_expand_replicas` "0-1" keeps one node green and more nodes safe.
    """
    return {
        "index_patterns": [f"{prefix}-*"],
        # Of two templates that match, the longer prefix is the more particular one.
        "priority": 100 * len(prefix) + VERSION,
        "version": VERSION,
        "template": {
            "settings": {
                "index": {
                    "auto_expand_replicas": auto_expand_replicas,
                    "refresh_interval": "1s",
                    # The default, and said here because the promise rests on it: an answered write is on disk.
                    "translog": {"durability": "request"},
                    "analysis": _ANALYSIS,
                    "final_pipeline": pipeline_name(prefix),
                }
            },
            "mappings": mappings(),
        },
        "_meta": {"description": "Postbote's SYSTEMAUDIT records, one for each recipient and transition, or change"},
    }


async def ensure_template(link: OpenSearchLink, prefix: str) -> None:
    """Install this version's template unless it, or a newer one, is there.

    Safe from any number of replicas at once. Raises AuditUnavailable. A user who may not install it needs
    one that is there already.
    """
    installed = await installed_version(link, prefix)
    if installed >= VERSION:
        return
    try:
        await _install(link, prefix, installed)
    except NotAllowed as error:
        if not installed:
            raise NotAllowed(_MIGRATE_FIRST.format(name=template_name(prefix), reason=error)) from error
        log.warning("the audit's indices are of an older version: run `postbote audit migrate`", version=installed)


async def _install(link: OpenSearchLink, prefix: str, installed: int) -> None:
    if installed:
        await _extend_indices(link, prefix)  # first, so that whoever is interrupted does it again
    await ensure_pipeline(link, prefix)
    body = orjson.dumps(index_template(prefix))
    try:
        await link.request(Call("PUT", f"/_index_template/{template_name(prefix)}", body, {"create": "true"}))
    except RequestRefused as refusal:
        # Another replica was faster, or it was refused in earnest: only its presence tells.
        if await installed_version(link, prefix) < VERSION:
            msg = f"OpenSearch does not take the index template {template_name(prefix)}: {refusal}"
            raise AuditUnavailable(msg) from refusal


async def installed_version(link: OpenSearchLink, prefix: str) -> int:
    """The newest version that is installed; 0 where none is. Raises AuditUnavailable."""
    try:
        answer = await link.request(
            Call("GET", f"/_index_template/{prefix}-v*", params={"filter_path": "index_templates.name"})
        )
    except RequestRefused as refusal:
        if refusal.status != _NOT_FOUND:
            raise
        return 0
    named = re.compile(rf"{re.escape(prefix)}-v(\d{{1,9}})\Z")
    try:
        found = [named.match(template["name"]) for template in answer.get("index_templates", [])]
    except (AttributeError, KeyError, TypeError) as error:
        msg = "OpenSearch's list of index templates cannot be read"
        raise AuditUnavailable(msg) from error
    return max((int(match[1]) for match in found if match), default=0)


async def _extend_indices(link: OpenSearchLink, prefix: str) -> None:
    # Without the domain: its normalizer would have to be in the settings of each index, which only a new one takes.
    body = orjson.dumps({"properties": _PROPERTIES})
    try:
        await link.request(Call("PUT", f"/{prefix}-*/_mapping", body, {"ignore_unavailable": "true"}))
    except RequestRefused as refusal:
        if refusal.status == _NOT_FOUND:  # there is no index yet
            return
        log.warning("new fields of the audit are searchable from the next index on", reason=str(refusal))
