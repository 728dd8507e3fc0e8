"""The one place that speaks to opensearch-py.

Everything the library raises becomes an AuditUnavailable here. A RequestRefused is the kind that
would be refused again word for word; everything else may pass another time.
"""

import asyncio
import contextlib
import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson
from opensearchpy import AsyncOpenSearch
from opensearchpy.exceptions import OpenSearchException, SerializationError, TransportError
from opensearchpy.serializer import JSONSerializer

from worker.audit.health import Health
from worker.errors import AuditNotAllowed, AuditTooSlow, AuditUnavailable

_FIRST_BACKOFF_S = 0.1
# Records go on within a second of its return.
_MAX_BACKOFF_S = 1.0
# A closing link still tries, and cannot afford long pauses within its grace.
_CLOSING_BACKOFF_S = 0.2
_MAX_REASON_CHARS = 300
_REFUSALS = frozenset({400, 404, 405, 409, 413})
# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH
_OTHER_HOST = frozenset({62, 64})
# How it says so where half an answer is not allowed: by `timeout`, and by `cancel_after_time_interval`.
_OUT_OF_TIME = frozenset({"time_exceeded_exception", "task_cancelled_exception"})
_CONNECTIONS = 8


class RequestRefused(AuditUnavailable):
    """OpenSearch understood and will not: the same request would be refused again."""

    def __init__(self, status: int, reason: str) -> None:
        """Keep the HTTP status for whoever can do something else instead."""
        super().__init__(reason)
        self.status = status


class NotAllowed(AuditNotAllowed):
    """OpenSearch does not allow this user what is needed, or blocks it for now (403)."""


class ShardsMissing(AuditUnavailable):
    """Some of what was to be searched has no copy that answers, or has just been removed (see `whole`)."""


@dataclass(frozen=True, slots=True)
class OpenSearchAccess:
    """Where OpenSearch is and who asks. `url` is http(s)://host:port; `ca_file` a PEM file.

    `setting` names what sets the user, for whoever has to mend what OpenSearch refuses it.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    verify: bool = True
    setting: str = "POSTBOTE_OPENSEARCH_USER"


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request; `timeout_s` bounds it from connecting to the last byte of the answer."""

    method: str
    path: str
    body: bytes | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 30.0
    content_type: str = "application/json"


class Transport(Protocol):
    """What is used of opensearch-py: ``AsyncOpenSearch.transport``; tests bring their own."""

    async def perform_request(
        self,
        method: str,
        url: str,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109 # the library's name for it
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the decoded answer, or for HEAD whether there is one."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class _Serializer(JSONSerializer):
    """Reads answers with orjson: of a page of 100 records, 120 KB, the standard library would make a millisecond."""

    def loads(self, s: str) -> Any:
        try:
            return orjson.loads(s)
        except orjson.JSONDecodeError as error:
            raise SerializationError(s, error) from error


def connect(access: OpenSearchAccess) -> Transport:
    """Build the library's client; nothing is connected before the first request.

    Raises AuditUnavailable where the CA file cannot be read.
    """
    client = AsyncOpenSearch(
        hosts=[access.url],
        http_auth=(access.user, access.password) if access.user and access.password else None,
        max_retries=0,  # retries are decided here, where it is known what is waiting
        pool_maxsize=_CONNECTIONS,
        serializer=_Serializer(),
        ssl_context=_tls(access) if access.url.startswith("https:") else None,
    )
    transport: Transport = client.transport
    return transport


def _tls(access: OpenSearchAccess) -> ssl.SSLContext:
    # Built here: the library would read the file at the first request, and raise what nobody expects there.
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
    except OSError as error:  # ssl.SSLError is one, too
        msg = f"the CA file {access.ca_file} of OpenSearch cannot be read: {error.strerror or error}"
        raise AuditUnavailable(msg) from error
    if not access.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def backoff_s(failures: int) -> float:
    """Seconds to wait after so many failures in a row: exponential, 1 s at most, jittered by half."""
    longest = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 # spreads the replicas' retries, nothing secret


class OpenSearchLink:
    """Requests to one OpenSearch, their errors translated.

    `health` is kept by the askers: an answer whose items are all refused is no success.
    """

    def __init__(self, access: OpenSearchAccess, transport: Transport | None = None) -> None:
        """Connect lazily by `access`, or use the `transport` given."""
        self.health = Health()
        self.setting = access.setting
        self._transport = transport or connect(access)
        self._closing = asyncio.Event()

    async def request(self, call: Call) -> Any:
        """Ask once. Raises AuditUnavailable, or RequestRefused where asking again is no use."""
        try:
            return await self._transport.perform_request(
                call.method,
                call.path,
                dict(call.params),
                call.body,
                timeout=call.timeout_s,
                headers={"content-type": call.content_type},
            )
        except OpenSearchException as error:
            raise _translate(error, self.setting) from error

    async def pause(self, seconds: float) -> None:
        """Wait; a link that is closing waits only shortly, and one that begins to close is woken."""
        if self._closing.is_set():
            await asyncio.sleep(min(seconds, _CLOSING_BACKOFF_S))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    def begin_close(self) -> None:
        """From here on pauses are short."""
        self._closing.set()

    async def close(self) -> None:
        """Close the connections; nothing may be asked after it."""
        self.begin_close()
        await self._transport.close()


def _translate(error: OpenSearchException, setting: str) -> AuditUnavailable:
    if not isinstance(error, TransportError):
        return AuditUnavailable(f"OpenSearch gave an answer that cannot be read: {_short(error)}")
    match error.status_code:
        case 401:
            return AuditNotAllowed(f"OpenSearch does not accept the user and password (401): see {setting}")
        case 403:
            return NotAllowed(_forbidden(error, setting))
        case int(status) if status in _REFUSALS:
            return RequestRefused(status, f"OpenSearch refused the request: {_short(error)}")
        case _:
            return _unavailable(error)


def _unavailable(error: TransportError) -> AuditUnavailable:
    if _ran_out_of_time(error):
        return AuditTooSlow("OpenSearch had no whole answer within the time that one question has")
    return (ShardsMissing if _misses_shards(error) else AuditUnavailable)(_unanswered(error))


def _forbidden(error: TransportError, setting: str) -> str:
    match error.info:
        case {"error": {"type": "cluster_block_exception", "reason": str(reason)}}:
            return f"OpenSearch forbids this now: {_short(reason)}"
        case {"error": {"reason": str(reason)}}:
            return f"OpenSearch does not allow this user what is needed: {_short(reason)}: see {setting}"
    return f"OpenSearch does not allow this user what is needed: {_short(error)}: see {setting}"


def _unanswered(error: TransportError) -> str:
    """Why there is no answer; what is wrong with a certificate is said with what would mend it."""
    if isinstance(error.status_code, int):
        return f"OpenSearch answers {error.status_code}: {_short(error)}"
    if error.status_code == "TIMEOUT":
        return "OpenSearch cannot be reached: no answer in time"
    wrong = _certificate_error(error.info)
    if wrong is None:
        return f"OpenSearch cannot be reached: {_short(error.error)}"
    if wrong.verify_code in _OTHER_HOST:
        return f"OpenSearch's certificate is for another host than POSTBOTE_OPENSEARCH_URL: {wrong.verify_message}"
    found = f"OpenSearch's certificate is not trusted: {wrong.verify_message}"
    return f"{found}: POSTBOTE_OPENSEARCH_CA_FILE names the CA that is"


def _certificate_error(error: object) -> ssl.SSLCertVerificationError | None:
    while isinstance(error, BaseException):
        # aiohttp wraps it in one of its own, which is of this class, too, and says nothing of it.
        if isinstance(error, ssl.SSLCertVerificationError) and hasattr(error, "verify_code"):
            return error
        error = error.__cause__ or error.__context__
    return None


def _ran_out_of_time(error: TransportError) -> bool:
    match error.info:
        case {"error": {"root_cause": [*causes]}}:
            return any(isinstance(each, Mapping) and each.get("type") in _OUT_OF_TIME for each in causes)
    return False


def _misses_shards(error: TransportError) -> bool:
    match error.info:
        case {"error": {"type": "search_phase_execution_exception", "root_cause": []}}:
            return True
    return False


def _short(error: object) -> str:
    return " ".join(str(error).split())[:_MAX_REASON_CHARS]
