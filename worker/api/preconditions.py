"""Entity tags and conditional changes (RFC 9110 section 13): whoever changes what changed meanwhile is told.

A record's tag is its version in quotes. ``If-Match`` names the version that the asker read, ``If-Match: *``
wants any, ``If-None-Match: *`` wants none to be there.
"""

import re

from fastapi import Request

from worker.control.errors import Stale

_TAG = re.compile(r'(?:W/)?"([^"]*)"')

PARAMETERS = [
    {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
    for name, text in (
        ("If-Match", 'Change only this version: "3", as ETag says it; * for any'),
        ("If-None-Match", "* to make it only where there is none"),
    )
]
"""Both headers, for the schema."""


def tag(version: int) -> dict[str, str]:
    """The header that names a version."""
    return {"ETag": f'"{version}"'}


def expected_version(request: Request, current: int) -> int | None:
    """The version that the change may replace (0: none, None: any), where `current` is the one there is.

    Raises Stale (412) where the request wants another one.
    """
    match, none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if none_match is not None and current and (none_match.strip() == "*" or _names(none_match, current, weak=True)):
        raise Stale("If-None-Match", f"there is one, of version {current}", current)
    if match is not None:
        if not current or (match.strip() != "*" and not _names(match, current, weak=False)):
            found = f"it has version {current} now: read it again" if current else "there is none now"
            raise Stale("If-Match", found, current)
        return current
    return 0 if none_match is not None and none_match.strip() == "*" else None


def _names(header: str, version: int, *, weak: bool) -> bool:
    """Whether the list of tags has the version's; weak ones count only where If-None-Match compares."""
    tags = _TAG.finditer(header)
    return any(found[1] == str(version) and (weak or not found[0].startswith("W/")) for found in tags)
