"""Bodies, errors from inside, and headers: every answer of the application is one that tells no secret."""

import json
from typing import Any

import httpx
import pytest
import structlog
from fastapi import APIRouter, Request
from pydantic import BaseModel, SecretStr

from worker.api.bodies import MAX_BODY_BYTES, Body, read_body, read_json
from worker.api.described import takes
from worker.api.server import make_application
from worker.control.errors import InUse, NotFound, NotWorking, PasswordNeeded, Refused, Stale, Taken
from worker.errors import (
    AuditUnavailable,
    BrokerUnavailable,
    PublishRefused,
    SecretKeyMissing,
    SecretUnreadable,
    StoreUnavailable,
)

SECRET = "hunter2-hunter2"


class Inner(Body):
    """A nested one."""

    password: SecretStr
    port: int = 25


class Outer(Body):
    """What the test's endpoint reads."""

    inner: Inner
    tags: tuple[str, ...] = ()


class Shut(BaseModel):
    """Refuses whatever it is given."""

    port: int


class Failing:
    """An application with one endpoint that raises what the test says, and two that read bodies."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.changed = 0
        router = APIRouter()

        @router.get("/fail")
        @router.post("/fail")
        async def fail() -> None:
            if self.error is not None:
                raise self.error

        @router.post("/body")
        async def body(request: Request) -> dict[str, Any]:
            found = await read_body(request, Outer)
            return {"port": found.inner.port, "tags": found.tags}

        @router.post("/json")
        async def plain(request: Request) -> Any:
            return await read_json(request)

        @router.get("/number/{number}")
        async def number(number: int, page: int = 0) -> int:
            return number + page

        application = make_application([router], changed=self._count)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://postbote")

    def _count(self) -> None:
        self.changed += 1


@pytest.fixture
def failing() -> Failing:
    return Failing()


def broken() -> Exception:
    try:
        Shut.model_validate({"port": SECRET})
    except ValueError as error:
        return error
    raise AssertionError


INSIDE = [
    # what is raised, the status, the path at fault, a header and its value
    (Refused("host", "is no host"), 422, "host", None, None),
    (NotFound("secret", "there is none"), 404, "secret", None, None),
    (Taken("display_name", "is taken"), 409, "display_name", None, None),
    (InUse("name", "record 'a' uses it"), 409, "name", None, None),
    (Stale("version", "it was changed", 7), 412, "version", "etag", '"7"'),
    (Stale("version", "it is gone", 0), 412, "version", "etag", None),
    (PasswordNeeded("password", "give it again"), 422, "password", None, None),
    (NotWorking("smtp_config", "store one"), 409, "smtp_config", None, None),
    (broken(), 422, "port", None, None),
    (StoreUnavailable(f"cannot reach {SECRET}"), 503, None, "retry-after", "5"),
    (AuditUnavailable(SECRET), 503, None, "retry-after", "5"),
    (BrokerUnavailable(SECRET), 503, None, "retry-after", "5"),
    (PublishRefused(SECRET), 503, None, "retry-after", "5"),
    (SecretKeyMissing(SECRET), 503, None, "retry-after", None),
    (SecretUnreadable(SECRET), 503, None, "retry-after", None),
    (RuntimeError(SECRET), 500, None, "retry-after", None),
    (KeyError(SECRET), 500, None, "retry-after", None),
]


@pytest.mark.parametrize(
    ("error", "status", "path", "header", "value"), INSIDE, ids=[f"{type(e[0]).__name__} {e[1]}" for e in INSIDE]
)
async def test_what_goes_wrong_inside_is_a_problem_without_a_secret(
    failing: Failing, error, status, path, header, value
) -> None:
    failing.error = error
    with structlog.testing.capture_logs() as logs:
        answer = await failing.client.get("/fail")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()["status"] == status
    assert path is None or [e["path"] for e in answer.json()["errors"]] == [path]
    assert header is None or answer.headers.get(header) == value
    assert SECRET not in answer.text
    assert SECRET not in repr(logs)
    assert bool(logs) is (status == 500)


async def test_what_nobody_expected_is_logged_with_its_place(failing: Failing) -> None:
    failing.error = ZeroDivisionError(SECRET)
    with structlog.testing.capture_logs() as logs:
        await failing.client.get("/fail")
    [line] = logs
    assert (line["method"], line["path"], line["error"]) == ("GET", "/fail", "ZeroDivisionError")
    assert "test_application_answers.py" in line["where"][-1]


@pytest.mark.parametrize("content_type", [None, "application/json", "application/x-www-form-urlencoded", "text/plain"])
async def test_json_is_read_whatever_the_content_type_says(failing: Failing, content_type) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = json.dumps({"inner": {"password": SECRET, "port": 587}, "tags": ["a"]}).encode()
    answer = await failing.client.post("/body", content=body, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"port": 587, "tags": ["a"]})


@pytest.mark.parametrize(
    ("name", "content", "status", "paths"),
    [
        ("nothing", b"", 400, None),
        ("no JSON", b"email=a&password=" + SECRET.encode(), 400, None),
        ("half of it", b'{"inner": {"password": "' + SECRET.encode(), 400, None),
        ("no UTF-8", b'{"inner": {"password": "\xff' + SECRET.encode() + b'"}}', 400, None),
        ("too deep", b"[" * 100_000, 400, None),
        ("a list", f'["{SECRET}"]'.encode(), 422, ["body"]),
        ("no field", b"{}", 422, ["inner"]),
        ("an unknown field", json.dumps({"inner": {"password": SECRET, "prot": 1}}).encode(), 422, ["inner.prot"]),
        ("a wrong type", json.dumps({"inner": {"password": SECRET, "port": SECRET}}).encode(), 422, ["inner.port"]),
        ("a wrong item", json.dumps({"inner": {"password": SECRET}, "tags": ["a", 1]}).encode(), 422, ["tags.1"]),
        ("a secret that is a list", json.dumps({"inner": {"password": [SECRET]}}).encode(), 422, ["inner.password"]),
        ("too large", b'"' + b"x" * MAX_BODY_BYTES + b'"', 413, None),
    ],
)
async def test_a_body_with_a_fault_is_named_and_never_quoted(failing: Failing, name, content, status, paths) -> None:
    answer = await failing.client.post("/body", content=content)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert SECRET not in answer.text
    if paths is not None:
        assert [error["path"] for error in answer.json()["errors"]] == paths


async def test_a_body_that_does_not_say_how_long_it_is_is_bounded_too(failing: Failing) -> None:
    async def endless():
        for _ in range(40):
            yield b"x" * 65536

    answer = await failing.client.post("/json", content=endless())
    assert answer.status_code == 413


async def test_a_body_of_a_hundred_thousand_faults_has_a_short_answer(failing: Failing) -> None:
    body = json.dumps({f"field{n}": 1 for n in range(50_000)})
    answer = await failing.client.post("/body", content=body)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"path": "body", "message": "has 50001 faults, such as fields that nobody knows"}
    ]


async def test_any_json_value_can_be_read_without_a_model(failing: Failing) -> None:
    assert (await failing.client.post("/json", content=b"[1, null]")).json() == [1, None]
    assert (await failing.client.post("/json", content=b"[1,")).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status", "named"),
    [
        ("GET", "/nowhere", 404, None),
        ("DELETE", "/body", 405, None),
        ("GET", f"/number/{SECRET}", 422, "number"),
        ("GET", f"/number/1?page={SECRET}", 422, "page"),
    ],
)
async def test_the_frameworks_own_refusals_are_problems_too(failing: Failing, method, path, status, named) -> None:
    answer = await failing.client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert SECRET not in answer.text
    assert named is None or [e["path"] for e in answer.json()["errors"]] == [named]
    assert status != 405 or answer.headers["allow"] == "POST"


async def test_allow_names_every_method_of_the_path(failing: Failing) -> None:
    answer = await failing.client.put("/fail")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


async def test_a_change_is_told_and_neither_a_question_nor_a_refusal_is(failing: Failing) -> None:
    await failing.client.get("/fail")
    assert failing.changed == 0
    await failing.client.post("/fail")
    assert failing.changed == 1
    failing.error = Refused("a", "b")
    await failing.client.post("/fail")
    assert failing.changed == 1


async def test_the_schema_is_there_and_pages_that_load_scripts_are_not(failing: Failing) -> None:
    assert (await failing.client.get("/openapi.json")).status_code == 200
    assert [(await failing.client.get(path)).status_code for path in ("/docs", "/redoc")] == [404, 404]


def test_a_described_body_stands_on_its_own() -> None:
    schema = takes(Outer)["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["inner"]["properties"]["password"]["format"] == "password"
    assert "$ref" not in json.dumps(schema)
    assert "$defs" not in json.dumps(schema)
