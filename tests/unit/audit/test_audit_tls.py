"""The connection itself: certificate, credentials, and answers that are not OpenSearch's."""

import base64
import ssl
from contextlib import asynccontextmanager

import pytest
import trustme
from aiohttp import web

from worker.audit.opensearch import OpenSearchAudit
from worker.errors import AuditUnavailable

LOGIN = "Basic " + base64.b64encode(b"worker:s3cret").decode()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def ca_file(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@asynccontextmanager
async def server(handler, authority=None):
    context = None
    if authority:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(context)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "localhost", 0, ssl_context=context)
    await site.start()
    try:
        yield f"http{'s' if authority else ''}://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def auditing(url, **access):
    audit = OpenSearchAudit(url, **access)
    try:
        yield audit
    finally:
        await audit.close(0.0)


async def guarded(request):
    if request.headers.get("authorization") != LOGIN:
        raise web.HTTPUnauthorized
    return web.json_response({"tagline": "The OpenSearch Project"})


async def test_a_certificate_of_the_given_authority_and_the_right_login_are_enough(authority, ca_file):
    login = {"user": "worker", "password": "s3cret"}
    async with server(guarded, authority) as url, auditing(url, ca_file=ca_file, **login) as audit:
        await audit.ready()
        assert audit.missing() is None


async def test_a_certificate_of_an_unknown_authority_is_refused_unless_verification_is_off(authority):
    async with server(guarded, authority) as url:
        async with auditing(url, user="worker", password="s3cret") as audit:
            with pytest.raises(AuditUnavailable, match=r"certificate is not trusted.*POSTBOTE_OPENSEARCH_CA_FILE"):
                await audit.ready()
            assert "certificate is not trusted" in audit.missing()
        async with auditing(url, user="worker", password="s3cret", verify=False) as audit:
            await audit.ready()


async def test_wrong_credentials_are_told_and_not_shown(authority, ca_file):
    login = {"user": "worker", "password": "wr0ng"}
    async with server(guarded, authority) as url, auditing(url, ca_file=ca_file, **login) as audit:
        with pytest.raises(AuditUnavailable, match=r"user and password \(401\)") as caught:
            await audit.ready()
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (web.Response(text="<html>", content_type="text/html"), "cannot be read"),
        (web.Response(text="{", content_type="application/json"), "cannot be read"),
        (web.Response(status=502, text="Bad Gateway"), "answers 502"),
        (web.Response(status=403, text="{}"), "does not allow"),
        (web.Response(status=404, text="{}"), "refused the request"),
        (web.Response(status=302, headers={"location": "/"}), "reached"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.status),
)
async def test_what_is_not_opensearch_is_away(answer, words):
    async def other(_request):
        return web.Response(status=answer.status, text=answer.text, headers=answer.headers)

    async with server(other) as url, auditing(url) as audit:
        with pytest.raises(AuditUnavailable, match=words):
            await audit.ready()
