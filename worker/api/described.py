"""How endpoints that read their bodies by hand stand in the OpenAPI schema: bodies, answers, problems."""

from typing import Any

from pydantic import BaseModel

from worker.api.problem import MEDIA_TYPE

Answers = dict[int | str, dict[str, Any]]
"""FastAPI's ``responses``."""

_TEXT = {"type": "string"}
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "message"],
                "properties": {"path": _TEXT, "message": _TEXT},
            },
        },
    },
}

_MEANINGS = {
    400: "The body is no JSON",
    401: "No valid session or token was presented",
    403: "A viewer, or a page of another site",
    404: "Not there, or out of the asker's reach: no difference is made",
    409: "The name is taken, or something that it needs is missing: the answer names it",
    410: "The cursor has expired: begin again without one",
    412: "It was changed since it was read",
    413: "The body is too large",
    422: "A field breaks a rule: each is named",
    429: "Too many tries: Retry-After says in how many seconds the next one counts",
    503: "Something that is needed is away: nothing was changed",
}
WITH_PRINCIPAL = (401, 403, 503)
"""What any endpoint answers that asks for a principal."""
WITH_BODY = (400, 413, 422)
"""What any endpoint answers that reads a body."""


def problems(*statuses: int) -> Answers:
    """The problem answers of an endpoint, each with what it means there."""
    content = {MEDIA_TYPE: {"schema": _PROBLEM}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in sorted(set(statuses))}


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """The body that an endpoint reads itself; for ``openapi_extra``."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    content = {"application/json": {"schema": _inlined(schema, definitions)}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    # The schema stands inside another document, where its own references would lead nowhere.
    if isinstance(node, list):
        return [_inlined(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if isinstance(reference, str):
        return _inlined(definitions[reference.rpartition("/")[2]], definitions)
    return {name: _inlined(each, definitions) for name, each in node.items()}
